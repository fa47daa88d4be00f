"""How every stage's program meets its user: one error type, one exit path."""

import errno
import glob
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_READ_ONLY = {errno.EACCES, errno.EPERM, errno.EROFS}
# What snakemake makes as a whole: of a file in it that is gone it knows nothing.
_FOLDERS = re.compile(r"(?:.*/)?results/(?:raw/[^/]+|models/[^/]+|runs/[^/]+/checkpoints)(?=/)")


class SpeechmillError(Exception):
    """A fault that the user can mend: the message names the file or key and says what to do."""


def run_command(main: Callable[[], None]) -> None:
    """Run a stage's `main`; a SpeechmillError or a full disk ends it with a message alone and exit status 1."""
    try:
        main()
    except Exception as error:
        message = user_message(error)
        if message is None:
            raise
        print(f"error: {message}", file=sys.stderr)
        sys.exit(1)


def user_message(error: Exception) -> str | None:
    """What a user can do about `error`; None where it is a fault of ours, which wants its traceback."""
    if isinstance(error, SpeechmillError):
        return str(error)
    if isinstance(error, OSError) and error.errno in _FULL:
        return (
            f"the disk has no room left, or a quota or limit is reached ({error}); make room and run snakemake again:"
            " nothing half-written stands in place"
        )
    if isinstance(error, OSError) and error.errno in _READ_ONLY:
        return (
            f"this may not be written or read ({error}); give yourself the right to it, or run where you have it, and"
            " run snakemake again: all that was made before is as it was"
        )
    return None


def corrupt_file_error(path: Path, how: str) -> SpeechmillError:
    """What to say of a file that speechmill made and that cannot be used any more; `how` ends "the file ...".

    It names what to delete, so that the next run makes it again: of a folder that is made as a whole the folder, and of
    an entry of the cache between workflows the entry, which would be linked again otherwise.
    """
    folder = _FOLDERS.match(path.as_posix())
    made = Path(folder[0]) if folder else path
    gone = made.resolve() if made.is_symlink() else made
    return SpeechmillError(f"{path} {how}; delete {'it' if gone == path else gone} and run snakemake again")


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a path beside `path` to write to; it takes the name `path` only if the block succeeds.

    A reader, or a run that is started after a kill, never sees half a file; what a killed one left is cleared away.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        left.unlink(missing_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield beside
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
