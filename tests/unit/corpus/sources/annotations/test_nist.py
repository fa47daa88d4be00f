from collections.abc import Callable
from pathlib import Path

import pytest

from speechmill.core.command import SpeechmillError
from speechmill.corpus.pieces import Piece
from speechmill.corpus.sources.annotations.annotation import Annotation
from speechmill.corpus.sources.annotations.nist import read_ctm, read_stm


def test_words_of_ctm_are_joined_between_pauses(tmp_path: Path) -> None:
    (tmp_path / "a.ctm").write_text(
        ";; a comment\n"
        "call A 0.10 0.20 good 0.99\n"
        "call B 0.20 0.30 yes\n"
        "call A 0.79 0.40 morning 0.98\n"
        "\n"
        "call A 1.69 0.3 bye\n"
        "two 1 0 1 one\n"
    )
    assert [(each.recording, each.piece, each.text) for each in read_ctm(tmp_path / "a.ctm")] == [
        ("call", Piece(0.1, 1.19, 0), "good morning"),
        ("call", Piece(1.69, 1.99, 0), "bye"),
        ("call", Piece(0.2, 0.5, 1), "yes"),
        ("two", Piece(0.0, 1.0, 0), "one"),
    ]


def test_segments_of_stm_have_a_channel_and_a_speaker(tmp_path: Path) -> None:
    (tmp_path / "a.stm").write_text(
        ";; CATEGORY \"0\" \"\" \"\"\r\n"
        "call 1 anna 0.5 2.25 <o,f0,female> good morning\r\n"
        "call B bo 2.00 3.00 hello\r\n"
        "call A inter_segment_gap 3 4 <o,,> IGNORE_TIME_SEGMENT_IN_SCORING\r\n"
        "call A anna 4 5 <o,f0,female>\r\n"
    )  # fmt: skip
    assert [(each.piece, each.speaker, each.text) for each in read_stm(tmp_path / "a.stm")] == [
        (Piece(0.5, 2.25, 0), "anna", "good morning"),
        (Piece(2.0, 3.0, 1), "bo", "hello"),
        (Piece(3.0, 4.0, 0), "inter_segment_gap", ""),
        (Piece(4.0, 5.0, 0), "anna", ""),
    ]


@pytest.mark.parametrize(
    ("read", "line"),
    [
        (read_ctm, "call A 0.1 good"),
        (read_ctm, "call A soon 0.2 good"),
        (read_ctm, "call A nan 0.2 good"),
        (read_ctm, "call 0 0.1 0.2 good"),
        (read_ctm, "call A * * <ALT_BEGIN>"),
        (read_stm, "call A anna 0.5"),
        (read_stm, "call left anna 0.5 1.0 good"),
    ],
)
def test_a_malformed_line_is_refused(tmp_path: Path, read: Callable[[Path], list[Annotation]], line: str) -> None:
    (tmp_path / "a").write_text(f";;\n{line}\n")
    with pytest.raises(SpeechmillError, match=r"a: line 2 is not `<recording> <channel> .*correct the line"):
        read(tmp_path / "a")
