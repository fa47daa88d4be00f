"""The files of a corpus by name, whether they lie in one archive or in the folder that it unpacks to."""

import bz2
import hashlib
import io
import lzma
import os
import re
import tarfile
import zlib
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any, Self

from tqdm import tqdm

from speechmill.core.command import SpeechmillError
from speechmill.core.progress import progress
from speechmill.corpus.sources.spool import Spool, spooled

_LARGEST = 1 << 30
"""Bytes of the largest clip or table that a corpus has."""

_LARGEST_HEADER = 1 << 16
"""Bytes of the longest name or extended header of a member; tarfile reads them whole."""

_NOT_TEXT = re.compile("[\ud800-\udfff]")
"""What stands in a name for bytes that are not UTF-8."""

_DESCRIBE_OTHERS = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)

_DEPTH = 5
"""Folders in one another that are looked into, so that a link back to its own folder comes to an end."""

_BLOCK = 1 << 16


@dataclass(frozen=True)
class Tree:
    """The files of a corpus: their `names`, and `read(name)`, their bytes, or None where there is no such file.

    Only what was found is ever opened: a name that a table or an archive holds is never a path on this host.
    """

    names: Collection[str]
    read: Callable[[str], bytes | None]
    about: dict[str, Any] = field(default_factory=dict)
    """An archive's `bytes` and `sha256`; nothing for a folder."""


@contextmanager
def open_tree(path: Path, work: Path, keep: Callable[[str], str | None]) -> Iterator[Tree]:
    """The files at `path`, an archive (plain, gzip, bzip2 or xz) or a folder.

    `keep` is asked for every file, by its name relative to the archive or folder, and gives the name under which the
    file is kept, or None. An archive is read once, as a stream, and what is kept of it goes end to end into one
    unnamed file in `work`; so a hundred thousand files are never made. A folder's files are read from where they lie.

    Raises SpeechmillError where an archive is cut short, damaged or not one; where a member's name leads out of it;
    where what is kept is not a file, leads out of the folder, is larger than any clip, or is there twice and differs.
    """
    if path.is_dir():
        yield _folder(path, keep)
        return
    with spooled(work) as spool:
        try:
            about = _read_archive(path, keep, spool)
        except OSError as error:
            raise SpeechmillError(f"{path} cannot be read, or there is no room for it in {work} ({error})") from error
        yield Tree(spool.names, spool.read, about)


class _RefusedError(tarfile.TarError):
    """A member that no publisher packs."""


def _read_archive(path: Path, keep: Callable[[str], str | None], spool: Spool) -> dict[str, Any]:
    with (
        path.open("rb", buffering=0) as file,
        progress(total=path.stat().st_size, unit="B", unit_scale=True, desc=path.name) as bar,
        ThreadPoolExecutor(1) as thread,
    ):
        source = _Source(file, bar, thread)
        stream = _Decompressed(source)
        try:
            with tarfile.open(fileobj=stream, mode="r|", bufsize=_BLOCK, tarinfo=_Header, encoding="utf-8") as archive:
                while (member := archive.next()) is not None:
                    _keep_member(archive, member, keep, spool)
                    # Otherwise tarfile remembers every member and every header for as long as the archive is open.
                    archive.members = []  # type: ignore[attr-defined]  # the stubs leave it out
                    archive.pax_headers = {}
            stream.finish()
        except _RefusedError as error:
            raise SpeechmillError(f"{path} is refused: {error}; fetch the archive from its publisher again") from error
        # What a hostile header makes of tarfile's own parsing is a ValueError, or headers of headers without end.
        except (tarfile.TarError, ValueError, RecursionError) as error:
            raise SpeechmillError(
                f"{path} cannot be read to its end ({error}): it is cut short or not an archive; fetch it again"
            ) from error
        return source.finish()


def _keep_member(
    archive: tarfile.TarFile, member: tarfile.TarInfo, keep: Callable[[str], str | None], spool: Spool
) -> None:
    place = PurePosixPath(member.name)
    if place.is_absolute() or ".." in place.parts:
        raise _RefusedError(f"the name of its member {member.name!r} leads out of it")
    name = None if member.isdir() else keep(str(place))
    if name is None:
        return
    if _NOT_TEXT.search(name):
        raise _RefusedError(f"the name of its member {member.name!r} is not UTF-8")
    content = archive.extractfile(member) if member.isreg() and not member.issparse() else None
    if content is None:
        raise _RefusedError(f"its member {member.name!r} is a link or another thing that is not a plain file")
    if not 0 <= member.size <= _LARGEST:
        raise _RefusedError(f"its member {member.name!r} says that it has {member.size:,} bytes; no clip or table has")
    before = spool.read(name)
    spool.add(name, content)
    if before is not None and spool.read(name) != before:
        raise _RefusedError(f"it has the member {member.name!r} twice, and they differ")


class _Source(io.RawIOBase):
    """An archive's file, counted, shown and hashed as it is read.

    Hashing takes as long as decompressing, so it has a thread of its own, one block behind.
    """

    def __init__(self, file: io.FileIO, bar: "tqdm[Any]", thread: ThreadPoolExecutor) -> None:
        self._file, self._bar, self._thread = file, bar, thread
        self._digest = hashlib.sha256()
        self._hashing: Future[None] = thread.submit(self._digest.update, b"")
        self._bytes = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._file.readinto(buffer)
        self._bytes += count
        self._bar.update(count)
        self._hashing.result()
        # A copy, since the reader may overwrite its buffer before it is hashed.
        self._hashing = self._thread.submit(self._digest.update, bytes(memoryview(buffer)[:count]))
        return count

    def finish(self) -> dict[str, Any]:
        """Read the rest of the file; the size and digest of all of it."""
        while self.read(_BLOCK):
            pass
        self._hashing.result()
        return {"bytes": self._bytes, "sha256": self._digest.hexdigest()}


class _Decompressed(io.RawIOBase):
    """What an archive's file holds, decompressed if need be. What it cannot give is a tarfile.ReadError."""

    def __init__(self, source: _Source) -> None:
        file = io.BufferedReader(source, 1 << 20)
        start = file.peek(10)
        self._file: IO[bytes] | _Gunzipped = file
        if start.startswith(b"\x1f\x8b"):
            self._file = _Gunzipped(file)
        elif start.startswith(b"BZh") and start[4:10] == b"1AY&SY":
            self._file = bz2.BZ2File(file)
        elif start.startswith((b"\xfd7zXZ", b"\x5d\0\0\x80")):
            # Left to guess, it takes zeros behind an xz stream for a stream of the older format.
            kind = lzma.FORMAT_XZ if start.startswith(b"\xfd") else lzma.FORMAT_ALONE
            self._file = lzma.LZMAFile(file, format=kind)  # noqa: SIM115  # it holds no file of its own

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes and at least one: an archive marks its own end, so nobody reads on to that of the file."""
        data = self._read(size)
        if not data:
            raise tarfile.ReadError("it has no end")
        return data

    def finish(self) -> None:
        """Read what follows the end of the archive, since the checksums come last."""
        while self._read(_BLOCK):
            pass

    def _read(self, size: int) -> bytes:
        try:
            return self._file.read(size)
        except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
            raise tarfile.ReadError(str(error)) from error


class _Gunzipped:
    """The members of a gzip file, each checked against its CRC; other bytes after the last are no part of it.

    The standard library's reader refuses such bytes, where gzip itself, and what reads bzip2 and xz, do not.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._member = zlib.decompressobj(zlib.MAX_WBITS | 16)
        self._waiting = b""

    def read(self, size: int) -> bytes:
        while True:
            if self._member.eof:
                self._waiting = self._member.unused_data or self._file.read(_BLOCK)
                if not self._waiting.startswith(b"\x1f"):
                    return b""
                self._member = zlib.decompressobj(zlib.MAX_WBITS | 16)
            block = self._waiting or self._file.read(_BLOCK)
            if not block:
                raise EOFError("it has no end")
            data = self._member.decompress(block, size)
            self._waiting = self._member.unconsumed_tail
            if data:
                return data


class _Header(tarfile.TarInfo):
    """A header that is what it seems: tarfile takes a damaged one for the end, and reads a long one whole."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            header = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if buf == bytes(tarfile.BLOCKSIZE):
                raise
            raise tarfile.ReadError(str(error)) from error
        if header.type == tarfile.GNUTYPE_SPARSE:
            raise _RefusedError(f"its member {header.name!r} is a sparse file")
        if header.type in _DESCRIBE_OTHERS and not 0 <= header.size <= _LARGEST_HEADER:
            raise _RefusedError(f"it has a header of {header.size:,} bytes")
        return header

    def _proc_gnusparse_10(self, member: tarfile.TarInfo, *_: object) -> None:
        # The newer form of a sparse file: its map, of any size, lies where the content begins.
        raise _RefusedError(f"its member {member.name!r} is a sparse file")


def _folder(path: Path, keep: Callable[[str], str | None]) -> Tree:
    root = path.resolve()
    files: dict[str, str] = {}
    try:
        for place, linked in _listed(root, _DEPTH):
            name = keep(place)
            if name is None:
                continue
            if _NOT_TEXT.search(name):
                raise SpeechmillError(f"{path}: the name {place!r} is not UTF-8; give the file another")
            if linked and not (root / place).resolve().is_relative_to(root):
                raise SpeechmillError(
                    f"{root / place} is a link that leads out of {root}; put what it leads to in its place"
                )
            files[name] = place
    except OSError as error:
        raise SpeechmillError(f"{path} cannot be read ({error})") from error

    def read(name: str) -> bytes | None:
        if name not in files:
            return None
        file = root / files[name]
        try:
            if file.stat().st_size > _LARGEST:
                raise SpeechmillError(f"{file} has more than {_LARGEST:,} bytes; no clip or table has")
            return file.read_bytes()
        except OSError as error:
            raise SpeechmillError(f"{file} cannot be read ({error})") from error

    return Tree(files.keys(), read)


def _listed(folder: Path | str, depth: int, linked: bool = False) -> Iterator[tuple[str, bool]]:
    """The files below `folder`, relative to it, each with whether a link leads there."""
    with os.scandir(folder) as entries:
        for entry in entries:
            is_linked = linked or entry.is_symlink()
            if entry.is_file():
                yield entry.name, is_linked
            elif depth > 1 and entry.is_dir():
                for name, inner in _listed(entry.path, depth - 1, is_linked):
                    yield f"{entry.name}/{name}", inner
