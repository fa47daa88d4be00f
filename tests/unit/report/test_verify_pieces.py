from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from speechmill.core.schemas import PIECES
from speechmill.core.tables import write_table
from speechmill.corpus.ingest_pieces import count_parts
from speechmill.report import verify_pieces
from speechmill.report.verify_pieces import check_pieces


def piece(score: float) -> dict[str, Any]:
    return {
        "id": "a",
        "recording": "talk",
        "splits": ["train"],
        "start": 0,
        "end": 2,
        "sentence": "one",
        "score": score,
    }


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write pieces of the dataset `aligned`, and let a model's evidence contain their counts."""
    path = tmp_path / "pieces" / "aligned" / "train" / "shard-00000.parquet"
    write_table([piece(-0.5), piece(-2)], PIECES, path)
    about = {"min_score": -1, "parts": count_parts([path], -1)}
    status = [{"dataset": "aligned", "about": about}, {"dataset": "corpus", "about": {}}]
    monkeypatch.setattr(verify_pieces.evidence, "read", lambda _: SimpleNamespace(status=status))
    return path


def test_same_pieces_agree_with_the_card(table: Path, tmp_path: Path) -> None:
    result = check_pieces(tmp_path, tmp_path / "pieces")
    assert result.differences == []
    assert result.passed == [f"derived     the counts of aligned follow from {tmp_path / 'pieces' / 'aligned'}"]


def test_other_pieces_differ_from_the_card(table: Path, tmp_path: Path) -> None:
    write_table([piece(-0.5), piece(-0.6)], PIECES, table)
    (difference,) = check_pieces(tmp_path, tmp_path / "pieces").differences
    assert "'score': {'parts': 1" in difference


def test_corrupt_pieces_are_a_difference(table: Path, tmp_path: Path) -> None:
    table.write_bytes(table.read_bytes()[:-20])
    (difference,) = check_pieces(tmp_path, tmp_path / "pieces").differences
    assert "shard-00000.parquet" in difference


def test_pieces_that_were_deleted_are_skipped(table: Path, tmp_path: Path) -> None:
    table.unlink()
    result = check_pieces(tmp_path, tmp_path / "pieces")
    assert result.differences == []
    assert "were not counted" in result.passed[0]
