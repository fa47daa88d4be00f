import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import TypeAdapter

from material import ROOT
from speechmill.config.datasets import Dataset
from speechmill.config.root import load
from speechmill.core.files import write_json
from speechmill.corpus.download_record import sidecar
from speechmill.dag.sources import missing_sources, source_fingerprint

DEMO = yaml.safe_load((ROOT / "config" / "config.yaml").read_text())
SHA256 = "5" * 64


@pytest.fixture(autouse=True)
def _working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def fingerprint(**changes: Any) -> str:
    about = {"source": "zeroth", "path": "corpus.tar.gz", "language": "ko", "name": "Made", "licence": "CC0-1.0"}
    dataset = TypeAdapter(Dataset).validate_python(about | {"splits": ["train"], "shards": 1} | changes)
    return source_fingerprint("made", dataset)


def prepared(recorded: str) -> None:
    """Write the record that ingest leaves."""
    write_json({"fingerprint": recorded}, Path("results/raw/made/source.json"))


def archive(content: bytes = b"clips") -> Path:
    Path("corpus.tar.gz").write_bytes(content)
    return Path("corpus.tar.gz")


DOWNLOAD = {"urls": ["https://example.org/corpus.tar.gz", "https://example.com/corpus.tar.gz"]}


def test_size_or_time_changes_the_fingerprint() -> None:
    seen = set()
    for content, time in ((b"clips", 1), (b"clips", 2), (b"more clips", 2)):
        os.utime(archive(content), (time, time))
        seen.add(fingerprint())
    assert len(seen) == 3


def test_removed_corpus_keeps_its_recorded_fingerprint() -> None:
    archive()
    prepared(before := fingerprint())
    Path("corpus.tar.gz").unlink()
    assert fingerprint() == before


def test_missing_corpus_is_absent() -> None:
    assert fingerprint() == "absent"


def test_downloaded_archive_keeps_one_fingerprint() -> None:
    before = fingerprint(download=DOWNLOAD)
    fetched = archive()
    write_json({"url": DOWNLOAD["urls"][0], "bytes": 5, "sha256": SHA256}, sidecar(fetched))
    assert fingerprint(download=DOWNLOAD) == before
    prepared(before)
    fetched.unlink()
    assert fingerprint(download=DOWNLOAD) == before


def test_another_download_changes_the_fingerprint() -> None:
    prepared(fingerprint(download=DOWNLOAD))
    assert fingerprint(download=DOWNLOAD | {"urls": DOWNLOAD["urls"][::-1]}) == fingerprint(download=DOWNLOAD)
    assert fingerprint(download=DOWNLOAD | {"urls": ["https://example.org/later.tar.gz"]}) != fingerprint(
        download=DOWNLOAD
    )
    assert fingerprint(download=DOWNLOAD | {"sha256": SHA256}) != fingerprint(download=DOWNLOAD | {"sha256": "6" * 64})


def test_own_archive_takes_precedence_over_download() -> None:
    archive()
    own = fingerprint(download=DOWNLOAD)
    assert own == fingerprint()
    prepared(own)
    Path("corpus.tar.gz").unlink()
    assert fingerprint(download=DOWNLOAD) == own


@pytest.mark.parametrize("kind", ["noise", "room"])
def test_folder_without_recordings_is_named_until_the_run_is_trained(kind: str) -> None:
    settings = {"noise": {"probability": 1, "snr_db": [0, 5]}, "room": {"probability": 1}}[kind]
    augment = {"augment": {kind: settings | {"folder": "sounds"}}}
    config = load(DEMO | {"runs": {"demo_ru": DEMO["runs"]["demo_ru"] | augment}})
    assert "runs.demo_ru.augment: sounds contains no recordings" in missing_sources(config, "")[0]
    Path("sounds/deep").mkdir(parents=True)
    assert "runs.demo_ru.augment: sounds contains no recordings" in missing_sources(config, "")[0]
    Path("sounds/deep/a.WAV").touch()
    assert missing_sources(config, "") == []
    Path("sounds/deep/a.WAV").unlink()
    write_json({}, Path("results/runs/demo_ru/training.json"))
    assert missing_sources(config, "") == []


# What another system or an unpacker leaves beside a corpus.
@pytest.mark.parametrize(
    "leave",
    [
        lambda folder: Path(folder, os.fsdecode(b"caf\x82 notes.txt")).touch(),
        lambda folder: Path(folder, os.fsdecode(b"caf\x82")).mkdir(),
        lambda folder: Path(folder, "loop").symlink_to("loop"),
        lambda folder: Path(folder, "below").symlink_to("a.wav/b"),
        lambda folder: Path(folder, "long").symlink_to("x" * 300),
        lambda folder: Path(folder, "nowhere").symlink_to("nothing"),
        lambda folder: Path(folder, os.fsdecode(b"\x82")).symlink_to(os.fsdecode(b"\x83")),
        lambda folder: Path(folder, "itself").symlink_to("."),
        lambda folder: Path(folder, "closed").mkdir(mode=0),
        lambda folder: os.mkfifo(Path(folder, "pipe")),
    ],
)
@pytest.mark.parametrize("source", ["zeroth", "folder", "hub"])
def test_odd_names_and_links_do_not_stop_planning(source: str, leave: Callable[[str], None]) -> None:
    Path("corpus").mkdir()
    Path("corpus/a.wav").write_bytes(b"a")
    leave("corpus")
    manifest = {"manifest": "{split}.csv"} if source == "folder" else {}
    before = fingerprint(source=source, path="corpus", **manifest)
    Path("corpus/a.wav").write_bytes(b"changed")
    assert fingerprint(source=source, path="corpus", **manifest) != before


def test_another_target_of_a_linked_folder_changes_the_fingerprint() -> None:
    for name in ("one", "two"):
        Path("corpus", name).mkdir(parents=True)
    Path("corpus/now").symlink_to("one")
    before = fingerprint(path="corpus")
    Path("corpus/now").unlink()
    Path("corpus/now").symlink_to("two")
    assert fingerprint(path="corpus") != before


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_a_corpus_in_a_folder_without_permission_is_absent() -> None:
    Path("closed/corpus").mkdir(parents=True)
    Path("closed").chmod(0)
    assert fingerprint(path="closed/corpus") == "absent"
