import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from speechmill.config.datasets import Expected
from speechmill.core.command import SpeechmillError
from speechmill.core.files import read_json, write_json
from speechmill.core.schemas import ROWS
from speechmill.core.tables import read_table, write_table
from speechmill.corpus import status
from speechmill.corpus.status import StatusSettings, count_clips, format_differences, format_rejections


def row(name: str, *splits: str, reason: str | None = None) -> dict[str, Any]:
    return {
        "id": name,
        "splits": list(splits),
        "speaker_id": f"speaker of {name}",
        "sentence": name,
        "num_samples": None if reason else 16_000,
        "missing_seconds": None if reason else 0.0,
        "encoded_bytes": None if reason == "missing" else 100,
        "reason": reason,
        "detail": reason and f"{name} is {reason}",
    }


# The clips of train and dev are also in validated; each clip is stored under the first of train, dev, validated.
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


def source(listed: dict[str, int], **changes: Any) -> dict[str, Any]:
    return {"available": True, "why": None, "published": listed, "about": {"bytes": 7}} | changes


SOURCE = source({"train": 3, "dev": 2, "validated": 6})


def tables(folder: Path, stored: dict[str, list[list[dict[str, Any]]]] = STORED) -> Iterable[tuple[str, Path]]:
    for split, shards in stored.items():
        for number, rows in enumerate(shards):
            path = folder / split / f"rows-{number:05d}.parquet"
            write_table(rows, ROWS, path)
            yield split, path


def test_clip_of_several_splits_counts_in_each(tmp_path: Path) -> None:
    _, counts = count_clips(settings(), SOURCE, tables(tmp_path))
    assert counts == {
        "dataset": "corpus",
        "available": True,
        "why": None,
        "listed": {"train": 3, "dev": 2, "validated": 6},
        "kept": {"train": 1, "dev": 2, "validated": 4},
        "rejected": {"train": 2, "dev": 0, "validated": 2},
        "shortened": {split: {"clips": 0, "missing_seconds": 0.0} for split in SPLITS},
        "reasons": {"missing": 1, "unreadable": 2},
        "rejections": {
            "train": {
                "missing": {"clips": 1, "example": "b is missing"},
                "unreadable": {"clips": 1, "example": "c is unreadable"},
            },
            "validated": {"unreadable": {"clips": 2, "example": "c is unreadable"}},
        },
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


def test_kept_and_rejected_add_up_to_listed(tmp_path: Path) -> None:
    _, counts = count_clips(settings(), SOURCE, tables(tmp_path))
    assert Counter(counts["kept"]) + Counter(counts["rejected"]) == Counter(counts["listed"])


def test_shortened_clips_are_counted_with_what_they_lack(tmp_path: Path) -> None:
    rows = [row("a", "train") | {"missing_seconds": 0.023}, row("b", "train") | {"missing_seconds": 0.045}]
    stored = {"train": [[*rows, row("c", "train")]]}
    _, counts = count_clips(settings("train"), source({"train": 3}), tables(tmp_path, stored))
    assert counts["shortened"] == {"train": {"clips": 2, "missing_seconds": 0.068}}
    assert counts["kept"] == {"train": 3}


def test_rejected_clips_are_listed_once(tmp_path: Path) -> None:
    rejected, _ = count_clips(settings(), SOURCE, tables(tmp_path))
    assert rejected == [
        {"id": "b", "split": "train", "reason": "missing", "detail": "b is missing"},
        {"id": "c", "split": "train", "reason": "unreadable", "detail": "c is unreadable"},
        {"id": "g", "split": "validated", "reason": "unreadable", "detail": "g is unreadable"},
    ]


def test_file_similar_to_a_missing_one_is_the_example(tmp_path: Path) -> None:
    rows = [row("a", "train"), row("b", "train", reason="missing"), row("c", "train", reason="missing")]
    misses = source({"train": 3}, near_misses={"c": "C, which differs in case"})
    rejected, counts = count_clips(settings("train"), misses, tables(tmp_path, {"train": [rows]}))
    assert [each["detail"] for each in rejected] == [
        "b is missing",
        "c is missing; it contains C, which differs in case",
    ]
    assert counts["rejections"] == {
        "train": {"missing": {"clips": 2, "example": "c is missing; it contains C, which differs in case"}}
    }


def test_rejections_are_counted_by_set(tmp_path: Path) -> None:
    rows = [row(f"{i}", "train", reason=None if i % 3 else "missing") for i in range(60)]
    drawn = {"dev": {"of": "train", "share": 0.5}}
    _, counts = count_clips(settings("train", drawn=drawn), source({"train": 60}), tables(tmp_path, {"train": [rows]}))
    lost = {name: reasons["missing"]["clips"] for name, reasons in counts["rejections"].items()}
    assert set(lost) == {"train", "dev"}
    assert sum(lost.values()) == 20


def test_large_share_of_rejected_clips_is_a_warning() -> None:
    status = {
        "dataset": "corpus",
        "sets": {"train": 1000, "dev": 16},
        "rejections": {
            "train": {"missing": {"clips": 10, "example": "b is missing"}},
            "dev": {"truncated": {"clips": 8, "example": "c\x1b[2J\N{RIGHT-TO-LEFT OVERRIDE} is truncated"}},
        },
    }
    assert format_rejections(status) == [
        "corpus-train: 10 of 1,000 clips (1.00%) are rejected as missing, such as b is missing",
        "WARNING: corpus-dev: 8 of 16 clips (50.00%) are rejected as truncated, such as"
        r" c\x1b[2J\u202e is truncated",
    ]


@pytest.mark.parametrize("kept", [[], [row("c", "test")]])
def test_set_of_which_all_clips_are_rejected_is_an_error(tmp_path: Path, kept: list[dict[str, Any]]) -> None:
    rows = [row("a", "train", "dev", reason="missing"), row("b", "train", reason="unreadable"), *kept]
    listed = source({"train": 2, "dev": 1, "test": len(kept)}, near_misses={"a": "A, which differs in case"})
    with pytest.raises(SpeechmillError) as error:
        count_clips(settings("train", "dev", "test"), listed, tables(tmp_path, {"train": [rows]}))
    assert str(error.value).startswith(
        "no clip is left in corpus-dev, corpus-train: 1 of 2 clips (50.00%) are rejected as missing, such as a is"
        " missing; it contains A, which differs in case; 1 of 2 clips (50.00%) are rejected as unreadable, such as b is"
        " unreadable. Correct the corpus"
    )


def test_split_without_clips_counts_none(tmp_path: Path) -> None:
    _, counts = count_clips(
        settings("train", "other"),
        source({"train": 1, "other": 0}),
        tables(tmp_path, {"train": [[row("a", "train")]], "other": [[]]}),
    )
    assert counts["listed"] == {"train": 1, "other": 0}


@pytest.mark.parametrize("where", ["the same shard", "another shard", "another split"])
def test_duplicate_id_is_an_error(tmp_path: Path, where: str) -> None:
    one, again = [row("a", "train")], [row("a", "train")]
    stored = {
        "the same shard": {"train": [one + again]},
        "another shard": {"train": [one, again]},
        "another split": {"train": [one], "dev": [again]},
    }[where]
    with pytest.raises(SpeechmillError, match="the dataset corpus has two clips with the id a"):
        count_clips(settings(), SOURCE, tables(tmp_path, stored))


def test_lost_clip_is_an_error(tmp_path: Path) -> None:
    expected = SOURCE | {"published": {"train": 4, "dev": 2, "validated": 6}}
    with pytest.raises(SpeechmillError, match="lists 4 clips in train, but 1 are kept and 2 rejected"):
        count_clips(settings(), expected, tables(tmp_path))


def test_drawn_split_takes_clips_from_its_source(tmp_path: Path) -> None:
    rows = [row(f"{i}", "train", reason=None if i % 3 else "missing") for i in range(60)]
    drawn = {"dev": {"of": "train", "share": 0.5}}
    _, counts = count_clips(settings("train", drawn=drawn), source({"train": 60}), tables(tmp_path, {"train": [rows]}))
    assert counts["listed"] == {"train": 60}
    assert counts["sets"]["train"] + counts["sets"]["dev"] == 60
    assert 10 < counts["sets"]["dev"] < 50
    assert sum(each["kept"] for each in counts["memberships"]) == counts["kept"]["train"] == 40


def test_empty_drawn_split_is_an_error(tmp_path: Path) -> None:
    drawn = {"dev": {"of": "train", "share": 1e-9}}
    with pytest.raises(SpeechmillError, match=r"datasets\.corpus\.drawn\.dev draws no clips; raise its `share`"):
        count_clips(
            settings("train", drawn=drawn),
            source({"train": 1}),
            tables(tmp_path, {"train": [[row("a", "train")]]}),
        )


def test_differences_from_expected_numbers_are_listed() -> None:
    expected = {"train": Expected(clips=21712, hours=31.5, bytes=1000), "dev": Expected(clips=9415)}
    found = {
        "train": {"clips": 21712, "hours": 31.9, "bytes": 1100},
        "dev": {"clips": 9414, "hours": 0.5, "bytes": 5},
    }
    assert format_differences(expected, found) == ["dev has 9,414 clips, but 9,415 were expected"]
    found["train"] |= {"hours": 25.0, "bytes": 2000}
    assert format_differences(expected, found)[:2] == [
        "train has 25.00 hours, but 31.5 were expected",
        "train has 2,000 bytes, but 1,000 were expected",
    ]


def test_unavailable_dataset_has_no_differences(tmp_path: Path) -> None:
    unavailable = source({"train": 0}, available=False, why="the Hub says no")
    expected = {"train": {"clips": 7}}
    _, counts = count_clips(
        settings("train", expected=expected, drawn={"dev": {"of": "train", "share": 0.1}}),
        unavailable,
        tables(tmp_path, {"train": [[]]}),
    )
    assert (counts["available"], counts["why"], counts["differences"]) == (False, "the Hub says no", [])


def test_program_writes_and_prints_rejected_clips(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [path for _, path in tables(tmp_path / "corpus")]
    write_json(SOURCE, tmp_path / "raw" / "source.json")
    arguments = [
        "--settings", settings().model_dump_json(), "--raw", tmp_path / "raw", "--rows", *paths,
        "--rejected", tmp_path / "rejected.parquet", "--status", tmp_path / "status.json",
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["status", *map(str, arguments)])
    status.main()
    assert read_table(tmp_path / "rejected.parquet")["id"].to_pylist() == ["b", "c", "g"]
    assert read_json(tmp_path / "status.json")["listed"]["validated"] == 6
    assert capsys.readouterr().out.splitlines() == [
        "WARNING: corpus-train: 1 of 3 clips (33.33%) are rejected as missing, such as b is missing",
        "WARNING: corpus-train: 1 of 3 clips (33.33%) are rejected as unreadable, such as c is unreadable",
        "WARNING: corpus-validated: 2 of 6 clips (33.33%) are rejected as unreadable, such as c is unreadable",
        f"all 3 rejected clips are listed in {tmp_path}/rejected.parquet",
    ]


def cut_rows(*scores: float) -> list[dict[str, Any]]:
    return [row(f"p{i}", "train", reason="score" if score < -1 else None) for i, score in enumerate(scores)]


def test_many_low_scores_are_no_fault_of_the_corpus(tmp_path: Path) -> None:
    stored = {"train": [cut_rows(-0.5, -0.5, -2)]}
    _, found = count_clips(settings("train"), source({"train": 3}), tables(tmp_path, stored))
    assert format_rejections(found) == [
        "corpus-train: 1 of 3 clips (33.33%) are rejected as score, such as p2 is score"
    ]


def test_error_of_a_split_with_low_scores_alone_names_the_threshold(tmp_path: Path) -> None:
    with pytest.raises(SpeechmillError, match=r"no clip is left in corpus-train: .*min_confidence, and run") as caught:
        count_clips(settings("train"), source({"train": 2}), tables(tmp_path, {"train": [cut_rows(-2, -3)]}))
    assert "Correct the corpus" not in str(caught.value)
