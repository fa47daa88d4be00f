"""Raw shards of the pieces that a model has made."""

from pathlib import Path
from typing import Any

import pytest

from speechmill.core.command import SpeechmillError
from speechmill.core.files import read_json
from speechmill.core.schemas import PIECES
from speechmill.core.tables import read_table, write_table
from speechmill.corpus.ingest_pieces import IngestPiecesSettings, ingest_pieces


def piece(start: float, end: float, score: float | None = None, sentence: str = "", **changes: Any) -> dict[str, Any]:
    times = f"{round(1000 * start):08d}-{round(1000 * end):08d}"
    row = {"id": f"talk-{times}", "recording": "talk", "splits": ["train"], "start": start, "end": end}
    return row | {"sentence": sentence, "score": score, "encoded": None if score is None else b"flac"} | changes


PIECES_OF_TALK = [
    piece(0, 2, -0.1, "раз два"),
    piece(2, 5, -3.0, "три"),
    piece(5, 15, reason="no_text", detail="audio without text"),
    piece(15, 15, sentence="четыре пять шесть", reason="no_audio", detail="text without audio"),
]


def ingested(tmp_path: Path, min_score: float = -1) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    table = tmp_path / "pieces" / "train" / "shard-00000.parquet"
    table.parent.mkdir(parents=True, exist_ok=True)
    write_table(PIECES_OF_TALK, PIECES, table)
    settings = IngestPiecesSettings(min_score=min_score, about={"of": "talks", "stage": "segment"})
    ingest_pieces([table], settings, tmp_path / "raw")
    rows = read_table(tmp_path / "raw" / "train" / "shard-00000.parquet").to_pylist()
    return rows, read_json(tmp_path / "raw" / "source.json")


def test_pieces_below_the_threshold_are_rejected(tmp_path: Path) -> None:
    (kept, rejected), source = ingested(tmp_path)
    assert (kept["encoded"], kept["reason"], kept["recording"]) == (b"flac", None, "talk")
    assert (rejected["encoded"], rejected["reason"]) == (None, "score")
    assert rejected["detail"] == "its score is -3.00, the lowest to keep is -1"
    assert source["published"] == {"train": 2}


def test_lower_threshold_keeps_more(tmp_path: Path) -> None:
    rows, _ = ingested(tmp_path, min_score=-5)
    assert [row["reason"] for row in rows] == [None, None]


def test_every_second_and_word_is_counted(tmp_path: Path) -> None:
    parts = ingested(tmp_path)[1]["about"]["parts"]
    assert sum(part["seconds"] for part in parts.values()) == 15
    assert {reason: part["words"] for reason, part in parts.items()} == {
        "kept": 2, "score": 1, "no_text": 0, "no_audio": 3,
    }  # fmt: skip


def test_unavailable_recordings_make_an_unavailable_dataset(tmp_path: Path) -> None:
    table = tmp_path / "pieces" / "train" / "shard-00000.parquet"
    write_table([], PIECES, table)
    settings = IngestPiecesSettings(min_score=-1, about={"of": "talks", "stage": "segment"})
    ingest_pieces([table], settings, tmp_path / "raw", why="talks.tar.gz does not exist")
    source = read_json(tmp_path / "raw" / "source.json")
    assert (source["available"], source["why"]) == (False, "talks.tar.gz does not exist")
    assert source["published"] == {"train": 0}


def test_recordings_without_a_single_piece_are_an_error(tmp_path: Path) -> None:
    table = tmp_path / "pieces" / "train" / "shard-00000.parquet"
    write_table(PIECES_OF_TALK[2:], PIECES, table)
    settings = IngestPiecesSettings(min_score=-1, about={"of": "talks", "stage": "segment"})
    with pytest.raises(SpeechmillError, match=r"no clip was cut from the recordings of talks-train: .* 3 words"):
        ingest_pieces([table], settings, tmp_path / "aligned")
    assert [path.name for path in tmp_path.iterdir()] == ["pieces"]


def test_recordings_outside_the_vocabulary_are_an_error_that_says_what_to_set(tmp_path: Path) -> None:
    table = tmp_path / "pieces" / "train" / "shard-00000.parquet"
    write_table([piece(0, 9, sentence="один", reason="vocabulary", detail="d")], PIECES, table)
    settings = IngestPiecesSettings(min_score=-1, about={"of": "talks", "stage": "segment"})
    with pytest.raises(SpeechmillError, match=r"mostly outside the vocabulary .* set datasets\.aligned\.text"):
        ingest_pieces([table], settings, tmp_path / "aligned")
