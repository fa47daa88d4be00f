"""Files of text: decompression, detection of the format, and the pages and paragraphs in them."""

import io
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeAlias
from xml.etree import ElementTree as ET

from speechmill.config.texts import TextFormat
from speechmill.core.command import SpeechmillError
from speechmill.core.progress import progress
from speechmill.corpus.decompression import DECOMPRESSION_ERRORS, decompressed
from speechmill.corpus.sources.file_kinds import is_web_page

_PEEKED = 1 << 16
_FILES, _CATEGORIES = "6", "14"


Stream: TypeAlias = "io.BufferedReader[Any]"
"""Decompressed bytes."""


class Page(NamedTuple):
    """The wikitext of an article."""

    markup: str
    left_out_namespaces: frozenset[str]


@contextmanager
def open_text(path: Path) -> Iterator[Stream]:
    """Yield the decompressed bytes of a file, with a bar that shows how much of it is read.

    Raises:
        SpeechmillError: The file does not exist, is truncated or corrupt, or is a web page.
    """
    try:
        with (
            path.open("rb") as file,
            progress(total=path.stat().st_size, unit="B", unit_scale=True, desc=path.name) as bar,
            io.BufferedReader(_Decompressed(_Counted(file, bar)), _PEEKED) as stream,
        ):
            if is_web_page(stream.peek(1024)):
                raise SpeechmillError(
                    f"{path} is a web page, perhaps the error message of a server; delete it, and correct the URL"
                )
            yield stream
    except FileNotFoundError as error:
        raise SpeechmillError(f"{path} does not exist; correct the `path` of the text") from error
    except (*DECOMPRESSION_ERRORS, _CorruptError) as error:
        raise SpeechmillError(f"{path} is truncated or corrupt ({error}); delete it, and download it again") from error


def detect_format(stream: Stream) -> TextFormat:
    """Return the format of a text by its first bytes, which stay in the stream."""
    start = stream.peek(_PEEKED).lstrip(b"\xef\xbb\xbf \t\r\n")
    if not start.startswith(b"<"):
        return "plain"
    return "mediawiki" if b"<mediawiki" in start else "xml"


def read_lines(stream: Stream, path: Path) -> Iterator[str]:
    """Yield the lines of plain text in UTF-8."""
    try:
        yield from io.TextIOWrapper(stream, encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise SpeechmillError(f"{path} is not valid UTF-8 ({error}); convert it, for example with iconv") from error


def read_elements(stream: IO[bytes], path: Path, name: str) -> Iterator[str]:
    """Yield the text of each XML element called `name`, with that of the elements within it.

    Raises:
        SpeechmillError: The XML is malformed, or there is no such element.
    """
    others: Counter[str] = Counter()
    found, depth = False, 0
    for event, element in _parse(stream, path):
        tag = _local(element.tag)
        if tag == name:
            depth += 1 if event == "start" else -1
            if event == "end" and depth == 0:
                found = True
                yield "".join(element.itertext())
        elif event == "end":
            others[tag] += 1
        if event == "end" and depth == 0:
            element.clear()
    if not found:
        known = ", ".join(tag for tag, _ in others.most_common(10))
        raise SpeechmillError(
            f"{path} has no XML element called {name}; set `element` to one of its most frequent ones: {known}"
        )


def read_articles(stream: IO[bytes], path: Path, counts: Counter[str]) -> Iterator[Page]:
    """Yield the articles of the XML dump of a wiki: pages of the namespace 0 in wikitext that are no redirects.

    All pages are counted as `pages`, those that are left out as `redirects` and `other_namespaces`.
    """
    left_out = {"file", "image", "category"}
    page: dict[str, str] = {}
    for event, element in _parse(stream, path):
        tag = _local(element.tag)
        if event == "start":
            if tag == "page":
                page = {}
            continue
        if tag == "namespace" and element.get("key") in (_FILES, _CATEGORIES):
            left_out.add((element.text or "").lower())
        elif tag in ("ns", "text", "model"):
            page[tag] = element.text or ""
        elif tag == "redirect":
            page["redirect"] = "yes"
        elif tag == "page":
            counts["pages"] += 1
            if page.get("ns") != "0" or page.get("model", "wikitext") != "wikitext":
                counts["other_namespaces"] += 1
            elif "redirect" in page:
                counts["redirects"] += 1
            else:
                yield Page(page.get("text", ""), frozenset(left_out))
        if tag in ("page", "siteinfo"):
            element.clear()


def _parse(stream: IO[bytes], path: Path) -> Iterator[tuple[str, ET.Element]]:
    """Yield the events of an XML file; complete children of its root are removed, so that memory is bounded."""
    root, depth = None, 0
    try:
        for event, element in ET.iterparse(stream, events=("start", "end")):
            root = element if root is None else root
            depth += 1 if event == "start" else -1
            yield event, element
            if event == "end" and depth == 1:
                root.clear()
    except ET.ParseError as error:
        raise SpeechmillError(
            f"{path} is truncated or not well-formed XML ({error}); delete it and download it again, or set `format`"
        ) from error


def _local(tag: str) -> str:
    """Return the name of an element without its namespace."""
    return tag.rpartition("}")[2]


class _CorruptError(Exception):
    """Compressed data that cannot be decompressed."""


class _Counted(io.RawIOBase):
    """A file whose bytes a progress bar counts."""

    def __init__(self, file: IO[bytes], bar: Any) -> None:
        self._file, self._bar = file, bar

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        self._bar.update(len(data))
        return len(data)


class _Decompressed(io.RawIOBase):
    """The decompressed content of a file; corrupt data causes an error that no fault of the disk causes."""

    def __init__(self, raw: io.RawIOBase) -> None:
        self._file = decompressed(raw, ends_itself=False)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._file.read(len(buffer))
        except OSError as error:
            # What bz2 raises has no number; errors of the disk do.
            if error.errno is None:
                raise _CorruptError(str(error)) from error
            raise
        buffer[: len(data)] = data
        return len(data)
