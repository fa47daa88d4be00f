"""Reading and writing Parquet tables with a bounded amount of memory."""

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from speechmill.core.files import atomic_write, corrupt_file_error

# Columns of names and numbers, in which values repeat.
_REPETITIVE_TYPES = (pa.string(), pa.int32())

_MAX_GROUP_BYTES = 1 << 26


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Return the table in `path`, or only its `columns`.

    Raises:
        SpeechmillError: The table cannot be read.
    """
    try:
        return pq.read_table(path, columns=columns)
    except (pa.ArrowInvalid, OSError) as error:
        raise corrupt_file_error(path, f"cannot be read ({error})") from error


def write_table(rows: Iterable[dict[str, Any]], schema: pa.Schema, path: Path) -> None:
    """Write `rows` as the table `path`, atomically."""
    with atomic_write(path) as temporary:
        pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), temporary)


def write_in_row_groups(rows: Iterable[dict[str, Any]], schema: pa.Schema, path: Path, group_size: int) -> list[int]:
    """Write `rows` one row group at a time, and return the number of rows of each.

    A row group has `group_size` rows, or fewer once its audio reaches 64 MiB: writers and readers hold one row group in
    memory.
    """
    return write_row_groups(_grouped(rows, group_size), schema, path)


def _grouped(rows: Iterable[dict[str, Any]], group_size: int) -> Iterator[list[dict[str, Any]]]:
    group: list[dict[str, Any]] = []
    group_bytes = 0
    for row in rows:
        group.append(row)
        group_bytes += _audio_bytes(row)
        # Without a reference, the audio of a written row can be freed while the next one is created.
        del row
        if len(group) == group_size or group_bytes >= _MAX_GROUP_BYTES:
            yield group
            group, group_bytes = [], 0
    if group:
        yield group


def _audio_bytes(value: Any) -> int:
    """Return the number of bytes of audio in a row; everything else in it is small."""
    if isinstance(value, dict):
        return sum(map(_audio_bytes, value.values()))
    return len(value) if isinstance(value, bytes) else 0


def write_row_groups(groups: Iterable[list[dict[str, Any]]], schema: pa.Schema, path: Path) -> list[int]:
    """Write each of `groups` as a row group, with one in memory at a time, and return the number of rows of each."""
    # Dictionaries and statistics of a column of audio would take long to compute and are of no use.
    repetitive = [field.name for field in schema if field.type in _REPETITIVE_TYPES]
    options = {"compression": "none", "use_dictionary": repetitive, "write_statistics": repetitive}
    with atomic_write(path) as temporary, pq.ParquetWriter(temporary, schema, **options) as writer:

        def write(group: list[dict[str, Any]]) -> int:
            size, table = len(group), pa.Table.from_pylist(group, schema=schema)
            # The writer copies the audio twice, so the rows should not hold it as well.
            group.clear()
            writer.write_table(table)
            _release_memory()
            return size

        return list(map(write, groups))


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a table, with one row group in memory at a time.

    Raises:
        SpeechmillError: The table cannot be read.
    """
    return itertools.chain.from_iterable(read_row_groups(path))


def read_row_groups(path: Path, groups: Iterable[int] | None = None) -> Iterator[list[dict[str, Any]]]:
    """Yield the row groups of a table, or those with the numbers `groups`, with one in memory at a time.

    Raises:
        SpeechmillError: The table cannot be read.
    """
    try:
        # With `pre_buffer` the file would keep a copy of the last row group.
        with pq.ParquetFile(path, pre_buffer=False) as file:
            for group in range(file.num_row_groups) if groups is None else groups:
                yield _rows(file, group)
    except (pa.ArrowInvalid, OSError) as error:
        raise corrupt_file_error(path, f"cannot be read ({error})") from error


def _rows(file: pq.ParquetFile, group: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = file.read_row_group(group).to_pylist()
    _release_memory()
    return rows


def _release_memory() -> None:
    """Return freed memory to the system; Arrow would keep as much as the longest clip took."""
    pa.default_memory_pool().release_unused()


def ctc_outputs_metadata(path: Path) -> dict[str, Any]:
    """Return the metadata of a table of CTC outputs, as written by `inference.log_probs.write_ctc_outputs`.

    Raises:
        SpeechmillError: The table cannot be read.
    """
    try:
        with pq.ParquetFile(path) as file:
            metadata = file.schema_arrow.metadata
    except (pa.ArrowInvalid, OSError) as error:
        raise corrupt_file_error(path, f"cannot be read ({error})") from error
    return {key.decode(): json.loads(value) for key, value in metadata.items()}


def clips_digest(rows: Sequence[dict[str, Any]]) -> str:
    """Return the sha256 of the contents of a table of clips: audio, text and order, but not where clips are stored."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps([row["dataset"], row["id"], row["text"], row["audio_sha256"]]).encode())
    return digest.hexdigest()
