"""Clips of a stream, kept end to end in one unnamed file until they are asked for."""

import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


class Spool:
    """Clips by name; a name, whatever it is, is never a path."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._places: dict[str, tuple[int, int]] = {}

    @property
    def names(self) -> Collection[str]:
        """The names of what is kept."""
        return self._places.keys()

    def add(self, name: str, content: IO[bytes]) -> None:
        """Keep what `content` still has to give, under `name`."""
        start = self._file.seek(0, 2)
        while chunk := content.read(1 << 20):
            self._file.write(chunk)
        self._places[name] = (start, self._file.tell() - start)

    def read(self, name: str) -> bytes | None:
        """The bytes that were kept under `name`, or None."""
        if name not in self._places:
            return None
        start, size = self._places[name]
        self._file.seek(start)
        return self._file.read(size)


@contextmanager
def spooled(work: Path) -> Iterator[Spool]:
    """A spool on the disk of `work`, gone when the block ends."""
    with tempfile.TemporaryFile(dir=work) as file:
        yield Spool(file)
