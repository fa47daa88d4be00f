import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from speechmill.config.datasets import Dataset
from speechmill.downloaded import sidecar
from speechmill.paths import source_fingerprint
from speechmill.tables import write_json

SHA256 = "5" * 64


@pytest.fixture(autouse=True)
def _in_a_working_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def fingerprint(**changes: Any) -> str:
    about = {"source": "zeroth", "path": "corpus.tar.gz", "language": "ko", "name": "Made", "licence": "CC0-1.0"}
    dataset = TypeAdapter(Dataset).validate_python(about | {"splits": ["train"], "shards": 1} | changes)
    return source_fingerprint("made", dataset)


def prepared(as_it_was: str) -> None:
    """What an ingest leaves."""
    write_json({"fingerprint": as_it_was}, Path("results/raw/made/source.json"))


def archive(content: bytes = b"clips") -> Path:
    Path("corpus.tar.gz").write_bytes(content)
    return Path("corpus.tar.gz")


DOWNLOAD = {"urls": ["https://example.org/corpus.tar.gz", "https://example.com/corpus.tar.gz"]}


def test_a_corpus_is_another_when_its_size_or_its_time_is() -> None:
    seen = set()
    for content, time in ((b"clips", 1), (b"clips", 2), (b"more clips", 2)):
        os.utime(archive(content), (time, time))
        seen.add(fingerprint())
    assert len(seen) == 3


def test_a_corpus_that_was_read_and_taken_away_is_what_it_was() -> None:
    archive()
    prepared(before := fingerprint())
    Path("corpus.tar.gz").unlink()
    assert fingerprint() == before


def test_a_corpus_that_is_nowhere_is_absent() -> None:
    assert fingerprint() == "absent"


def test_an_archive_is_the_same_before_it_is_fetched_afterwards_and_once_it_is_deleted() -> None:
    before = fingerprint(download=DOWNLOAD)
    fetched = archive()
    write_json({"url": DOWNLOAD["urls"][0], "bytes": 5, "sha256": SHA256}, sidecar(fetched))
    assert fingerprint(download=DOWNLOAD) == before
    prepared(before)
    fetched.unlink()
    assert fingerprint(download=DOWNLOAD) == before


def test_another_archive_to_fetch_is_another_corpus() -> None:
    prepared(fingerprint(download=DOWNLOAD))
    assert fingerprint(download=DOWNLOAD | {"urls": DOWNLOAD["urls"][::-1]}) == fingerprint(download=DOWNLOAD)
    assert fingerprint(download=DOWNLOAD | {"urls": ["https://example.org/later.tar.gz"]}) != fingerprint(
        download=DOWNLOAD
    )
    assert fingerprint(download=DOWNLOAD | {"sha256": SHA256}) != fingerprint(download=DOWNLOAD | {"sha256": "6" * 64})


def test_an_archive_of_one_s_own_holds_although_it_could_be_fetched() -> None:
    archive()
    own = fingerprint(download=DOWNLOAD)
    assert own == fingerprint()
    prepared(own)
    Path("corpus.tar.gz").unlink()
    assert fingerprint(download=DOWNLOAD) == own
