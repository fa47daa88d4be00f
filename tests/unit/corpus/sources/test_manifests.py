import csv
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from speechmill.core.command import SpeechmillError
from speechmill.corpus.sources.manifests import read_json_lines, read_table

ROWS = [("path", "sentence"), ("0.wav", 'say "0", please'), ("1.wav", "one; two"), ("2.wav", "no|thing")]


def written(rows: list[tuple[str, ...]], separator: str, *, line_end: str = "\r\n", special: str = '"\r\n,') -> str:
    """Return a table as spreadsheets write it: cells with the separator or a special character are quoted."""
    lines = []
    for row in rows:
        quoted = ['"' + each.replace('"', '""') + '"' for each in row]
        pairs = zip(row, quoted, strict=True)
        lines.append(separator.join(q if set(cell) & set(special + separator) else cell for cell, q in pairs))
    return "".join(line + line_end for line in lines)


def read(
    tmp_path: Path, content: str | bytes, name: str = "all.csv", separator: str | None = None,
    names: list[str] | None = None,
) -> list[tuple[str, ...]]:  # fmt: skip
    """Return the fields of each line of a table."""
    manifest = tmp_path / name
    manifest.write_bytes(content if isinstance(content, bytes) else content.encode())
    return [tuple(entry.fields.values()) for entry in read_table(manifest, separator, names)]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("special", ['"\r\n', '"\r\n,'], ids=["csv", "excel"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_quoted_table_is_read(tmp_path: Path, separator: str, special: str, encoding: str) -> None:
    content = written(ROWS, separator, special=special).encode(encoding)
    assert read(tmp_path, content) == ROWS[1:]


def test_a_table_with_all_cells_quoted_is_read(tmp_path: Path) -> None:
    content = '"path"\t"sentence"\n"a"\t"one"\n"b"\t"he said ""two"""\n'
    assert read(tmp_path, content, "all.tsv") == [("a", "one"), ("b", 'he said "two"')]


# The quotation marks of a sentence are part of it, as in the tables of Common Voice and LJSpeech.
@pytest.mark.parametrize("separator", ["\t", "|"])
@pytest.mark.parametrize("sentence", ['"Go away!"', 'he said "two"', '"two', '"one," he said, "two"', '""'])
def test_a_table_without_quoting_keeps_quotation_marks(tmp_path: Path, separator: str, sentence: str) -> None:
    content = f"path{separator}sentence\na{separator}one, two\nb{separator}{sentence}\n"
    assert read(tmp_path, content) == [("a", "one, two"), ("b", sentence)]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.sampled_from(",;\t|"),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), min_size=1), min_size=1),
)
def test_what_the_csv_module_writes_is_read(tmp_path: Path, separator: str, quoting: int, texts: list[str]) -> None:
    with (tmp_path / "made.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=separator, quoting=quoting).writerows([("path", "sentence"), *enumerate(texts)])
    content = (tmp_path / "made.csv").read_bytes()
    assert read(tmp_path, content, separator=separator) == [(str(i), text) for i, text in enumerate(texts)]


def test_ljspeech_is_read(tmp_path: Path) -> None:
    # Source: keithito.com/LJ-Speech-Dataset: no header, not quoted.
    content = 'LJ001-0001|Printing, in|Printing, in\nLJ001-0002|"I am," he said.|"I am," he said.\n'
    assert read(tmp_path, content, names=["id", "sentence", "normalised"]) == [
        ("LJ001-0001", "Printing, in", "Printing, in"),
        ("LJ001-0002", '"I am," he said.', '"I am," he said.'),
    ]


@pytest.mark.parametrize("empty", ["", ",,", ",,,,,", "\r\n,,"])
def test_empty_cells_at_the_end_are_ignored(tmp_path: Path, empty: str) -> None:
    content = f"path,sentence{empty[:2]}\r\na,one,,\r\n{empty}\r\nb,two,,\r\n"
    assert read(tmp_path, content) == [("a", "one"), ("b", "two")]


def test_spaces_around_names_of_columns_are_ignored(tmp_path: Path) -> None:
    (tmp_path / "all.csv").write_text("path , sentence\na, one\n")
    (entry,) = read_table(tmp_path / "all.csv", None, None)
    assert entry.fields == {"path": "a", "sentence": " one"}


def test_a_cell_without_a_name_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(
        SpeechmillError, match=r"line 3 has 4 columns, but the first line of the file has 2, .*`separat"
    ):
        read(tmp_path, "path,sentence,,\na,one,,\nb,two,three,\n")


def test_carriage_returns_end_lines_where_there_are_no_others(tmp_path: Path) -> None:
    assert read(tmp_path, "path,sentence\ra,one\r\rb,two\r") == [("a", "one"), ("b", "two")]


def test_a_long_line_is_read(tmp_path: Path) -> None:
    assert read(tmp_path, f"path,sentence\na,{'x' * 10_000_000}\n") == [("a", "x" * 10_000_000)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("path;sentence,text\na;b,c\n", r"2 columns with each of the separators ';' and ','; set .*`separator`"),
        (b"p\0a\0t\0h\0", "line 1 is not text in UTF-8 .*NUL character"),
        ("path,sentence\n".encode("utf-32"), "line 1 is not text in UTF-8 .*NUL character"),
        ("path,sentence\nа,б\n".encode("cp1251"), r"line 2 is not text in UTF-8 .*save the file as UTF-8"),
        ("path\tsentence\n".encode("utf-16")[:-1], "is not text in UTF-16 .*save the file as UTF-8"),
        (b"PK\x03\x04\x14\0\x06\0", "line 1 is not text"),
        (b"", "must start with a line of distinct column names; .*`column_names`"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(SpeechmillError, match=message):
        read(tmp_path, content)


def test_a_table_without_the_named_columns_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        SpeechmillError, match=r"2 columns with none of the separators .* set the dataset's `separator`"
    ):
        read(tmp_path, "a b\n", names=["path", "sentence"])
    with pytest.raises(SpeechmillError, match="line 2 has 3 columns, but `column_names` has 2, separated by ','"):
        read(tmp_path, "a,b\na,b,c\n", names=["path", "sentence"])


def test_json_lines_in_utf16_are_read(tmp_path: Path) -> None:
    # As a redirection in PowerShell 5 writes it.
    (tmp_path / "all.jsonl").write_bytes('{"path": "a", "sentence": "да"}\r\n'.encode("utf-16"))
    assert [entry.fields for entry in read_json_lines(tmp_path / "all.jsonl")] == [{"path": "a", "sentence": "да"}]
