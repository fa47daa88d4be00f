"""Progress for a person, also where it goes through a pipe into a log."""

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm


class _Lines:
    """A stream in which each state of a bar is a line, for logs and for jobs that share a terminal."""

    def write(self, text: str) -> None:
        if shown := text.strip("\r\n "):
            sys.stderr.write(f"{shown}\n")

    def flush(self) -> None:
        sys.stderr.flush()


def progress(iterable: Iterable[Any] | None = None, **options: Any) -> "tqdm[Any]":
    """A tqdm bar: drawn in place on a terminal, otherwise a line every ten seconds."""
    if sys.stderr.isatty():
        return tqdm(iterable, **options)
    # A bar within a bar moves no cursor there.
    return tqdm(iterable, file=_Lines(), position=0, mininterval=10, maxinterval=10, ascii=True, **options)


class _Outliving:
    """A stream that drops what is written once its reader is gone."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
        except BrokenPipeError:
            self._drop()
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._drop()

    def _drop(self) -> None:
        # What the stream still holds goes there too, so that nothing fails when the process ends.
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, self._stream.fileno())
        os.close(nothing)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def outliving_readers() -> Iterator[None]:
    """A block that goes on where its standard output and error end in a pipe that nobody reads any longer.

    The `tee` of the rule dies of the signal that asks training to save.
    """
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _Outliving(sys.stdout), _Outliving(sys.stderr)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams
