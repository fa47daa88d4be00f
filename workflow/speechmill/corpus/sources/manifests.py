"""Manifests: tables (CSV, TSV and similar) and JSON Lines, read as one dictionary of text fields per line."""

import codecs
import csv
import io
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from speechmill.core.command import SpeechmillError
from speechmill.corpus.pieces import Piece

# Those that are rare in sentences come first.
_SEPARATORS = ("\t", "|", ";", ",")

# A field may hold a long text; a longer one is an unclosed quotation mark or not a table.
csv.field_size_limit(1 << 24)


class Entry(NamedTuple):
    """A clip in a manifest: the `location` of its line, its fields, and its piece if it is part of a recording."""

    location: str
    fields: dict[str, str]
    piece: Piece | None = None


def channel_number(text: str, first: int = 0) -> int:
    """Return a channel, counted from 0, that is written as a number or as the letter of a side, `A` or `B`.

    Args:
        text: The channel.
        first: The number of the first channel.

    Raises:
        ValueError: It is neither.
    """
    number = "AB".index(text) if text in ("A", "B") else int(text) - first
    if number < 0:
        raise ValueError(f"{text} is not a channel")
    return number


def read_lines(file: Path) -> Iterator[tuple[str, str]]:
    """Yield the location of each line of a text file, `{file}: line {number}`, and the line with its line end.

    The file is UTF-8, or UTF-16 if it starts with the byte order mark of UTF-16. Only a line feed ends a line, except
    in a file that has only carriage returns.

    Raises:
        SpeechmillError: A line is not text in these encodings.
    """
    for number, line in enumerate(_encoded_lines(file), 1):
        location = f"{file}: line {number}"
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise _not_utf8(location, error.reason) from error
        if "\0" in text:
            raise _not_utf8(location, "it has a NUL character")
        yield location, text


def _not_utf8(location: str, reason: str) -> SpeechmillError:
    return SpeechmillError(f"{location} is not text in UTF-8 ({reason}); save the file as UTF-8")


def _encoded_lines(file: Path) -> Iterator[bytes]:
    """Yield the lines of a file in UTF-8."""
    with file.open("rb") as raw:
        lines: Iterator[bytes] = iter(raw)
        if raw.peek(2).startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            lines = _from_utf16(file, raw)
        first = next(lines, b"")
        if first.endswith(b"\n"):
            yield first
            yield from lines
        else:
            # The only line of the file.
            yield from re.findall(rb"[^\r]*\r|[^\r]+", first)


def _from_utf16(file: Path, raw: BinaryIO) -> Iterator[bytes]:
    try:
        for line in io.TextIOWrapper(raw, "utf-16", newline="\n"):
            yield line.encode()
    except UnicodeDecodeError as error:
        raise SpeechmillError(f"{file} is not text in UTF-16 ({error.reason}); save the file as UTF-8") from error


def read_table(manifest: Path, separator: str | None, names: list[str] | None) -> Iterator[Entry]:
    """Yield the rows of a table, which are not empty.

    Args:
        manifest: A file whose columns are separated by a character. With `,` and `;`, quotation marks around a field
            are removed; with others, only if the file is written as spreadsheets and csv modules write quoted fields.
        separator: That character; None for the one that divides the first line into the most columns.
        names: The names of the columns, if the first line is not a header.

    Raises:
        SpeechmillError: There is no header with distinct names, a line has another number of columns than it, a line is
            malformed, or the separator is ambiguous.
    """
    separator = separator or _find_separator(manifest, names)
    rows = _rows(manifest, separator)
    location, header = f"{manifest}: line 1", names
    if header is None:
        location, cells = next(rows, (location, []))
        header = [cell.strip() for cell in cells]
        while header and not header[-1]:
            header.pop()
    if not header or len(set(header)) < len(header):
        raise SpeechmillError(
            f"{manifest} must start with a line of distinct column names; add it, or name the columns in the dataset's"
            " `column_names`"
        )
    for location, row in rows:
        if not any(row):
            continue
        # Spreadsheets end lines with empty cells.
        if len(row) < len(header) or any(row[len(header) :]):
            expected = "`column_names` has" if names else "the first line of the file has"
            raise SpeechmillError(
                f"{location} has {len(row)} columns, but {expected} {len(header)}, separated by {separator!r}; correct"
                " the line, or the dataset's `separator`"
            )
        yield Entry(location, dict(zip(header, row, strict=False)))


def _find_separator(manifest: Path, names: list[str] | None) -> str:
    """Return the separator that divides the first line into as many columns as `names`, or a header into the most.

    Raises:
        SpeechmillError: There is none, or there are several that divide a header into the same number of columns.
    """
    if manifest.suffix.lower() == ".tsv":
        return "\t"
    counts = columns_by_separator(manifest)
    wanted = len(names) if names else max(counts.values())
    # A line that none divides is one column.
    found = [each for each, count in counts.items() if count == wanted] if wanted > 1 else [","]
    if len(found) != 1 and not (names and found):
        which = " and ".join(map(repr, found or _SEPARATORS))
        raise SpeechmillError(
            f"{manifest}: the first line has {wanted} columns with {'each' if found else 'none'} of the separators"
            f" {which}; set the dataset's `separator`"
        )
    return found[0]


def columns_by_separator(manifest: Path) -> dict[str, int]:
    """Return how many columns the first line of a table has with each separator, the rarest in sentences first."""
    line = next((line for _, line in read_lines(manifest)), "").replace("\r", "")
    return {each: len(next(csv.reader([line], delimiter=each), [])) for each in _SEPARATORS}


def _rows(manifest: Path, separator: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the location of each row and its cells."""
    if separator not in ",;" and not _is_quoted(manifest, separator):
        for location, line in read_lines(manifest):
            yield location, line.rstrip("\n").removesuffix("\r").split(separator)
        return
    rows = csv.reader((line for _, line in read_lines(manifest)), delimiter=separator, strict=True)
    try:
        for row in rows:
            yield f"{manifest}: line {rows.line_num}", row
    except csv.Error as error:
        raise SpeechmillError(
            f"{manifest}: line {rows.line_num} is not CSV ({error}); correct the line, or set the dataset's `separator`"
        ) from error


def _is_quoted(manifest: Path, separator: str) -> bool:
    r"""Return whether the table is what a program writes that quotes cells.

    A sentence may begin and end with its own quotation marks, which are kept. In a quoted table, cells are quoted that
    contain the separator, a quotation mark or a line break; in those of Excel also cells with a comma, and of other
    programs all cells, or all but numbers.
    """
    special = [f'[{re.escape(separator)}"\r\n]', f'[{re.escape(separator)}"\r\n,]', "", "[^0-9.-]"]
    possible = [re.compile(each) for each in special]
    read: list[str] = []

    def lines() -> Iterator[str]:
        for _, line in read_lines(manifest):
            read.append(line)
            yield line

    try:
        for row in csv.reader(lines(), delimiter=separator, strict=True):
            line = "".join(read).rstrip("\r\n")
            read.clear()
            possible = [each for each in possible if line == separator.join(_written(cell, each) for cell in row)]
            if not possible:
                return False
    except csv.Error:
        return False
    return True


def _written(cell: str, special: re.Pattern[str]) -> str:
    return '"' + cell.replace('"', '""') + '"' if special.search(cell) else cell


def read_json_lines(manifest: Path) -> Iterator[Entry]:
    """Yield the objects of a JSON Lines file; a nested field has the name `outer.inner`, numbers are as written.

    Raises:
        SpeechmillError: A line is not a JSON object.
    """
    for location, line in read_lines(manifest):
        if not line.strip():
            continue
        try:
            found = _JSON.decode(line)
            if not isinstance(found, dict):
                raise SpeechmillError(f"{location} is not a JSON object; write one object per line")
            yield Entry(location, dict(_flattened(found, "")))
        except (ValueError, RecursionError) as error:
            raise SpeechmillError(f"{location} is not JSON ({error}); write one object per line") from error


def _flattened(value: Any, name: str) -> Iterable[tuple[str, str]]:
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _flattened(inner, f"{name}.{key}" if name else str(key))
    else:
        yield name, value if isinstance(value, str) else "" if value is None else json.dumps(value)


def _refuse(word: str) -> str:
    raise ValueError(f"{word} is not a JSON value")


# Numbers are kept as they are written.
_JSON = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=_refuse)
