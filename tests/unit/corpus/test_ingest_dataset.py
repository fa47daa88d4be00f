from pathlib import Path
from typing import Any

import pytest

from material import RELEASE, as_json, run_stage, tar, tsv
from speechmill.config.datasets import Download, IngestSettings
from speechmill.core.command import SpeechmillError
from speechmill.core.tables import file_digest, read_json, read_table
from speechmill.corpus import ingest_dataset
from speechmill.corpus.ingest_dataset import SourceLocation, ingest

TOP = f"{RELEASE}/ru"


def settings(source: str = "common_voice", **shards: int) -> IngestSettings:
    about: dict[str, Any] = {"source": source, "path": "", "language": "ru"}
    if source == "folder":
        about["pattern"] = "{split}/{sentence}.wav"
    return IngestSettings.model_validate({"source": about, "splits": list(shards), "shards": shards})


def row(i: int) -> dict[str, str]:
    return {"client_id": f"s{i % 3}", "path": f"{i:02d}.mp3", "sentence": f"предложение {i}"}


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Clips 0 to 6 in train, 7 and 8 in dev, all but 5 in validated, and 5 only listed."""
    tables = {
        "train": [row(i) for i in range(7)],
        "dev": [row(7), row(8)],
        "validated": [row(i) for i in range(9) if i != 5],
    }
    return tar(
        tmp_path / "corpus.tar.gz",
        [(f"{TOP}/{split}.tsv", tsv(rows)) for split, rows in tables.items()]
        + [(f"{TOP}/clips/{i:02d}.mp3", b"clip %d" % i) for i in range(9) if i != 5],
    )


def shard_ids(raw: Path, split: str) -> list[list[str]]:
    return [read_table(path)["id"].to_pylist() for path in sorted((raw / split).iterdir())]


def test_clips_are_dealt_out_to_the_shards_in_turn(tmp_path: Path, archive: Path) -> None:
    ingest(SourceLocation(path=archive), settings(train=3, dev=1), "as it was", tmp_path / "raw")
    assert shard_ids(tmp_path / "raw", "train") == [
        ["00.mp3", "03.mp3", "06.mp3"],
        ["01.mp3", "04.mp3"],
        ["02.mp3", "05.mp3"],
    ]
    assert shard_ids(tmp_path / "raw", "dev") == [["07.mp3", "08.mp3"]]


def test_more_shards_than_clips_leave_some_empty(tmp_path: Path, archive: Path) -> None:
    ingest(SourceLocation(path=archive), settings(dev=3), "as it was", tmp_path / "raw")
    assert shard_ids(tmp_path / "raw", "dev") == [["07.mp3"], ["08.mp3"], []]


def test_a_split_whose_clips_are_all_in_earlier_splits_has_empty_shards(tmp_path: Path, archive: Path) -> None:
    ingest(SourceLocation(path=archive), settings(validated=1, dev=1), "as it was", tmp_path / "raw")
    assert shard_ids(tmp_path / "raw", "dev") == [[]]


def test_a_clip_keeps_its_bytes_and_all_that_was_published_about_it(tmp_path: Path, archive: Path) -> None:
    ingest(SourceLocation(path=archive), settings(train=1, validated=1), "as it was", tmp_path / "raw")
    first = read_table(tmp_path / "raw" / "train" / "shard-00000.parquet").to_pylist()[0]
    assert first == {
        "id": "00.mp3",
        "splits": ["train", "validated"],
        "file": "00.mp3",
        "encoded": b"clip 0",
        "sentence": "предложение 0",
        "speaker_id": "s0",
        "gender": None,
        "age": None,
        "accent": None,
    }


def test_a_listed_clip_without_a_file_is_kept_in_the_count(tmp_path: Path, archive: Path) -> None:
    ingest(SourceLocation(path=archive), settings(train=1), "as it was", tmp_path / "raw")
    rows = read_table(tmp_path / "raw" / "train" / "shard-00000.parquet").to_pylist()
    assert [row["id"] for row in rows if row["encoded"] is None] == ["05.mp3"]
    assert len(rows) == 7


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_corpus_gives_the_same_bytes(tmp_path: Path, archive: Path) -> None:
    for name in ("one", "other"):
        ingest(SourceLocation(path=archive), settings(train=2, dev=1, validated=2), "as it was", tmp_path / name)
    assert contents(tmp_path / "one") == contents(tmp_path / "other")
    assert len(contents(tmp_path / "one")) == 6


def test_what_the_source_was_is_recorded(tmp_path: Path, archive: Path) -> None:
    ingest(SourceLocation(path=archive), settings(train=1), "as it was", tmp_path / "raw")
    assert read_json(tmp_path / "raw" / "source.json") == {
        "fingerprint": "as it was",
        "available": True,
        "why": None,
        "listed": {"train": 7},
        "about": {"bytes": archive.stat().st_size, "sha256": file_digest(archive)},
    }


def test_a_clip_of_several_splits_is_published_in_each(tmp_path: Path, archive: Path) -> None:
    ingest(SourceLocation(path=archive), settings(train=1, validated=2), "as it was", tmp_path / "raw")
    assert read_json(tmp_path / "raw" / "source.json")["listed"] == {"train": 7, "validated": 8}


def test_an_optional_corpus_that_is_not_there_leaves_empty_shards_and_says_why(tmp_path: Path) -> None:
    optional = settings(train=2).model_copy(update={"optional": True})
    ingest(SourceLocation(path=tmp_path / "lost.tar.gz"), optional, "absent", tmp_path / "raw")
    assert shard_ids(tmp_path / "raw", "train") == [[], []]
    source = read_json(tmp_path / "raw" / "source.json")
    assert (source["available"], source["listed"]) == (False, {"train": 0})
    assert source["why"].endswith("once it can be had, delete results/raw/raw and run snakemake again")


def test_an_optional_corpus_that_is_there_and_broken_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "corpus.tar.gz").write_bytes(b"no archive")
    optional = settings(train=2).model_copy(update={"optional": True})
    with pytest.raises(SpeechmillError, match="not an archive"):
        ingest(SourceLocation(path=tmp_path / "corpus.tar.gz"), optional, "as it was", tmp_path / "raw")
    assert {path.name for path in tmp_path.iterdir()} == {"corpus.tar.gz"}


def test_an_archive_is_fetched_to_its_path_where_it_is_not_there(
    tmp_path: Path, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetched(settings: Download, path: Path) -> None:
        path.write_bytes(archive.read_bytes())

    monkeypatch.setattr(ingest_dataset, "download", fetched)
    place = SourceLocation(path=tmp_path / "here.tar.gz", download=Download(urls=["https://example.org/corpus.tar.gz"]))
    ingest(place, settings(train=1), "fetched", tmp_path / "raw")
    assert read_json(tmp_path / "raw" / "source.json")["listed"] == {"train": 7}


def test_an_earlier_folder_is_replaced_as_a_whole(tmp_path: Path, archive: Path) -> None:
    ingest(SourceLocation(path=archive), settings(train=3), "as it was", tmp_path / "raw")
    ingest(SourceLocation(path=archive), settings(train=1), "as it was", tmp_path / "raw")
    assert set(contents(tmp_path / "raw")) == {"train/shard-00000.parquet", "source.json"}
    assert {path.name for path in tmp_path.iterdir()} == {"raw", "corpus.tar.gz"}


def test_a_corpus_that_fails_leaves_nothing_that_looks_whole(tmp_path: Path, archive: Path) -> None:
    with pytest.raises(SpeechmillError):
        ingest(SourceLocation(path=archive), settings(train=1, lost=1), "as it was", tmp_path / "raw")
    assert not (tmp_path / "raw").exists()


def test_a_folder_of_recordings_is_taken_too(tmp_path: Path) -> None:
    for name in ("train/one.wav", "dev/two.wav"):
        (tmp_path / "corpus" / name).parent.mkdir(parents=True)
        (tmp_path / "corpus" / name).write_bytes(name.encode())
    ingest(SourceLocation(path=tmp_path / "corpus"), settings("folder", train=1, dev=1), "as it was", tmp_path / "raw")
    (row,) = read_table(tmp_path / "raw" / "dev" / "shard-00000.parquet").to_pylist()
    assert (row["id"], row["sentence"], row["encoded"]) == ("dev/two.wav", "two", b"dev/two.wav")


def test_a_path_with_nothing_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpeechmillError, match=r"lost\.tar\.gz: there is nothing here; the dataset's `path` must say"):
        ingest(SourceLocation(path=tmp_path / "lost.tar.gz"), settings(train=1), "absent", tmp_path / "raw")
    assert list(tmp_path.iterdir()) == []


def test_the_program_says_its_error_in_one_line_and_fails(tmp_path: Path) -> None:
    done = run_stage(
        "corpus.ingest_dataset", "--settings", as_json(settings(train=1).model_dump()),
        "--location", as_json({"path": str(tmp_path / "lost.tar.gz")}),
        "--fingerprint", "absent", "--raw", tmp_path / "raw",
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"error: {tmp_path}/lost.tar.gz: there is nothing here")
