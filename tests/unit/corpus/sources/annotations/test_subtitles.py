from collections.abc import Callable
from pathlib import Path

import pytest

from speechmill.core.command import SpeechmillError
from speechmill.corpus.pieces import Piece
from speechmill.corpus.sources.annotations.annotation import Annotation
from speechmill.corpus.sources.annotations.subtitles import read_srt, read_vtt

SRT = """1
00:00:01,000 --> 00:00:02,500 X1:40 X2:600 Y1:20 Y2:50
{\\an8}<i>Сколько</i> <font color="#ffffff">их?</font>

2
00:00:02,500 --> 00:00:03,000

3
00:00:03,000 --> 00:00:04,000
Ровно
42

4
01:00:00,000 --> 01:00:01,500
Их
42
"""

VTT = """WEBVTT Kind: captions

STYLE
::cue { color: white }

NOTE a comment
of two lines

introduction
00:01.000 --> 00:02.500 align:start position:0%
<v.loud Anna Lee>Tom &amp; <b>Jerry</b>

00:02.500 --> 00:04.000
<v Anna>How many? <v Bo>Exactly
42

01:00:00.000 --> 01:00:01.000
<00:00:00.480><c> one</c><00:00:00.900><c.red> two</c>
"""


def found(annotations: list[Annotation]) -> list[tuple[Piece, str, str]]:
    return [(each.piece, each.text, each.speaker) for each in annotations]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le with a mark"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_srt_is_read_without_markup(tmp_path: Path, encoding: str, line_end: str) -> None:
    text = SRT.replace("\n", line_end)
    marked = f"\ufeff{text}".encode("utf-16-le") if "mark" in encoding else text.encode(encoding)
    (tmp_path / "a.srt").write_bytes(marked)
    assert found(read_srt(tmp_path / "a.srt")) == [
        (Piece(1.0, 2.5), "Сколько их?", ""),
        (Piece(2.5, 3.0), "", ""),
        (Piece(3.0, 4.0), "Ровно 42", ""),
        (Piece(3600.0, 3601.5), "Их 42", ""),
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_vtt_is_read_with_its_speakers(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.vtt").write_bytes(VTT.encode(encoding))
    assert found(read_vtt(tmp_path / "a.vtt")) == [
        (Piece(1.0, 2.5), "Tom & Jerry", "Anna Lee"),
        (Piece(2.5, 4.0), "How many? Exactly 42", ""),
        (Piece(3600.0, 3601.0), "one two", ""),
    ]


def test_subtitles_without_numbers_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.srt").write_text("00:00:01,000 --> 00:00:02,000\n42\n\n00:00:02,000 --> 00:00:03,000\none\n")
    assert [each.text for each in read_srt(tmp_path / "a.srt")] == ["42", "one"]


@pytest.mark.parametrize(
    ("read", "content", "reason"),
    [
        (read_srt, "hello\n", r" is not SubRip"),
        (read_srt, SRT.replace("00:00:01,000", "soon"), r": line 2 is not `<start> --> <end>` \(it is 'soon --> "),
        (read_srt, SRT.replace("01:00:01,500", ""), r": line 14 is not"),
        (read_vtt, SRT, r" is not WebVTT \(the first line is not WEBVTT\)"),
        (read_vtt, VTT.replace("00:01.000 -->", ":00:01.000 -->"), r" is not a file with subtitles"),
        (read_vtt, VTT.replace("00:01.000 -->", "1 -->"), r": line 10 is not `<start> --> <end>`"),
    ],
)
def test_a_malformed_file_is_refused(
    tmp_path: Path, read: Callable[[Path], list[Annotation]], content: str, reason: str
) -> None:
    (tmp_path / "a").write_text(content)
    with pytest.raises(SpeechmillError, match=f"{tmp_path / 'a'}{reason}"):
        read(tmp_path / "a")


def test_an_unknown_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.srt").write_bytes(SRT.encode("cp1251"))
    with pytest.raises(SpeechmillError, match=r"a\.srt: line 3 is not text in UTF-8"):
        read_srt(tmp_path / "a.srt")
