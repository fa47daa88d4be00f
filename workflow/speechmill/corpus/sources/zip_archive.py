"""The files of a ZIP archive."""

import lzma
import stat
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path, PurePosixPath

from speechmill.core.command import SpeechmillError
from speechmill.core.progress import progress
from speechmill.corpus.sources.spool import Spool

_ENCRYPTED = 1
_UTF8 = 1 << 11


def is_zip(path: Path) -> bool:
    """Return whether a file is a ZIP archive, by its first bytes."""
    with path.open("rb") as file:
        return file.read(4) in (b"PK\x03\x04", b"PK\x05\x06")


def read_zip(path: Path, keep: Callable[[str], str | None], spool: Spool, largest: int) -> None:
    """Store the selected files of a ZIP archive in `spool`.

    Args:
        path: The archive.
        keep: Maps the name of a file to the name under which it is stored, or to None to ignore it.
        spool: Where the files are stored.
        largest: The largest accepted size of a selected file in bytes.

    Raises:
        OSError: The archive cannot be read, or the disk is full.
        SpeechmillError: The archive is damaged or uses an unsupported compression; or a selected file is encrypted, a
            link, too large, has a name that points outside the archive, or exists twice with different contents.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for member in progress(archive.infolist(), desc=path.name, unit="file"):
                name = _name(member)
                kept = None if member.is_dir() or name.startswith("__MACOSX/") else keep(name)
                if kept is None:
                    continue
                if problem := _problem(member, name, largest):
                    raise SpeechmillError(f"{path} is refused: its member {member.filename!r} {problem}")
                with archive.open(member) as content:
                    is_unique = spool.add_once(kept, content)
                if not is_unique:
                    raise SpeechmillError(
                        f"{path} is refused: it contains {member.filename!r} twice with different contents; download it"
                        " again"
                    )
    except NotImplementedError as error:
        raise SpeechmillError(
            f"{path} cannot be read ({error}); unpack it, and set the dataset's `path` to the folder"
        ) from error
    except (zipfile.BadZipFile, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
        raise SpeechmillError(
            f"{path} cannot be read to its end ({error}): it is truncated or not an archive; download it again"
        ) from error


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
