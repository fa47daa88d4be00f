"""Temporary storage for the clips of a stream: one unnamed file that holds them end to end."""

import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


class Spool:
    """Clips by name; names are never used as paths."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._extents: dict[str, tuple[int, int]] = {}

    @property
    def names(self) -> Collection[str]:
        """The names of the stored clips."""
        return self._extents.keys()

    def add(self, name: str, content: IO[bytes]) -> None:
        """Store the remaining bytes of `content` under `name`."""
        start = self._file.seek(0, 2)
        while chunk := content.read(1 << 20):
            self._file.write(chunk)
        self._extents[name] = (start, self._file.tell() - start)

    def read(self, name: str) -> bytes | None:
        """Return the bytes that are stored under `name`, or None."""
        if name not in self._extents:
            return None
        start, size = self._extents[name]
        self._file.seek(start)
        return self._file.read(size)


@contextmanager
def open_spool(folder: Path) -> Iterator[Spool]:
    """Yield an empty spool on the disk of `folder`; its file is deleted when the block ends."""
    with tempfile.TemporaryFile(dir=folder) as file:
        yield Spool(file)
