"""shards: convert one raw shard to one shard of 16 kHz FLAC clips, and account for every clip that the corpus lists."""

import argparse
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from speechmill.config.shards import ShardSettings
from speechmill.core.command import run_command
from speechmill.core.files import corrupt_file_error
from speechmill.core.progress import progress
from speechmill.core.schemas import CLIP_COLUMNS, ROWS, clip_schema
from speechmill.core.tables import read_rows, write_in_row_groups
from speechmill.corpus.audio import UnreadableAudioError, clipped_share, decode_to_16k, encode_clip, silent_share
from speechmill.corpus.encoded import Encoded, num_bytes, sha256

# Small, so that reading one clip at random reads little else.
_ROW_GROUP = 16

# Rows that are held as Python objects, which take several times the memory of an Arrow table.
_BUFFERED_ROWS = 1024


def convert(raw: Path, number: int, settings: ShardSettings, shard: Path, rows: Path) -> None:
    """Decode and resample every clip of the raw shard `raw` and write them to `shard`, the shard with this number.

    `rows` gets one row per listed clip: where the clip is stored, or the reason why it could not be read. The same
    input and settings give the same bytes.
    """
    schema = clip_schema(
        name=settings.name,
        version=settings.version,
        licence=settings.licence,
        configuration=hashlib.sha256(settings.model_dump_json().encode()).hexdigest(),
    )
    tables: list[pa.Table] = []
    group_sizes = write_in_row_groups(_clips(raw, number, settings.resampler, tables), schema, shard, _ROW_GROUP)
    write_in_row_groups(_located(tables, group_sizes), ROWS, rows, _BUFFERED_ROWS)


def _located(tables: list[pa.Table], group_sizes: list[int]) -> Iterator[dict[str, Any]]:
    """Yield the rows of `tables`, with the row group and the row for each clip that is stored."""
    locations = ({"row_group": group, "row": row} for group, size in enumerate(group_sizes) for row in range(size))
    for table in tables:
        for row in table.to_pylist():
            yield row if row["reason"] else row | next(locations)


def _clips(raw: Path, number: int, resampler: str, tables: list[pa.Table]) -> Iterator[dict[str, Any]]:
    """Yield the clips to store, and append to `tables` a row for each listed clip."""
    rows: list[dict[str, Any]] = []
    for listed in progress(read_rows(raw), desc=f"{raw.parent.name}/{raw.name}", unit="clip"):
        row, clip = _convert_clip(listed, raw.parent, resampler)
        row["shard"] = number
        if clip is not None:
            # Without a reference, the memory of a long clip is free once it is written.
            clips = [clip]
            del clip
            yield clips.pop()
        rows.append(row)
        if len(rows) == _BUFFERED_ROWS:
            tables.append(pa.Table.from_pylist(rows, schema=ROWS))
            rows = []
    tables.append(pa.Table.from_pylist(rows, schema=ROWS))


def _convert_clip(listed: dict[str, Any], folder: Path, resampler: str) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Return the row of a listed clip, and the clip to store, or None if it cannot be read.

    `folder` contains the files of clips that are not in the raw shard itself.
    """
    file, splits = listed.pop("file"), listed.pop("splits")
    reason, detail = listed.pop("reason"), listed.pop("detail")
    encoded, digest = _encoded(listed, folder)
    row = listed | {"splits": splits}
    # The other columns are in the index alone.
    listed = {key: value for key, value in listed.items() if key in CLIP_COLUMNS}
    if encoded is None:
        missing = "the corpus lists this file but does not contain it"
        return row | {"reason": reason or "missing", "detail": f"{file}: {detail or missing}"}, None
    row["encoded_bytes"] = num_bytes(encoded)
    try:
        samples, missing_seconds = decode_to_16k(encoded, resampler, file)
    except UnreadableAudioError as error:
        return row | {"reason": error.reason, "detail": f"{file}: {error}"}, None
    clip = listed | {
        "num_samples": len(samples),
        "sha256": digest,
        "audio_sha256": hashlib.sha256(samples.data).hexdigest(),
    }
    row |= clip | {"silence": silent_share(samples), "clipping": clipped_share(samples)}
    row["missing_seconds"] = missing_seconds
    return row, clip | {"audio": {"bytes": encode_clip(samples, encoded), "path": f"{Path(listed['id']).name}.flac"}}


def _encoded(listed: dict[str, Any], folder: Path) -> tuple[Encoded | None, str]:
    """Remove the recording from a row of a raw shard, and return it with its sha256."""
    encoded: Encoded | None = listed.pop("encoded")
    name, expected = listed.pop("encoded_file"), listed.pop("encoded_file_sha256")
    if name is not None:
        path = folder / name
        if not path.is_file() or sha256(path) != expected:
            raise corrupt_file_error(path, "is missing, or differs from the recording that was read")
        return path, expected
    return encoded, "" if encoded is None else sha256(encoded)


def main() -> None:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=ShardSettings.model_validate_json, required=True)
    parser.add_argument("--raw", type=Path, required=True, help="the folder of raw shards")
    parser.add_argument("--split", required=True)
    parser.add_argument("--number", required=True, help="the shard's number, as in its name")
    parser.add_argument("--shard", type=Path, required=True)
    parser.add_argument("--rows", type=Path, required=True)
    args = parser.parse_args()
    raw = args.raw / args.split / f"shard-{args.number}.parquet"
    convert(raw, int(args.number), args.settings, args.shard, args.rows)


if __name__ == "__main__":
    run_command(main)
