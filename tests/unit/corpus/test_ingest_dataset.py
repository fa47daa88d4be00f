import json
from pathlib import Path
from typing import Any

import pytest

from material import RELEASE, as_json, tar, tsv
from speechmill.config.datasets import Download, IngestSettings
from speechmill.core.command import SpeechmillError, run_command
from speechmill.core.files import file_digest, read_json
from speechmill.core.tables import read_table
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
    """Clips 0 to 6 in train, 7 and 8 in dev, all but 5 in validated; clip 5 has no file."""
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


def test_clips_are_distributed_to_shards_in_turn(tmp_path: Path, archive: Path) -> None:
    ingest(SourceLocation(path=archive), settings(train=3, dev=1), "unchanged", tmp_path / "raw")
    assert shard_ids(tmp_path / "raw", "train") == [
        ["00.mp3", "03.mp3", "06.mp3"],
        ["01.mp3", "04.mp3"],
        ["02.mp3", "05.mp3"],
    ]
    assert shard_ids(tmp_path / "raw", "dev") == [["07.mp3", "08.mp3"]]


def test_more_shards_than_clips_leave_some_empty(tmp_path: Path, archive: Path) -> None:
    ingest(SourceLocation(path=archive), settings(dev=3), "unchanged", tmp_path / "raw")
    assert shard_ids(tmp_path / "raw", "dev") == [["07.mp3"], ["08.mp3"], []]


def test_a_split_contained_in_others_has_empty_shards(tmp_path: Path, archive: Path) -> None:
    ingest(SourceLocation(path=archive), settings(validated=1, dev=1), "unchanged", tmp_path / "raw")
    assert shard_ids(tmp_path / "raw", "dev") == [[]]


def test_a_clip_keeps_its_bytes_and_columns(tmp_path: Path, archive: Path) -> None:
    ingest(SourceLocation(path=archive), settings(train=1, validated=1), "unchanged", tmp_path / "raw")
    first = read_table(tmp_path / "raw" / "train" / "shard-00000.parquet").to_pylist()[0]
    assert first == {
        "id": "00.mp3",
        "splits": ["train", "validated"],
        "file": "00.mp3",
        "encoded": b"clip 0",
        "encoded_file": None,
        "encoded_file_sha256": None,
        "sentence": "предложение 0",
        "speaker_id": "s0",
        "gender": None,
        "age": None,
        "accent": None,
        "reason": None,
        "detail": None,
    }


def test_a_listed_clip_without_a_file_is_kept(tmp_path: Path, archive: Path) -> None:
    ingest(SourceLocation(path=archive), settings(train=1), "unchanged", tmp_path / "raw")
    rows = read_table(tmp_path / "raw" / "train" / "shard-00000.parquet").to_pylist()
    assert [row["id"] for row in rows if row["encoded"] is None] == ["05.mp3"]
    assert len(rows) == 7


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_corpus_gives_the_same_bytes(tmp_path: Path, archive: Path) -> None:
    for name in ("one", "other"):
        ingest(SourceLocation(path=archive), settings(train=2, dev=1, validated=2), "unchanged", tmp_path / name)
    assert contents(tmp_path / "one") == contents(tmp_path / "other")
    assert len(contents(tmp_path / "one")) == 6


def test_the_source_is_recorded(tmp_path: Path, archive: Path) -> None:
    ingest(SourceLocation(path=archive), settings(train=1), "unchanged", tmp_path / "raw")
    assert read_json(tmp_path / "raw" / "source.json") == {
        "fingerprint": "unchanged",
        "available": True,
        "why": None,
        "published": {"train": 7},
        "about": {"bytes": archive.stat().st_size, "sha256": file_digest(archive)},
    }


def test_a_clip_of_several_splits_counts_in_each(tmp_path: Path, archive: Path) -> None:
    ingest(SourceLocation(path=archive), settings(train=1, validated=2), "unchanged", tmp_path / "raw")
    assert read_json(tmp_path / "raw" / "source.json")["published"] == {"train": 7, "validated": 8}


def test_a_missing_optional_corpus_gives_empty_shards(tmp_path: Path) -> None:
    optional = settings(train=2).model_copy(update={"optional": True})
    ingest(SourceLocation(path=tmp_path / "lost.tar.gz"), optional, "absent", tmp_path / "raw")
    assert shard_ids(tmp_path / "raw", "train") == [[], []]
    source = read_json(tmp_path / "raw" / "source.json")
    assert (source["available"], source["published"]) == (False, {"train": 0})
    assert source["why"].endswith("once it is available, delete results/raw/raw and run snakemake again")


def test_a_corrupt_optional_corpus_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "corpus.tar.gz").write_bytes(b"no archive")
    optional = settings(train=2).model_copy(update={"optional": True})
    with pytest.raises(SpeechmillError, match="not an archive"):
        ingest(SourceLocation(path=tmp_path / "corpus.tar.gz"), optional, "unchanged", tmp_path / "raw")
    assert {path.name for path in tmp_path.iterdir()} == {"corpus.tar.gz"}


def test_a_missing_archive_is_downloaded_to_its_path(
    tmp_path: Path, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(settings: Download, path: Path) -> None:
        path.write_bytes(archive.read_bytes())

    monkeypatch.setattr(ingest_dataset, "download", download)
    urls = ["https://example.org/corpus.tar.gz"]
    location = SourceLocation(path=tmp_path / "here.tar.gz", download=Download(urls=urls))
    ingest(location, settings(train=1), "downloaded", tmp_path / "raw")
    assert read_json(tmp_path / "raw" / "source.json")["published"] == {"train": 7}


def test_an_earlier_output_is_replaced(tmp_path: Path, archive: Path) -> None:
    ingest(SourceLocation(path=archive), settings(train=3), "unchanged", tmp_path / "raw")
    ingest(SourceLocation(path=archive), settings(train=1), "unchanged", tmp_path / "raw")
    assert set(contents(tmp_path / "raw")) == {"train/shard-00000.parquet", "source.json"}
    assert {path.name for path in tmp_path.iterdir()} == {"raw", "corpus.tar.gz"}


def test_a_failed_ingest_leaves_no_output(tmp_path: Path, archive: Path) -> None:
    with pytest.raises(SpeechmillError):
        ingest(SourceLocation(path=archive), settings(train=1, lost=1), "unchanged", tmp_path / "raw")
    assert not (tmp_path / "raw").exists()


def test_a_folder_of_recordings_is_ingested(tmp_path: Path) -> None:
    for name in ("train/one.wav", "dev/two.wav"):
        (tmp_path / "corpus" / name).parent.mkdir(parents=True)
        (tmp_path / "corpus" / name).write_bytes(name.encode())
    ingest(SourceLocation(path=tmp_path / "corpus"), settings("folder", train=1, dev=1), "unchanged", tmp_path / "raw")
    (row,) = read_table(tmp_path / "raw" / "dev" / "shard-00000.parquet").to_pylist()
    assert (row["id"], row["sentence"], row["encoded"]) == ("dev/two.wav", "two", b"dev/two.wav")


def test_a_path_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpeechmillError, match=r"lost\.tar\.gz does not exist; set the dataset's `path` to the corpus"):
        ingest(SourceLocation(path=tmp_path / "lost.tar.gz"), settings(train=1), "absent", tmp_path / "raw")
    assert list(tmp_path.iterdir()) == []


def test_an_archive_that_no_longer_matches_is_an_error(tmp_path: Path, archive: Path) -> None:
    archive.with_name(f"{archive.name}.json").write_text(json.dumps({"bytes": archive.stat().st_size, "sha256": "0"}))
    changed = Download(urls=["https://example.org/corpus.tar.gz"], sha256="1" * 64)
    with pytest.raises(SpeechmillError, match="was downloaded and no longer matches `download`; delete it"):
        ingest(SourceLocation(path=archive, download=changed), settings(train=1), "downloaded", tmp_path / "raw")


def test_an_error_of_the_program_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    location = as_json({"path": str(tmp_path / "lost.tar.gz")})
    arguments = ["--settings", as_json(settings(train=1).model_dump()), "--location", location]
    arguments += ["--fingerprint", "absent", "--raw", str(tmp_path / "raw")]
    monkeypatch.setattr("sys.argv", ["ingest_dataset", *arguments])
    with pytest.raises(SystemExit) as exit_:
        run_command(ingest_dataset.main)
    assert exit_.value.code == 1
    message = capfd.readouterr().err
    assert message.count("\n") == 1
    assert message.startswith(f"error: {tmp_path}/lost.tar.gz does not exist")


def test_a_staged_copy_replaces_the_location(tmp_path: Path, archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    location = as_json({"path": str(tmp_path / "lost.tar.gz")})
    arguments = ["--settings", as_json(settings(train=1).model_dump()), "--location", location]
    arguments += ["--staged", str(archive), "--fingerprint", "staged", "--raw", str(tmp_path / "raw")]
    monkeypatch.setattr("sys.argv", ["ingest_dataset", *arguments])
    ingest_dataset.main()
    assert read_json(tmp_path / "raw" / "source.json")["published"] == {"train": 7}
