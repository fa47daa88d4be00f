from pathlib import Path

import pytest

from speechmill.core.command import SpeechmillError
from speechmill.corpus.corrections import Corrections

HEADER = "dataset,split,id,score,sentence,hypothesis,correction,exclude\n"


def corrections(folder: Path, *lines: str, header: str = HEADER) -> Corrections:
    path = folder / "corrected.csv"
    path.write_text(header + "".join(f"{line}\n" for line in lines), encoding="utf-8")
    return Corrections(path)


def test_sentences_and_exclusions(tmp_path: Path) -> None:
    found = corrections(tmp_path, 'own,train,a,-1,Раз,два,"Два, три.",', "own,train,b,-1,,,,yes", "own,train,c,-1,,,,")
    assert [found.sentence(("own", name)) for name in "abc"] == ["Два, три.", None, None]
    assert [found.exclusion(("own", name)) for name in "abc"] == [None, "line 3 of corrected.csv", None]


def test_file_of_a_spreadsheet(tmp_path: Path) -> None:
    # A byte order mark, line ends of Windows, and columns in another order.
    header = "\ufeffid,correction,exclude,split,dataset\r\n"
    assert corrections(tmp_path, "a,Раз,,train,own\r", header=header).sentence(("own", "a")) == "Раз"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["own,train,a,-1,,,Раз,yes"], "line 2 has both `correction` and `exclude`"),
        (["own,train,a,-1,,,,no"], "line 2: `exclude` is 'no'; write yes"),
        (["own,train,a,-1,,,,yes", "own,train,a,-1,,,,"], "line 3: a of own is listed before"),
        (["own,train,a,-1,,,Раз, два,"], "line 2 has more or fewer cells"),
        (["own,train,a"], "line 2 has more or fewer cells"),
        (['own,train,a,-1,,,"Раз,'], "is no CSV file in UTF-8"),
    ],
)
def test_bad_line_is_rejected(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(SpeechmillError, match=r"corrected\.csv") as caught:
        corrections(tmp_path, *lines)
    assert message in str(caught.value)


@pytest.mark.parametrize("header", ["dataset;split;id;correction;exclude\n", "dataset,split,correction,exclude\n", ""])
def test_missing_column_is_rejected(tmp_path: Path, header: str) -> None:
    with pytest.raises(SpeechmillError, match=r"lacks the columns .*id"):
        corrections(tmp_path, header=header)


def test_other_encoding_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "corrected.csv"
    path.write_bytes((HEADER + "own,train,a,-1,,,Раз,\n").encode("cp1251"))
    with pytest.raises(SpeechmillError, match="no CSV file in UTF-8"):
        Corrections(path)


def test_clip_of_a_scored_set_is_rejected(tmp_path: Path) -> None:
    found = corrections(tmp_path, "own,train,a,-1,,,Раз,")
    with pytest.raises(SpeechmillError, match="line 2: a of own is a clip of own-dev, which is scored"):
        found.check([("own", "a")], {"own-dev": [("own", "a")]})


def test_unchanged_clip_of_a_scored_set_is_allowed(tmp_path: Path) -> None:
    corrections(tmp_path, "own,train,a,-1,,,,").check([("own", "a")], {"own-dev": [("own", "a")]})


def test_unknown_clip_is_rejected(tmp_path: Path) -> None:
    found = corrections(tmp_path, "own,train,a,-1,,,Раз,", "own,train,b,-1,,,,")
    with pytest.raises(SpeechmillError, match=r"line 3: no training set has a clip 'b' .* 1 of 2 lines"):
        found.check([("own", "a")], {})
