"""The tables that stages hand to each other: their schemas, and how they are read and written."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from speechmill.command import SpeechmillError, written_whole

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


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """The table in `path`. Raises SpeechmillError where it cannot be read."""
    try:
        return pq.read_table(path, columns=columns)
    except (pa.ArrowInvalid, OSError) as error:
        raise SpeechmillError(f"{path} cannot be read ({error}); delete it and run snakemake again") from error


def write_table(rows: Iterable[dict[str, Any]], schema: pa.Schema, path: Path) -> None:
    """Write `rows` as the table `path`, whole or not at all."""
    with written_whole(path) as beside:
        pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), beside)


def write_in_row_groups(rows: Iterable[dict[str, Any]], schema: pa.Schema, path: Path, group_size: int) -> None:
    """Write `rows` as they come, `group_size` to a row group, holding no more than one group in memory."""
    # A dictionary or a least and a greatest value of recordings would be made at length and read by nobody.
    plain = [field.name for field in schema if field.type in _REPEATED]
    options = {"compression": "none", "use_dictionary": plain, "write_statistics": plain}
    with written_whole(path) as beside, pq.ParquetWriter(beside, schema, **options) as writer:
        group: list[dict[str, Any]] = []
        for row in rows:
            group.append(row)
            if len(group) == group_size:
                writer.write_table(pa.Table.from_pylist(group, schema=schema))
                group = []
        if group:
            writer.write_table(pa.Table.from_pylist(group, schema=schema))


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a table, one row group in memory at a time. Raises SpeechmillError where it cannot be read."""
    try:
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                yield from file.read_row_group(group).to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise SpeechmillError(f"{path} cannot be read ({error}); delete it and run snakemake again") from error


def write_json(value: Any, path: Path) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    with written_whole(path) as beside:
        beside.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """The value of a JSON file. Raises SpeechmillError where it is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SpeechmillError(f"{path} is not JSON ({error}); delete it and run snakemake again") from error


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
