import json
from pathlib import Path
from typing import Any

import pytest
from pympi.Elan import Eaf

from material import RELEASE, as_json, audio_file, noise, tar, tsv
from speechmill.config.datasets import Download, IngestSettings
from speechmill.core.command import SpeechmillError, run_command
from speechmill.core.files import file_digest, read_json
from speechmill.core.tables import read_table
from speechmill.corpus import ingest_dataset
from speechmill.corpus.audio import decode
from speechmill.corpus.encoded import Encoded
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
        "recording": None,
        "score": None,
        "channel": None,
        "start": None,
        "end": None,
        "reason": None,
        "detail": None,
    }


def test_a_listed_clip_without_a_file_is_kept(tmp_path: Path, archive: Path) -> None:
    ingest(SourceLocation(path=archive), settings(train=1), "unchanged", tmp_path / "raw")
    rows = read_table(tmp_path / "raw" / "train" / "shard-00000.parquet").to_pylist()
    assert [row["id"] for row in rows if row["encoded"] is None] == ["05.mp3"]
    assert len(rows) == 7


@pytest.mark.parametrize("source", ["common_voice", "folder", "kaldi", "zeroth"])
def test_a_file_similar_to_a_missing_one_is_recorded(tmp_path: Path, source: str) -> None:
    corpus: dict[str, dict[str, bytes]] = {
        "common_voice": {"ru/train.tsv": tsv([row(1) | {"path": "01.MP3"}]), "ru/clips/01.mp3": b"clip"},
        "folder": {"train.csv": b"path,sentence\na\\01.wav,one\n", "a/01.wav": b"clip"},
        "kaldi": {"wav.scp": b"r A/01.wav\n", "text": b"u one\n", "segments": b"u r 0 1\n", "a/01.wav": b"clip"},
        "zeroth": {"train_data_01/003/106/106_003.trans.txt": b"1_A one\n", "train_data_01/003/106/1_a.flac": b"clip"},
    }[source]
    for name, content in corpus.items():
        (tmp_path / "corpus" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "corpus" / name).write_bytes(content)
    about: dict[str, Any] = {"source": source, "path": "", "language": "ru"}
    if source == "folder":
        about |= {"manifest": "{split}.csv"}
    if source == "kaldi":
        about |= {"source": "folder", "manifest": ".", "split": {"field": "id", "values": {}, "default": "train"}}
    asked = IngestSettings.model_validate({"source": about, "splits": ["train"], "shards": {"train": 1}})
    ingest(SourceLocation(path=tmp_path / "corpus"), asked, "unchanged", tmp_path / "raw")
    assert (
        read_json(tmp_path / "raw" / "source.json")["near_misses"]
        == {
            "common_voice": {"01.MP3": "clips/01.mp3, which differs in case"},
            "folder": {"a\\01.wav": "a/01.wav, which differs in backslashes"},
            "kaldi": {"u": "a/01.wav, which differs in case"},
            "zeroth": {"1_A": "train_data_01/003/106/1_a.flac, which differs in case"},
        }[source]
    )


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
        "near_misses": {},
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


def test_a_large_recording_is_copied_beside_its_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("speechmill.corpus.encoded._MAX_BYTES_IN_MEMORY", 9)
    recordings = {"a/small.wav": b"123456789", "a/large.wav": b"1234567890"}
    for name, content in recordings.items():
        (tmp_path / "corpus" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "corpus" / name).write_bytes(content)
    ingest(SourceLocation(path=tmp_path / "corpus"), settings("folder", a=1), "unchanged", tmp_path / "raw")
    large, small = read_table(tmp_path / "raw/a/shard-00000.parquet").to_pylist()
    assert (small["encoded"], small["encoded_file"]) == (b"123456789", None)
    assert (large["encoded"], large["encoded_file"]) == (None, "shard-00000-00000")
    assert large["encoded_file_sha256"] == file_digest(tmp_path / "raw/a/shard-00000-00000")
    assert contents(tmp_path / "raw/a").keys() == {"shard-00000.parquet", "shard-00000-00000"}
    assert (tmp_path / "raw/a/shard-00000-00000").read_bytes() == b"1234567890"


def test_a_large_member_of_an_archive_is_copied_beside_its_shard(
    tmp_path: Path, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("speechmill.corpus.encoded._MAX_BYTES_IN_MEMORY", 5)
    ingest(SourceLocation(path=archive), settings(train=2, dev=1), "unchanged", tmp_path / "raw")
    rows = read_table(tmp_path / "raw/train/shard-00001.parquet").to_pylist()
    found = [row["encoded_file"] and (tmp_path / "raw/train" / row["encoded_file"]).read_bytes() for row in rows]
    assert found == [b"clip 1", b"clip 3", None]
    assert {path.name for path in tmp_path.iterdir()} == {"raw", "corpus.tar.gz"}


def kaldi(folder: Path, segments: str, **recordings: bytes) -> Path:
    """Write a corpus of recordings that are cut by `segments`, and return its folder."""
    (folder / "train").mkdir(parents=True)
    for name, content in recordings.items():
        (folder / f"{name}.wav").write_bytes(content)
    utterances = [line.split()[0] for line in segments.splitlines()]
    (folder / "train/wav.scp").write_text("".join(f"{name} {name}.wav\n" for name in [*recordings, "lost"]))
    (folder / "train/segments").write_text(segments)
    (folder / "train/text").write_text("".join(f"{name} one\n" for name in utterances))
    return folder


def ingest_kaldi(folder: Path, shards: int, raw: Path) -> dict[str, dict[str, Any]]:
    """Return the rows of all raw shards of a Kaldi folder by id."""
    source = {"source": "folder", "path": "", "language": "ru", "manifest": "{split}"}
    about = {"source": source, "splits": ["train"], "shards": {"train": shards}}
    ingest(SourceLocation(path=folder), IngestSettings.model_validate(about), "unchanged", raw)
    rows = (row for shard in sorted(raw.glob("train/*.parquet")) for row in read_table(shard).to_pylist())
    return {row["id"]: row for row in rows}


def test_pieces_are_cut_or_rejected_with_the_reason(tmp_path: Path) -> None:
    segments = "a call 0 0.5\nb call 5 6\nc page 0 1\nd lost 0 1\ne call 0.5 -1\n"
    recording = audio_file(noise(1))
    corpus = kaldi(tmp_path / "corpus", segments, call=recording, page=b"<!doctype html>")
    rows = ingest_kaldi(corpus, 2, tmp_path / "raw")
    assert {name: row["file"] for name, row in rows.items()} == {
        "a": "call.wav [0.0 s – 0.5 s]",
        "b": "call.wav [5.0 s – 6.0 s]",
        "c": "page.wav [0.0 s – 1.0 s]",
        "d": "lost.wav [0.0 s – 1.0 s]",
        "e": "call.wav [0.5 s – end]",
    }
    assert rows["a"]["encoded"][44:] + rows["e"]["encoded"][44:] == recording[44:]
    assert (rows["b"]["reason"], rows["b"]["detail"]) == ("outside", "begins at 5 s, the recording ends at 1 s")
    assert rows["c"]["reason"] == "unreadable"
    assert rows["c"]["detail"].startswith("libsndfile: Format not recognised; ")
    # A later stage counts it as missing.
    assert (rows["d"]["encoded"], rows["d"]["reason"]) == (None, None)
    assert {path.name for path in tmp_path.iterdir()} == {"corpus", "raw"}


def test_annotations_are_cut_or_rejected_with_the_reason(tmp_path: Path) -> None:
    eaf = Eaf()
    for name, part in (("tx@anna", "Anna"), ("tx@bo", "Bo")):
        eaf.add_tier(name, "default-lt", part=part)
    for name, start, end, text in (
        ("tx@anna", 0, 500, "один"),
        ("tx@bo", 250, 750, "два"),
        ("tx@bo", 900, 1400, "три"),
        ("tx@bo", 5000, 6000, "четыре"),
    ):
        eaf.add_annotation(name, start, end, text)
    eaf.add_annotation("tx@anna", 600, 700, "ноль")
    # ELAN itself does not write an annotation without duration.
    eaf.timeslots = {name: 600 if ms == 700 else ms for name, ms in eaf.timeslots.items()}
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    eaf.to_file(corpus / "интервью.eaf")
    (corpus / "интервью.wav").write_bytes(recording := audio_file(noise(1)))
    source = {"source": "folder", "path": "", "language": "ru"}
    source["annotations"] = {"ending": ".eaf", "linguistic_types": ["default-lt"]}
    about = {"source": source, "splits": ["train"], "shards": {"train": 1}}
    ingest(SourceLocation(path=corpus), IngestSettings.model_validate(about), "unchanged", tmp_path / "raw")
    rows = {row["sentence"]: row for row in read_table(tmp_path / "raw/train/shard-00000.parquet").to_pylist()}
    samples = recording[44:]
    assert rows["один"]["id"] == "интервью.wav [0.0 s – 0.5 s] tx@anna"
    assert {text: row["speaker_id"] for text, row in rows.items()} == {
        "один": "Anna", "ноль": "Anna", "два": "Bo", "три": "Bo", "четыре": "Bo"
    }  # fmt: skip
    # One second at 16 kHz and two bytes; a piece may end half a second late.
    assert rows["один"]["encoded"][44:] == samples[:16000]
    assert rows["два"]["encoded"][44:] == samples[8000:24000]
    assert rows["три"]["encoded"][44:] == samples[28800:]
    assert (rows["ноль"]["reason"], rows["ноль"]["detail"]) == ("outside", "begins at 0.6 s and ends at 0.6 s")
    assert rows["четыре"]["reason"] == "outside"


def test_a_recording_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[str] = []

    def counted(recording: Encoded, name: str, *rest: Any) -> Any:
        decoded.append(name)
        return decode(recording, name, *rest)

    monkeypatch.setattr("speechmill.corpus.pieces.decode", counted)
    segments = "".join(f"{name}-{i} {name} {i / 10} {(i + 1) / 10}\n" for i in range(10) for name in ("one", "two"))
    corpus = kaldi(tmp_path / "corpus", segments, one=audio_file(noise(1)), two=audio_file(noise(1)))
    assert all(row["encoded"] for row in ingest_kaldi(corpus, 3, tmp_path / "raw").values())
    assert decoded == ["one.wav", "two.wav"]


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
