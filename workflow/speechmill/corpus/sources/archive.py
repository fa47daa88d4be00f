"""Access to the files of a corpus by name, in an archive or in the folder that it unpacks to."""

import hashlib
import io
import os
import re
import sys
import tarfile
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Self

from tqdm import tqdm

from speechmill.core.command import SpeechmillError
from speechmill.core.files import file_digest
from speechmill.core.progress import progress
from speechmill.corpus.decompression import DECOMPRESSION_ERRORS, decompressed
from speechmill.corpus.encoded import Encoded, read_encoded
from speechmill.corpus.sources.file_kinds import text_kind, unsupported_archive
from speechmill.corpus.sources.spool import Spool, open_spool
from speechmill.corpus.sources.zip_archive import is_zip, read_zip

_LARGEST = 1 << 30
"""The largest accepted size of a clip or table in bytes."""

_LARGEST_HEADER = 1 << 16
"""The largest accepted size of a long name or extended header in bytes; tarfile reads them into memory."""

_NOT_TEXT = re.compile("[\ud800-\udfff]")
"""Surrogates, which stand for bytes of a name that are not UTF-8."""

_EXTENSION_TYPES = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)

_DEPTH = 5
"""The number of nested folders that are searched, which ends the search of a folder that contains a link to itself."""

_BLOCK = 1 << 16


@dataclass(frozen=True)
class Tree:
    """The files of a corpus: `names`, and two functions that return a file by its name, or None if there is none.

    `read(name)` returns the bytes of a table, `encoded(name)` a recording, of which a large one stays on the disk. Only
    listed files are opened: a name from a table or an archive is never used as a path on this host.
    """

    names: Collection[str]
    read: Callable[[str], bytes | None]
    encoded: Callable[[str], Encoded | None]
    about: dict[str, Any] = field(default_factory=dict)
    """`bytes` and `sha256` of an archive; empty for a folder."""


@contextmanager
def open_tree(path: Path, work: Path, keep: Callable[[str], str | None]) -> Iterator[Tree]:
    """Yield the files at `path`, a tar archive (plain, gzip, bzip2, xz or Zstandard), a ZIP archive or a folder.

    An archive is read once, as a stream, and the selected members are stored in one unnamed file in `work` instead of
    a hundred thousand files. The files of a folder are read in place.

    Args:
        path: The archive or folder; the kind of an archive is found from its first bytes.
        work: A folder for temporary files.
        keep: Maps the name of a file, relative to the archive or folder, to the name under which it is available, or
            to None to ignore the file.

    Raises:
        SpeechmillError: The archive is truncated, damaged or not an archive; the name of a member points outside it;
            or a selected file is not a regular file, points outside the folder, is too large, or exists twice with
            different contents.
    """
    if path.is_dir():
        yield _open_folder(path, keep)
        return
    with open_spool(work) as spool:
        try:
            _check_kind(path)
            about = _read_zip_archive(path, keep, spool) if is_zip(path) else _read_archive(path, keep, spool)
        except OSError as error:
            raise SpeechmillError(
                f"{path} cannot be read, or {work} has no room for it ({error}); check both"
            ) from error
        yield Tree(spool.names, spool.read, spool.encoded, about)


def _check_kind(path: Path) -> None:
    if kind := unsupported_archive(path):
        raise SpeechmillError(
            f"{path} is {kind}, which is not read: unpack it, and set the dataset's `path` to the folder"
        )
    if kind := text_kind(path):
        raise SpeechmillError(
            f"{path} is {kind} and not an archive, perhaps the error message of a server; delete it, and download it"
            " again"
        )


def _read_zip_archive(path: Path, keep: Callable[[str], str | None], spool: Spool) -> dict[str, Any]:
    read_zip(path, keep, spool, _LARGEST)
    return {"bytes": path.stat().st_size, "sha256": file_digest(path)}


class _RefusedError(tarfile.TarError):
    """An archive member that no regular corpus contains."""


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
                    # Otherwise tarfile keeps all members and headers in memory while the archive is open.
                    archive.members = []  # type: ignore[attr-defined]  # missing in the stubs
                    archive.pax_headers = {}
            stream.finish()
        except _RefusedError as error:
            raise SpeechmillError(f"{path} is refused: {error}; download the archive again") from error
        # A malformed header causes a ValueError in tarfile, and nested headers without end a RecursionError.
        except (tarfile.TarError, ValueError, RecursionError) as error:
            raise SpeechmillError(
                f"{path} cannot be read to its end ({error}): it is truncated or not an archive; download it again"
            ) from error
        return source.finish()


def _keep_member(
    archive: tarfile.TarFile, member: tarfile.TarInfo, keep: Callable[[str], str | None], spool: Spool
) -> None:
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts:
        raise _RefusedError(f"the name of its member {member.name!r} points outside the archive")
    name = None if member.isdir() else keep(str(path))
    if name is None:
        return
    if _NOT_TEXT.search(name):
        raise _RefusedError(f"the name of its member {member.name!r} is not UTF-8")
    content = archive.extractfile(member) if member.isreg() and not member.issparse() else None
    if content is None:
        raise _RefusedError(f"its member {member.name!r} is a link or another special file")
    if not 0 <= member.size <= _LARGEST:
        raise _RefusedError(
            f"its member {member.name!r} has a size of {member.size:,} bytes, which no clip or table has"
        )
    if not spool.add_once(name, content):
        raise _RefusedError(f"it contains {member.name!r} twice with different contents")


class _Source(io.RawIOBase):
    """The file of an archive, which is hashed and counted while it is read, with a progress bar.

    Hashing takes as long as decompressing, so it runs in a thread of its own, one block behind.
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
        # A copy, because the reader may overwrite its buffer before it is hashed.
        self._hashing = self._thread.submit(self._digest.update, bytes(memoryview(buffer)[:count]))
        return count

    def finish(self) -> dict[str, Any]:
        """Read the rest of the file, and return the size and digest of the entire file."""
        while self.read(_BLOCK):
            pass
        self._hashing.result()
        return {"bytes": self._bytes, "sha256": self._digest.hexdigest()}


class _Decompressed(io.RawIOBase):
    """The decompressed content of an archive's file; failures become a tarfile.ReadError."""

    def __init__(self, source: _Source) -> None:
        self._file = decompressed(source, ends_itself=True)

    def read(self, size: int = -1) -> bytes:
        """Return 1 to `size` bytes: an archive marks its own end, so tarfile never reads to the end of the file."""
        data = self._read(size)
        if not data:
            raise tarfile.ReadError("unexpected end of data")
        return data

    def finish(self) -> None:
        """Read the data after the end of the archive, where the checksums of the compression are."""
        while self._read(_BLOCK):
            pass

    def _read(self, size: int) -> bytes:
        try:
            return self._file.read(size)
        except (OSError, *DECOMPRESSION_ERRORS) as error:
            raise tarfile.ReadError(str(error)) from error


class _Header(tarfile.TarInfo):
    """A strict header: tarfile itself takes a damaged one for the end, and reads one of any length into memory."""

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
        if header.type in _EXTENSION_TYPES and not 0 <= header.size <= _LARGEST_HEADER:
            raise _RefusedError(f"it has a header of {header.size:,} bytes")
        return header

    def _proc_gnusparse_10(self, member: tarfile.TarInfo, *_: object) -> None:
        # The newer format of a sparse file starts its content with a map of any size.
        raise _RefusedError(f"its member {member.name!r} is a sparse file")


def _open_folder(path: Path, keep: Callable[[str], str | None]) -> Tree:
    root = path.resolve()
    files: dict[str, str] = {}
    try:
        for path_in_root, linked in _list_files(root, _DEPTH):
            name = keep(path_in_root)
            if name is None:
                continue
            if _NOT_TEXT.search(name):
                raise SpeechmillError(f"{path}: the name {path_in_root!r} is not UTF-8; rename the file")
            if linked and not (root / path_in_root).resolve().is_relative_to(root):
                raise SpeechmillError(
                    f"{root / path_in_root} is a link that points outside {root}; replace it with its target"
                )
            files[name] = path_in_root
    except OSError as error:
        raise SpeechmillError(f"{path} cannot be read ({error}); check its permissions") from error

    def encoded(name: str) -> Encoded | None:
        if name not in files:
            return None
        file = root / files[name]
        try:
            if file.stat().st_size > _LARGEST:
                raise SpeechmillError(f"{file} has more than {_LARGEST:,} bytes, which no clip or table has; remove it")
            return read_encoded(file)
        except OSError as error:
            raise SpeechmillError(f"{file} cannot be read ({error}); check its permissions") from error

    def read(name: str) -> bytes | None:
        content = encoded(name)
        return content.read_bytes() if isinstance(content, Path) else content

    return Tree(files.keys(), read, encoded)


def _list_files(folder: Path | str, depth: int, linked: bool = False) -> Iterator[tuple[str, bool]]:
    """Yield the files below `folder` relative to it, each with whether its path contains a link."""
    with os.scandir(folder) as entries:
        for entry in entries:
            is_link = entry.is_symlink()
            # Of a link to itself or below a file, the methods of an entry raise an error.
            if os.path.isfile(entry.path) if is_link else entry.is_file():  # noqa: PTH113
                yield entry.name, linked or is_link
            elif depth > 1 and (os.path.isdir(entry.path) if is_link else entry.is_dir()):  # noqa: PTH112
                try:
                    for name, inner in _list_files(entry.path, depth - 1, linked or is_link):
                        yield f"{entry.name}/{name}", inner
                except PermissionError as error:
                    print(
                        f"{entry.path} cannot be read ({error.strerror}); its files count as missing", file=sys.stderr
                    )
