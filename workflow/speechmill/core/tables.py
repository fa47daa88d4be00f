"""The tables that stages hand to each other: their schemas, and how they are read and written."""

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from speechmill.core.command import atomic_write, corrupt_file_error

SAMPLE_RATE = 16_000
"""Samples a second of every stored clip."""

_SPEAKER = [(name, pa.string()) for name in ("speaker_id", "gender", "age", "accent")]

RAW = pa.schema(
    [
        ("id", pa.string()),
        ("splits", pa.list_(pa.string())),
        ("file", pa.string()),
        ("encoded", pa.binary()),
        ("sentence", pa.string()),
        *_SPEAKER,
    ]
)
"""A published clip with the bytes of its file, or null where the corpus lists a file that it does not have."""

_CLIP_TYPES = {
    "id": ("string", pa.string()),
    "audio": ("audio", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
    "num_samples": ("int32", pa.int32()),
    "sentence": ("string", pa.string()),
    **{name: ("string", pa.string()) for name, _ in _SPEAKER},
    "sha256": ("string", pa.string()),
    "audio_sha256": ("string", pa.string()),
}


def clip_schema(**about: str) -> pa.Schema:
    """The schema of a clip shard, with `about` among its metadata.

    Equal to `datasets.Features({..., "audio": Audio(16000)}).arrow_schema`, whose metadata makes `datasets` read the
    column back as Audio; written out here because importing `datasets` takes longer than a small shard.
    """
    features = {
        name: {"sampling_rate": SAMPLE_RATE, "_type": "Audio"} if kind == "audio" else {"dtype": kind, "_type": "Value"}
        for name, (kind, _) in _CLIP_TYPES.items()
    }
    metadata = {"huggingface": json.dumps({"info": {"features": features}})} | about
    return pa.schema([(name, arrow) for name, (_, arrow) in _CLIP_TYPES.items()], metadata=metadata)


ROWS = pa.schema(
    [
        ("id", pa.string()),
        ("shard", pa.int32()),
        ("row_group", pa.int32()),
        ("row", pa.int32()),
        ("splits", pa.list_(pa.string())),
        ("num_samples", pa.int32()),
        ("sentence", pa.string()),
        *_SPEAKER,
        ("silence", pa.float32()),
        ("clipping", pa.float32()),
        ("encoded_bytes", pa.int64()),
        ("sha256", pa.string()),
        ("audio_sha256", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)
"""A published clip of one shard: where it is stored, or the reason for which it could not be read.

`silence` is the share of its frames that are silent, `clipping` the share of its samples at full scale.
"""

INDEX = pa.schema([field for field in ROWS if field.name not in ("reason", "detail")])
"""A kept clip: the shard's number, the row group, and the row in the row group that hold its audio."""

REJECTED = pa.schema([(name, pa.string()) for name in ("id", "split", "reason", "detail")])

_USED = [("dataset", pa.string()), ("split", pa.string()), ("id", pa.string())]

CLIPS = pa.schema(
    [
        *_USED,
        ("text", pa.string()),
        ("sentence", pa.string()),
        ("speaker_id", pa.string()),
        ("num_samples", pa.int32()),
        ("shard", pa.int32()),
        ("row_group", pa.int32()),
        ("row", pa.int32()),
        ("sha256", pa.string()),
        ("audio_sha256", pa.string()),
    ]
)
"""A clip that a run uses, with its text; `split` is the one that it is stored under."""

EXCLUDED = pa.schema([*_USED, ("reason", pa.string()), ("detail", pa.string())])

CTC_OUTPUTS = pa.schema(
    [
        ("id", pa.string()),
        ("frames", pa.int32()),
        ("hypothesis", pa.string()),
        ("loss", pa.float64()),
        ("log_probs", pa.binary()),
    ]
)
"""What a model says of a clip: its frames, the greedy hypothesis, the loss, null where there is none, and the
log-probabilities in fp16, little endian, shape (frames, vocabulary), null where no decoder needs them.
"""

HYPOTHESES = pa.schema(
    [
        *_USED,
        ("speaker_id", pa.string()),
        ("seconds", pa.float64()),
        ("sentence", pa.string()),
        ("hypothesis", pa.string()),
        ("scored_reference", pa.string()),
        ("scored_hypothesis", pa.string()),
        ("hits", pa.int32()),
        ("substitutions", pa.int32()),
        ("deletions", pa.int32()),
        ("insertions", pa.int32()),
        ("character_errors", pa.int32()),
        ("characters", pa.int32()),
        ("loss", pa.float64()),
    ]
)
"""A scored clip: the sentence as published, the hypothesis as decoded, both as scored, and the counts."""


# What a column of many clips says again and again: names and numbers.
_REPEATED = (pa.string(), pa.int32())

_GROUP_BYTES = 1 << 26


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """The table in `path`. Raises SpeechmillError where it cannot be read."""
    try:
        return pq.read_table(path, columns=columns)
    except (pa.ArrowInvalid, OSError) as error:
        raise corrupt_file_error(path, f"cannot be read ({error})") from error


def write_table(rows: Iterable[dict[str, Any]], schema: pa.Schema, path: Path) -> None:
    """Write `rows` as the table `path`, whole or not at all."""
    with atomic_write(path) as beside:
        pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), beside)


def write_in_row_groups(rows: Iterable[dict[str, Any]], schema: pa.Schema, path: Path, group_size: int) -> list[int]:
    """Write `rows` as they come, and return how many stand in each row group: `group_size`, but fewer of long clips.

    A row group, which is what the writer and any reader hold in memory, ends where its recordings come to 64 MiB.
    """
    return write_row_groups(_grouped(rows, group_size), schema, path)


def _grouped(rows: Iterable[dict[str, Any]], group_size: int) -> Iterator[list[dict[str, Any]]]:
    group: list[dict[str, Any]] = []
    held = 0
    for row in rows:
        group.append(row)
        held += _recorded_bytes(row)
        # No name is left for a recording while the next one is made.
        del row
        if len(group) == group_size or held >= _GROUP_BYTES:
            yield group
            group, held = [], 0
    if group:
        yield group


def _recorded_bytes(value: Any) -> int:
    """The bytes of the recordings in a row, beside which all else is small."""
    if isinstance(value, dict):
        return sum(map(_recorded_bytes, value.values()))
    return len(value) if isinstance(value, bytes) else 0


def write_row_groups(groups: Iterable[list[dict[str, Any]]], schema: pa.Schema, path: Path) -> list[int]:
    """Write each of `groups` as a row group, as they come, holding no more than one in memory; returns their sizes."""
    # A dictionary or a least and a greatest value of recordings would be made at length and read by nobody.
    plain = [field.name for field in schema if field.type in _REPEATED]
    options = {"compression": "none", "use_dictionary": plain, "write_statistics": plain}
    with atomic_write(path) as beside, pq.ParquetWriter(beside, schema, **options) as writer:

        def write(group: list[dict[str, Any]]) -> int:
            writer.write_table(pa.Table.from_pylist(group, schema=schema))
            _release()
            return len(group)

        return list(map(write, groups))


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a table, one row group in memory at a time. Raises SpeechmillError where it cannot be read."""
    return itertools.chain.from_iterable(read_row_groups(path))


def read_row_groups(path: Path, groups: Iterable[int] | None = None) -> Iterator[list[dict[str, Any]]]:
    """The row groups of a table, or those with these numbers, one in memory at a time.

    Raises SpeechmillError where it cannot be read.
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
    _release()
    return rows


def _release() -> None:
    """Give back what Arrow has freed: it keeps as much as the longest recording took."""
    pa.default_memory_pool().release_unused()


def ctc_outputs_metadata(path: Path) -> dict[str, Any]:
    """What `log_probs` says about a table of frames: see `log_probs.write_ctc_outputs`.

    Raises SpeechmillError where it cannot be read.
    """
    try:
        with pq.ParquetFile(path) as file:
            metadata = file.schema_arrow.metadata
    except (pa.ArrowInvalid, OSError) as error:
        raise corrupt_file_error(path, f"cannot be read ({error})") from error
    return {key.decode(): json.loads(value) for key, value in metadata.items()}


def write_json(value: Any, path: Path) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    with atomic_write(path) as beside:
        beside.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """The value of a JSON file. Raises SpeechmillError where it is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise corrupt_file_error(path, f"is not JSON ({error})") from error


def clips_digest(rows: Sequence[dict[str, Any]]) -> str:
    """sha256 over what a table of clips means: which audio with which text, in which order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps([row["dataset"], row["id"], row["text"], row["audio_sha256"]]).encode())
    return digest.hexdigest()


def file_digest(path: Path) -> str:
    """sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
