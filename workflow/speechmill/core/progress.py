"""Progress bars on terminals and in logs, and output that survives a broken pipe."""

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm


class _LineStream:
    """A stream that writes each update of a bar as a line, for logs and for jobs that share a terminal."""

    def write(self, text: str) -> None:
        if line := text.strip("\r\n "):
            sys.stderr.write(f"{line}\n")

    def flush(self) -> None:
        sys.stderr.flush()


def progress(iterable: Iterable[Any] | None = None, **options: Any) -> "tqdm[Any]":
    """Return a tqdm bar: drawn in place on a terminal, otherwise one line every ten seconds."""
    if sys.stderr.isatty():
        return tqdm(iterable, **options)
    # Without `position`, a nested bar would write cursor movements.
    return tqdm(iterable, file=_LineStream(), position=0, mininterval=10, maxinterval=10, ascii=True, **options)


class _PipeSafeStream:
    """A stream that discards its output once the reader of its pipe has ended."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
        except BrokenPipeError:
            self._discard()
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._discard()

    def _discard(self) -> None:
        # Output that is still buffered goes there too, so that flushing it at exit does not fail.
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, self._stream.fileno())
        os.close(devnull)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def ignore_broken_pipes() -> Iterator[None]:
    """Discard the output of a block, instead of failing, once the reader of its pipe has ended.

    The `tee` in the rule is ended by the same signal that asks training to save a resume state.
    """
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _PipeSafeStream(sys.stdout), _PipeSafeStream(sys.stderr)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams
