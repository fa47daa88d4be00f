"""The files of a ZIP archive by name, read in place."""

import lzma
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from speechmill.core.command import SpeechmillError

_ENCRYPTED = 1
_UTF8 = 1 << 11
_DAMAGED = (zipfile.BadZipFile, EOFError, ValueError, OSError, zlib.error, lzma.LZMAError)


def is_zip(path: Path) -> bool:
    """Return whether a file is a ZIP archive, by its first bytes."""
    with path.open("rb") as file:
        return file.read(4) in (b"PK\x03\x04", b"PK\x05\x06")


@contextmanager
def open_zip(
    path: Path, keep: Callable[[str], str | None], largest: int
) -> Iterator[tuple[Mapping[str, object], Callable[[str], bytes | None]]]:
    """Yield the names of the selected files of a ZIP archive, and a function that reads one by name.

    Args:
        path: The archive.
        keep: Maps the name of a file to the name under which it is available, or to None to ignore it.
        largest: The largest accepted size of a selected file in bytes.

    Raises:
        SpeechmillError: The archive is damaged or uses an unsupported compression; or a selected file is encrypted, a
            link, too large, has a name that points outside the archive, or exists twice with different contents.
    """
    try:
        archive = zipfile.ZipFile(path)
    except _DAMAGED as error:
        raise SpeechmillError(
            f"{path} cannot be read to its end ({error}): it is truncated or not an archive; download it again"
        ) from error
    with archive:

        def content(member: zipfile.ZipInfo) -> bytes:
            try:
                return archive.read(member)
            except NotImplementedError as error:
                raise SpeechmillError(
                    f"{path}: {member.filename!r} cannot be read ({error}); unpack the archive, and set the dataset's"
                    " `path` to the folder"
                ) from error
            except _DAMAGED as error:
                raise SpeechmillError(
                    f"{path}: {member.filename!r} cannot be read ({error}); download the archive again"
                ) from error

        members: dict[str, zipfile.ZipInfo] = {}
        for member in archive.infolist():
            name = _name(member)
            kept = None if member.is_dir() or name.startswith("__MACOSX/") else keep(name)
            if kept is None:
                continue
            problem = _problem(member, name, largest)
            if problem is None and kept in members and content(members[kept]) != content(member):
                problem = "exists twice with different contents; download the archive again"
            if problem is not None:
                raise SpeechmillError(f"{path} is refused: its member {member.filename!r} {problem}")
            members.setdefault(kept, member)
        yield members, lambda name: content(members[name]) if name in members else None


def _name(member: zipfile.ZipInfo) -> str:
    name = member.filename
    if not member.flag_bits & _UTF8:
        # macOS does not set the flag; zipfile then decodes as cp437.
        with suppress(UnicodeError):
            name = name.encode("cp437").decode()
    # Old programs for Windows write backslashes.
    return str(PurePosixPath(name if "/" in name else name.replace("\\", "/")))


def _problem(member: zipfile.ZipInfo, name: str, largest: int) -> str | None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        return "has a name that points outside the archive; download the archive again"
    if member.flag_bits & _ENCRYPTED:
        return "is encrypted; unpack the archive with its password, and set the dataset's `path` to the folder"
    if stat.S_ISLNK(member.external_attr >> 16):
        return "is a link; unpack the archive, and set the dataset's `path` to the folder"
    if member.file_size > largest:
        return f"has a size of {member.file_size:,} bytes, which no clip or table has; download the archive again"
    return None
