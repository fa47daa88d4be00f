from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from material import run_stage
from speechmill.config.datasets import Expected
from speechmill.core.command import SpeechmillError
from speechmill.core.tables import ROWS, read_json, read_table, write_json, write_table
from speechmill.corpus.status import StatusSettings, account, differences


def row(name: str, *splits: str, reason: str | None = None) -> dict[str, Any]:
    return {
        "id": name,
        "splits": list(splits),
        "speaker_id": f"speaker of {name}",
        "sentence": name,
        "num_samples": None if reason else 16_000,
        "encoded_bytes": None if reason == "missing" else 100,
        "reason": reason,
        "detail": reason and f"{name} is {reason}",
    }


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


def settings(*splits: str, **changes: Any) -> StatusSettings:
    given = {"dataset": "corpus", "splits": splits or SPLITS, "drawn": {}, "expected": {}}
    return StatusSettings.model_validate(given | changes)


def source(published: dict[str, int], **changes: Any) -> dict[str, Any]:
    return {"available": True, "why": None, "listed": published, "about": {"bytes": 7}} | changes


SOURCE = source({"train": 3, "dev": 2, "validated": 6})


def tables(folder: Path, stored: dict[str, list[list[dict[str, Any]]]] = STORED) -> Iterable[tuple[str, Path]]:
    for split, shards in stored.items():
        for number, rows in enumerate(shards):
            path = folder / split / f"rows-{number:05d}.parquet"
            write_table(rows, ROWS, path)
            yield split, path


def test_a_clip_of_several_splits_counts_in_each(tmp_path: Path) -> None:
    _, status = account(settings(), SOURCE, tables(tmp_path))
    assert status == {
        "dataset": "corpus",
        "available": True,
        "why": None,
        "listed": {"train": 3, "dev": 2, "validated": 6},
        "kept": {"train": 1, "dev": 2, "validated": 4},
        "rejected": {"train": 2, "dev": 0, "validated": 2},
        "reasons": {"missing": 1, "unreadable": 2},
        "sets": {"train": 3, "dev": 2, "validated": 6},
        "memberships": [
            {"splits": ["dev", "validated"], "kept": 2},
            {"splits": ["train", "validated"], "kept": 1},
            {"splits": ["validated"], "kept": 1},
        ],
        "found": {
            "train": {"clips": 3, "hours": 1 / 3600, "bytes": 200},
            "dev": {"clips": 2, "hours": 2 / 3600, "bytes": 200},
            "validated": {"clips": 6, "hours": 4 / 3600, "bytes": 600},
        },
        "differences": [],
        "about": {"bytes": 7},
    }


def test_kept_and_rejected_are_what_was_published(tmp_path: Path) -> None:
    _, status = account(settings(), SOURCE, tables(tmp_path))
    assert Counter(status["kept"]) + Counter(status["rejected"]) == Counter(status["listed"])


def test_rejected_clips_stand_once_each_under_the_split_that_would_store_them(tmp_path: Path) -> None:
    rejected, _ = account(settings(), SOURCE, tables(tmp_path))
    assert rejected == [
        {"id": "b", "split": "train", "reason": "missing", "detail": "b is missing"},
        {"id": "c", "split": "train", "reason": "unreadable", "detail": "c is unreadable"},
        {"id": "g", "split": "validated", "reason": "unreadable", "detail": "g is unreadable"},
    ]


def test_a_split_without_clips_counts_none(tmp_path: Path) -> None:
    _, status = account(
        settings("train", "other"),
        source({"train": 1, "other": 0}),
        tables(tmp_path, {"train": [[row("a", "train")]], "other": [[]]}),
    )
    assert status["listed"] == {"train": 1, "other": 0}


@pytest.mark.parametrize("where", ["the same shard", "another shard", "another split"])
def test_two_clips_with_one_id_are_an_error(tmp_path: Path, where: str) -> None:
    one, again = [row("a", "train")], [row("a", "train")]
    stored = {
        "the same shard": {"train": [one + again]},
        "another shard": {"train": [one, again]},
        "another split": {"train": [one], "dev": [again]},
    }[where]
    with pytest.raises(SpeechmillError, match="the dataset corpus has two clips with the id a"):
        account(settings(), SOURCE, tables(tmp_path, stored))


def test_a_clip_that_got_lost_on_the_way_stops_the_run(tmp_path: Path) -> None:
    published = SOURCE | {"listed": {"train": 4, "dev": 2, "validated": 6}}
    with pytest.raises(SpeechmillError, match="publishes 4 clips in train, but 1 are kept and 2 rejected"):
        account(settings(), published, tables(tmp_path))


def test_a_drawn_split_counts_what_was_published_and_takes_it_from_the_others(tmp_path: Path) -> None:
    rows = [row(f"{i}", "train", reason=None if i % 3 else "missing") for i in range(60)]
    drawn = {"dev": {"of": "train", "share": 0.5}}
    _, status = account(settings("train", drawn=drawn), source({"train": 60}), tables(tmp_path, {"train": [rows]}))
    assert status["listed"] == {"train": 60}
    assert status["sets"]["train"] + status["sets"]["dev"] == 60
    assert 10 < status["sets"]["dev"] < 50
    assert sum(each["kept"] for each in status["memberships"]) == status["kept"]["train"] == 40


def test_a_draw_that_draws_nothing_is_an_error(tmp_path: Path) -> None:
    drawn = {"dev": {"of": "train", "share": 1e-9}}
    with pytest.raises(SpeechmillError, match=r"datasets\.corpus\.drawn\.dev draws no clip at all; raise its `share`"):
        account(
            settings("train", drawn=drawn),
            source({"train": 1}),
            tables(tmp_path, {"train": [[row("a", "train")]]}),
        )


def test_what_differs_from_what_was_expected_is_said() -> None:
    expected = {"train": Expected(clips=21712, hours=31.5, bytes=1000), "dev": Expected(clips=9415)}
    found = {
        "train": {"clips": 21712, "hours": 31.9, "bytes": 1100},
        "dev": {"clips": 9414, "hours": 0.5, "bytes": 5},
    }
    assert differences(expected, found) == ["dev has 9,414 clips, expected were 9,415"]
    found["train"] |= {"hours": 25.0, "bytes": 2000}
    assert differences(expected, found)[:2] == [
        "train has 25.00 hours, expected were 31.5",
        "train has 2,000 bytes, expected were 1,000",
    ]


def test_a_dataset_that_could_not_be_had_says_why_and_expects_nothing(tmp_path: Path) -> None:
    nothing = source({"train": 0}, available=False, why="the Hub says no")
    expected = {"train": {"clips": 7}}
    _, status = account(
        settings("train", expected=expected, drawn={"dev": {"of": "train", "share": 0.1}}),
        nothing,
        tables(tmp_path, {"train": [[]]}),
    )
    assert (status["available"], status["why"], status["differences"]) == (False, "the Hub says no", [])


def test_the_program_writes_both_tables(tmp_path: Path) -> None:
    paths = [path for _, path in tables(tmp_path / "corpus")]
    write_json(SOURCE, tmp_path / "raw" / "source.json")
    done = run_stage(
        "corpus.status", "--settings", settings().model_dump_json(), "--raw", tmp_path / "raw", "--rows", *paths,
        "--rejected", tmp_path / "rejected.parquet", "--status", tmp_path / "status.json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert read_table(tmp_path / "rejected.parquet")["id"].to_pylist() == ["b", "c", "g"]
    assert read_json(tmp_path / "status.json")["listed"]["validated"] == 6
