from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from material import run_stage
from speechmill.command import SpeechmillError
from speechmill.status import account
from speechmill.tables import ROWS, read_json, read_table, write_table


def row(name: str, *splits: str, reason: str | None = None) -> dict[str, Any]:
    return {"id": name, "splits": list(splits), "reason": reason, "detail": reason and f"{name} is {reason}"}


# validated repeats train and dev; each clip is stored under the first of train, dev, validated.
STORED = {
    "train": [
        [row("a", "train", "validated"), row("b", "train", reason="missing")],
        [row("c", "train", "validated", reason="unreadable")],
    ],
    "dev": [[row("d", "dev", "validated"), row("e", "dev", "validated")]],
    "validated": [[row("f", "validated"), row("g", "validated", reason="unreadable")], []],
}
SPLITS = list(STORED)


def tables(folder: Path, stored: dict[str, list[list[dict[str, Any]]]] = STORED) -> Iterable[tuple[str, Path]]:
    for split, shards in stored.items():
        for number, rows in enumerate(shards):
            path = folder / split / f"rows-{number:05d}.parquet"
            write_table(rows, ROWS, path)
            yield split, path


def test_a_clip_of_several_splits_counts_in_each(tmp_path: Path) -> None:
    _, status = account("corpus", SPLITS, tables(tmp_path))
    assert status == {
        "dataset": "corpus",
        "available": True,
        "why": None,
        "published": {"train": 3, "dev": 2, "validated": 6},
        "kept": {"train": 1, "dev": 2, "validated": 4},
        "rejected": {"train": 2, "dev": 0, "validated": 2},
        "reasons": {"missing": 1, "unreadable": 2},
    }


def test_kept_and_rejected_are_what_was_published(tmp_path: Path) -> None:
    _, status = account("corpus", SPLITS, tables(tmp_path))
    assert Counter(status["kept"]) + Counter(status["rejected"]) == Counter(status["published"])


def test_rejected_clips_stand_once_each_under_the_split_that_would_store_them(tmp_path: Path) -> None:
    rejected, _ = account("corpus", SPLITS, tables(tmp_path))
    assert rejected == [
        {"id": "b", "split": "train", "reason": "missing", "detail": "b is missing"},
        {"id": "c", "split": "train", "reason": "unreadable", "detail": "c is unreadable"},
        {"id": "g", "split": "validated", "reason": "unreadable", "detail": "g is unreadable"},
    ]


def test_a_split_without_clips_counts_none(tmp_path: Path) -> None:
    _, status = account("corpus", ["train", "other"], tables(tmp_path, {"train": [[row("a", "train")]], "other": [[]]}))
    assert status["published"] == {"train": 1, "other": 0}


@pytest.mark.parametrize("where", ["the same shard", "another shard", "another split"])
def test_two_clips_with_one_id_are_an_error(tmp_path: Path, where: str) -> None:
    one, again = [row("a", "train")], [row("a", "train")]
    stored = {
        "the same shard": {"train": [one + again]},
        "another shard": {"train": [one, again]},
        "another split": {"train": [one], "dev": [again]},
    }[where]
    with pytest.raises(SpeechmillError, match="the dataset corpus has two clips with the id a"):
        account("corpus", SPLITS, tables(tmp_path, stored))


def test_the_program_writes_both_tables(tmp_path: Path) -> None:
    paths = [path for _, path in tables(tmp_path / "corpus")]
    done = run_stage(
        "status", "--dataset", "corpus", "--splits", *SPLITS, "--rows", *paths,
        "--rejected", tmp_path / "rejected.parquet", "--status", tmp_path / "status.json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert read_table(tmp_path / "rejected.parquet")["id"].to_pylist() == ["b", "c", "g"]
    assert read_json(tmp_path / "status.json")["published"]["validated"] == 6
