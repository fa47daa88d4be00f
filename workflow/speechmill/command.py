"""How every stage's program meets its user: one error type, one exit path."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


class SpeechmillError(Exception):
    """A fault that the user can mend: the message names the file or key and says what to do."""


def run_command(main: Callable[[], None]) -> None:
    """Run a stage's `main`; a SpeechmillError ends it with its message alone and exit status 1."""
    try:
        main()
    except SpeechmillError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a path beside `path` to write to; it takes the name `path` only if the block succeeds.

    A reader, or a run that is started after a kill, never sees half a file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield beside
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
