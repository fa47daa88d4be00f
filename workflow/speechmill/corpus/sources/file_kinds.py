"""What a file is by its first bytes, for files that should be archives."""

import zlib
from pathlib import Path

_BLOCK = 1024

_UNSUPPORTED = {
    b"7z\xbc\xaf\x27\x1c": "a 7-Zip archive",
    b"Rar!\x1a\x07": "a RAR archive",
    b"MSCF": "a cabinet archive",
    b"LZIP": "compressed with lzip",
    b"\x1f\x9d": "compressed with compress",
    b"\x04\x22\x4d\x18": "compressed with LZ4",
    b"PAR1": "a Parquet file",
}


def unsupported_archive(path: Path) -> str | None:
    """Return what kind of archive or other data a file is, if it is known and none that is read."""
    start = _start(path)
    return next((kind for signature, kind in _UNSUPPORTED.items() if start.startswith(signature)), None)


def web_page(path: Path) -> str | None:
    """Return `a web page` if a file is HTML, such as an error page of a server; otherwise None."""
    return "a web page" if is_web_page(_start(path)) else None


def is_web_page(start: bytes) -> bool:
    """Return whether a file that starts with these bytes is HTML."""
    return start.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith((b"<!doctype html", b"<html"))


def text_kind(path: Path) -> str | None:
    """Return what kind of text a file is, such as an error page of a server, also compressed; None if it is not text.

    Every archive has bytes that text does not have: a tar archive has NUL bytes in its first header, and the others in
    their signature or soon after it.
    """
    start = _start(path)
    if start.startswith(b"\x1f\x8b"):
        try:
            start = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(start, _BLOCK)
        except zlib.error:
            return None
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        start = start.decode("utf-16", "replace").encode()
    text = start.decode("utf-8-sig", "replace").strip()
    if not text or "\0" in text:
        return None
    if text.startswith("<"):
        return "a web page"
    # The last character may be incomplete; a single word may be the name that a truncated tar archive begins with.
    is_text = (
        all(each.isprintable() or each.isspace() for each in text) and "\N{REPLACEMENT CHARACTER}" not in text[:-1]
    )
    return "text" if is_text and (text[0] in "{[" or any(each.isspace() for each in text)) else None


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_BLOCK)
