"""Reading and writing Parquet tables with a bounded amount of memory, and with digests.

Parquet's own checksums, CRC-32, cover the data of every page; with a changed header, a page does not fit its checksum.
The footer, with the schema and the place of every page, has none: its sha256 is a value of its own metadata.
"""

import hashlib
import itertools
import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from speechmill.core.files import atomic_write, corrupt_file_error, holds_digest

# Columns of names and numbers, in which values repeat.
_REPETITIVE_TYPES = (pa.string(), pa.int32())

_MAX_GROUP_BYTES = 1 << 26


_DIGESTED = ["dataset", "id", "text", "audio_sha256"]

# Rows that are held as Python objects.
_DIGEST_ROWS = 8192

_FOOTER_DIGEST = b"footer_sha256"
# In the footer, two bytes between a key and its value say that the value is a string of 64 bytes.
_FOOTER_DIGEST_VALUE = re.compile(_FOOTER_DIGEST + rb"..(.{64})", re.DOTALL)
_NO_DIGEST = b"0" * 64

_MAGIC = b"PAR1"


def open_table(path: Path, **options: Any) -> pq.ParquetFile:
    """Open a Parquet file whose footer is unchanged, so that checksums are compared when it is read.

    Files of release 0.1.0 have neither. `options` are those of `pyarrow.parquet.ParquetFile`. Read it within
    `table_errors`.

    Raises:
        SpeechmillError: The table cannot be read, or has changed since it was written.
    """
    with table_errors(path):
        if _footer_has_changed(path):
            raise corrupt_file_error(path, "has changed since it was written: its footer and its digest differ")
        return pq.ParquetFile(path, page_checksum_verification=True, **options)


@contextmanager
def table_errors(path: Path) -> Iterator[None]:
    """Convert the errors of reading a Parquet file, such as a wrong checksum, to a SpeechmillError."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise corrupt_file_error(path, f"cannot be read ({error})") from error


def _footer_has_changed(path: Path) -> bool:
    footer = _footer(path)
    value = _FOOTER_DIGEST_VALUE.search(footer)
    # What has other last letters is no Parquet file, as a truncated one; the error of pyarrow says so.
    return footer.endswith(_MAGIC) and value is not None and value[1] != _digest_of_footer(footer, value)


def _footer(path: Path) -> bytes:
    """Return the end of a Parquet file: metadata, its length in four bytes, and four letters."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 8))
        length = int.from_bytes(file.read(4), "little")
        file.seek(max(0, size - 8 - length))
        return file.read()


def _digest_of_footer(footer: bytes, value: re.Match[bytes]) -> bytes:
    """Return the sha256 of a footer with zeros in place of the digest in it."""
    zeros = footer[: value.start(1)] + _NO_DIGEST + footer[value.end(1) :]
    return hashlib.sha256(zeros).hexdigest().encode()


@contextmanager
def _table_writer(path: Path, schema: pa.Schema, **options: Any) -> Iterator[pq.ParquetWriter]:
    """Yield a writer of the table `path`, which is complete, with all checksums, when the block succeeds."""
    with atomic_write(path) as temporary:
        with pq.ParquetWriter(temporary, schema, write_page_checksum=True, **options) as writer:
            yield writer
            writer.add_key_value_metadata({_FOOTER_DIGEST: _NO_DIGEST})
        footer = _footer(temporary)
        value = _FOOTER_DIGEST_VALUE.search(footer)
        assert value is not None
        with temporary.open("r+b") as file:
            file.seek(value.start(1) - len(footer), os.SEEK_END)
            file.write(_digest_of_footer(footer, value))


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Return the table in `path`, or only its `columns`.

    Raises:
        SpeechmillError: The table cannot be read, or has changed since it was written.
    """
    with table_errors(path), open_table(path) as file:
        table = file.read(columns)
    return table.replace_schema_metadata(_without_digest(table.schema))


def _without_digest(schema: pa.Schema) -> dict[bytes, bytes]:
    return {key: value for key, value in (schema.metadata or {}).items() if key != _FOOTER_DIGEST}


def write_table(rows: Iterable[dict[str, Any]], schema: pa.Schema, path: Path) -> None:
    """Write `rows` as the table `path`, atomically."""
    write_arrow_table(pa.Table.from_pylist(list(rows), schema=schema), path)


def write_arrow_table(table: pa.Table, path: Path) -> None:
    """Write `table` to `path`, atomically."""
    with _table_writer(path, table.schema) as writer:
        writer.write_table(table)


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
    with _table_writer(path, schema, **options) as writer:

        def write(group: list[dict[str, Any]]) -> int:
            size, table = len(group), pa.Table.from_pylist(group, schema=schema)
            # The writer copies the audio twice, so the rows should not hold it as well.
            group.clear()
            writer.write_table(table)
            release_memory()
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
    # With `pre_buffer` the file would keep a copy of the last row group.
    with table_errors(path), open_table(path, pre_buffer=False) as file:
        for group in range(file.num_row_groups) if groups is None else groups:
            yield _rows(file, group)


def _rows(file: pq.ParquetFile, group: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = file.read_row_group(group).to_pylist()
    release_memory()
    return rows


def release_memory() -> None:
    """Return freed memory to the system; Arrow would keep as much as the longest clip took."""
    pa.default_memory_pool().release_unused()


def ctc_outputs_metadata(path: Path) -> dict[str, Any]:
    """Return the metadata of a table of CTC outputs, as written by `inference.log_probs.write_ctc_outputs`.

    Raises:
        SpeechmillError: The table cannot be read.
    """
    with table_errors(path), open_table(path) as file:
        metadata = _without_digest(file.schema_arrow)
    return {key.decode(): json.loads(value) for key, value in metadata.items()}


def check_clips_digest(clips: Path, digest: Path) -> None:
    """Compare a table of clips with the file beside it that holds its `clips_digest`.

    Raises:
        SpeechmillError: They do not belong together.
    """
    batches = read_table(clips, _DIGESTED).to_batches(_DIGEST_ROWS)
    found = clips_digest(row for batch in batches for row in batch.to_pylist())
    if not holds_digest(digest, found):
        raise corrupt_file_error(digest, f"is not the digest of the clips in {clips}")


def clips_digest(rows: Iterable[dict[str, Any]]) -> str:
    """Return the sha256 of the contents of a table of clips: audio, text and order, but not where clips are stored."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps([row[key] for key in _DIGESTED]).encode())
    return digest.hexdigest()
