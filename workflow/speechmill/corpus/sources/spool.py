"""Temporary storage for the recordings of a stream: one unnamed file that holds them end to end."""

import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from speechmill.corpus.encoded import Encoded, fits_in_memory

_BLOCK = 1 << 20


class Spool:
    """Recordings by name; names are never used as paths. Those that do not fit into memory have files of their own."""

    def __init__(self, file: IO[bytes], folder: Path, cleanup: ExitStack) -> None:
        self._file, self._folder, self._cleanup = file, folder, cleanup
        self._stored: dict[str, tuple[int, int] | Path] = {}

    @property
    def names(self) -> Collection[str]:
        """The names of the stored recordings."""
        return self._stored.keys()

    def add(self, name: str, content: IO[bytes]) -> None:
        """Store the remaining bytes of `content` under `name`."""
        start = self._file.seek(0, 2)
        shutil.copyfileobj(content, self._file, _BLOCK)
        size = self._file.tell() - start
        self._stored[name] = (start, size) if fits_in_memory(size) else self._move(start)

    def add_once(self, name: str, content: IO[bytes]) -> bool:
        """Store the remaining bytes of `content`; return False if other bytes were stored under `name` before."""
        before = self.read(name)
        self.add(name, content)
        return before is None or self.read(name) == before

    def _move(self, start: int) -> Path:
        """Move the bytes from `start` to the end into a file of their own."""
        descriptor, name = tempfile.mkstemp(dir=self._folder)
        self._cleanup.callback(os.unlink, name)
        self._file.seek(start)
        with os.fdopen(descriptor, "wb") as file:
            shutil.copyfileobj(self._file, file, _BLOCK)
        self._file.truncate(start)
        return Path(name)

    def encoded(self, name: str) -> Encoded | None:
        """Return the recording that is stored under `name`, or None."""
        stored = self._stored.get(name)
        if not isinstance(stored, tuple):
            return stored
        start, size = stored
        self._file.seek(start)
        return self._file.read(size)

    def read(self, name: str) -> bytes | None:
        """Return the bytes that are stored under `name`, however many, or None."""
        encoded = self.encoded(name)
        return encoded.read_bytes() if isinstance(encoded, Path) else encoded


@contextmanager
def open_spool(folder: Path) -> Iterator[Spool]:
    """Yield an empty spool on the disk of `folder`; its files are deleted when the block ends."""
    with ExitStack() as cleanup, tempfile.TemporaryFile(dir=folder) as file:
        yield Spool(file, folder, cleanup)
