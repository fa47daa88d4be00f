"""The bytes of an encoded recording: in memory, or in a file if they are many."""

import hashlib
import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from speechmill.core.files import file_digest

Encoded = bytes | Path
"""The bytes themselves, or the path of a file with more than 32 MiB of them."""

_MAX_BYTES_IN_MEMORY = 1 << 25


def fits_in_memory(num_bytes: int) -> bool:
    """Return whether a recording of this size is handled as bytes, and not as a file."""
    return num_bytes <= _MAX_BYTES_IN_MEMORY


def read_encoded(file: Path) -> Encoded:
    """Return the bytes of a file, or its path if they are too many."""
    return file.read_bytes() if fits_in_memory(file.stat().st_size) else file


def num_bytes(encoded: Encoded) -> int:
    """Return the size of a recording in bytes."""
    return encoded.stat().st_size if isinstance(encoded, Path) else len(encoded)


def sha256(encoded: Encoded) -> str:
    """Return the sha256 of a recording, in hexadecimal digits."""
    return file_digest(encoded) if isinstance(encoded, Path) else hashlib.sha256(encoded).hexdigest()


@contextmanager
def mapped(encoded: Encoded) -> Iterator[bytes | mmap.mmap]:
    """Yield the bytes of a recording; those of a file are read from the disk when they are used."""
    if isinstance(encoded, Path):
        with encoded.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as pages:
            yield pages
    else:
        yield encoded
