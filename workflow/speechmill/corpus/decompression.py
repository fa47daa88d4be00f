"""Decompression of gzip, bzip2, xz, LZMA and Zstandard, which are recognised by their first bytes."""

import bz2
import gzip
import io
import lzma
import re
import zlib
from typing import IO, Protocol

import pyarrow as pa

DECOMPRESSION_ERRORS = (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, pa.ArrowException)
"""What reading truncated or corrupt data raises, besides the OSError of bzip2, which has no number."""

_BLOCK = 1 << 16

_SKIPPABLE_FRAME = re.compile(rb"[\x50-\x5f]\x2a\x4d\x18")
"""What pzstd writes before the first frame of data (RFC 8878, section 3.1.2)."""


class Reader(Protocol):
    """Decompressed bytes, which are read from the start to the end."""

    def read(self, size: int, /) -> bytes:
        """Return 1 to `size` bytes; none at the end."""


def decompressed(raw: io.RawIOBase, ends_itself: bool) -> Reader:
    """Return the decompressed content of a file, or the content itself if it is not compressed.

    Args:
        raw: The file.
        ends_itself: Whether the content marks its own end, as an archive does: other bytes after a gzip file are then
            ignored, as by the gzip program. Otherwise they are an error, since they may be what was written last.
    """
    file = io.BufferedReader(raw, 1 << 20)
    start = file.peek(10)
    if start.startswith(b"\x1f\x8b"):
        return _Gunzipped(file) if ends_itself else gzip.GzipFile(fileobj=file)
    if start.startswith(b"BZh") and start[4:10] == b"1AY&SY":
        return bz2.BZ2File(file)
    if start.startswith((b"\xfd7zXZ", b"\x5d\0\0\x80")):
        # With automatic detection, zeros after an xz stream would be taken for a stream of the older format.
        kind = lzma.FORMAT_XZ if start.startswith(b"\xfd") else lzma.FORMAT_ALONE
        return lzma.LZMAFile(file, format=kind)
    if start.startswith(b"\x28\xb5\x2f\xfd") or _SKIPPABLE_FRAME.match(start):
        return pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd")  # type: ignore[no-any-return]
    return file


class _Gunzipped:
    """The content of a gzip file: its members, each checked against its CRC, without other bytes after the last one.

    The reader of the standard library refuses such bytes; the gzip program and the readers of bzip2 and xz ignore them.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._member = zlib.decompressobj(zlib.MAX_WBITS | 16)
        self._pending = b""

    def read(self, size: int) -> bytes:
        while True:
            if self._member.eof:
                self._pending = self._member.unused_data or self._file.read(_BLOCK)
                if not self._pending.startswith(b"\x1f"):
                    return b""
                self._member = zlib.decompressobj(zlib.MAX_WBITS | 16)
            block = self._pending or self._file.read(_BLOCK)
            if not block:
                raise EOFError("unexpected end of data")
            data = self._member.decompress(block, size)
            self._pending = self._member.unconsumed_tail
            if data:
                return data
