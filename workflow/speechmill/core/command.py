"""The command line of every stage: the one error type for users, and the exit status and message of a failure."""

import errno
import re
import sys
from collections.abc import Callable

from speechmill.core.file_times import reset_future_times

DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""The numbers of the system errors that mean that there is no room for a file."""
_NO_PERMISSION = {errno.EACCES, errno.EPERM, errno.EROFS}

# All but tabs and line ends.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class SpeechmillError(Exception):
    """An error that the user can fix; the message names the file or key and says what to do."""


def run_command(main: Callable[[], None]) -> None:
    """Run the `main` of a stage; print an error that the user can fix without a traceback and exit with status 1.

    After a success, no file in the folders of results that the command line names has a time in the future.
    """
    try:
        main()
        reset_future_times(sys.argv)
    except Exception as error:
        message = user_message(error)
        if message is None:
            raise
        print(f"error: {printable(message)}", file=sys.stderr)
        sys.exit(1)


def printable(text: str) -> str:
    r"""Return `text` with its control characters as escapes such as `\x1b`, which would control the terminal."""
    return _CONTROLS.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def user_message(error: Exception) -> str | None:
    """Return what the user can do about `error`, or None for a bug, which needs its traceback."""
    if isinstance(error, SpeechmillError):
        return str(error)
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        return (
            f"the disk is full, or a quota or size limit is reached ({error}); free some space and run snakemake again:"
            " no incomplete file was left behind"
        )
    if isinstance(error, OSError) and error.errno in _NO_PERMISSION:
        return (
            f"no permission to read or write a file ({error}); fix the permissions, or run as a user who has them, and"
            " run snakemake again: existing results are unchanged"
        )
    return None
