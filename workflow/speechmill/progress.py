"""Progress for a person, also where it goes through a pipe into a log."""

import sys
from collections.abc import Iterable
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
    return tqdm(iterable, file=_Lines(), mininterval=10, maxinterval=10, ascii=True, **options)
