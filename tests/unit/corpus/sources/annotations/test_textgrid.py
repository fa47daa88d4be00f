from pathlib import Path

import pytest

from speechmill.core.command import SpeechmillError
from speechmill.corpus.pieces import Piece
from speechmill.corpus.sources.annotations.textgrid import read_textgrid

# As Praat writes it.
LONG = """File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0 
xmax = 3.5 
tiers? <exists> 
size = 3 
item []: 
    item [1]:
        class = "IntervalTier" 
        name = "Анна" 
        xmin = 0 
        xmax = 3.5 
        intervals: size = 3 
        intervals [1]:
            xmin = 0 
            xmax = 1.25 
            text = "" 
        intervals [2]:
            xmin = 1.25 
            xmax = 2.5 
            text = "Она сказала ""да""
и ушла" 
        intervals [3]:
            xmin = 2.5 
            xmax = 3.5 
            text = "" 
    item [2]:
        class = "IntervalTier" 
        name = "Bo" 
        xmin = 0 
        xmax = 3.5 
        intervals: size = 1 
        intervals [1]:
            xmin = 2 
            xmax = 3.5 
            text = "hello" 
    item [3]:
        class = "TextTier" 
        name = "bell" 
        xmin = 0 
        xmax = 3.5 
        points: size = 1 
        points [1]:
            number = 1.5 
            mark = "ding" 
"""  # noqa: W291  # Praat writes these blanks

SHORT = """File type = "ooTextFile"
Object class = "TextGrid"

0
3.5
<exists>
3
"IntervalTier"
"Анна"
0
3.5
3
0
1.25
""
1.25
2.5
"Она сказала ""да""
и ушла"
2.5
3.5
""
"IntervalTier"
"Bo"
0
3.5
1
2
3.5
"hello"
"TextTier"
"bell"
0
3.5
1
1.5
"ding"
"""


@pytest.mark.parametrize("content", [LONG, SHORT, SHORT.rstrip("\n"), LONG.replace("\n", "\r\n")])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_tiers_are_read_in_all_formats(tmp_path: Path, content: str, encoding: str) -> None:
    (tmp_path / "a.TextGrid").write_bytes(content.encode(encoding))
    assert [(each.tier, each.piece, each.text) for each in read_textgrid(tmp_path / "a.TextGrid")] == [
        ("Анна", Piece(0.0, 1.25), ""),
        ("Анна", Piece(1.25, 2.5), 'Она сказала "да" и ушла'),
        ("Анна", Piece(2.5, 3.5), ""),
        ("Bo", Piece(2.0, 3.5), "hello"),
        ("bell", Piece(1.5, 1.5), "ding"),
    ]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "hello\n",
        SHORT[:-30],
        LONG[: LONG.index("    item [3]") - 40],
        LONG.replace("xmin = 1.25", "xmin = soon"),
        SHORT.replace('2\n3.5\n"hello"', '2\nsoon\n"hello"'),
    ],
)
def test_a_malformed_file_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.TextGrid").write_text(content)
    with pytest.raises(
        SpeechmillError, match=r"a\.TextGrid is not a .*TextGrid .*; open it in Praat and save it again"
    ):
        read_textgrid(tmp_path / "a.TextGrid")


def test_an_unknown_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.TextGrid").write_bytes(LONG.encode("cp1251"))
    with pytest.raises(SpeechmillError, match=r"a\.TextGrid: line 11 is not text in UTF-8 .*; save the file as UTF-8"):
        read_textgrid(tmp_path / "a.TextGrid")
