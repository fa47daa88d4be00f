"""shards: one raw shard to one shard of 16 kHz FLAC clips, every published clip accounted for."""

import argparse
import ctypes
import hashlib
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from speechmill.config.shards import ShardSettings
from speechmill.core.command import run_command
from speechmill.core.progress import progress
from speechmill.core.tables import ROWS, clip_schema, read_rows, write_in_row_groups
from speechmill.corpus.audio import UnreadableAudioError, clipping, decode_to_16k, silence, stored_flac

# Small enough that reading one clip at random reads little else.
_ROW_GROUP = 16

# Rows of accounts that wait as Python objects, which take several times the memory that they take as a table.
_ACCOUNTS = 1024


def convert(raw: Path, number: int, settings: ShardSettings, shard: Path, rows: Path) -> None:
    """Decode and resample every clip of the raw shard `raw` into `shard`.

    `rows` gets a row a published clip: where it is stored, or the reason for which it could not be read.
    The same input and settings give the same bytes.
    """
    schema = clip_schema(
        name=settings.name,
        version=settings.version,
        licence=settings.licence,
        configuration=hashlib.sha256(settings.model_dump_json().encode()).hexdigest(),
    )
    accounts: list[pa.Table] = []
    groups = write_in_row_groups(_clips(raw, number, settings.resampler, accounts), schema, shard, _ROW_GROUP)
    write_in_row_groups(_placed(accounts, groups), ROWS, rows, _ACCOUNTS)


def _placed(accounts: list[pa.Table], groups: list[int]) -> Iterator[dict[str, Any]]:
    """The accounts, those of kept clips with their places in row groups of so many clips."""
    places = ({"row_group": group, "row": row} for group, size in enumerate(groups) for row in range(size))
    for part in accounts:
        for account in part.to_pylist():
            yield account if account["reason"] else account | next(places)


def _clips(raw: Path, number: int, resampler: str, accounts: list[pa.Table]) -> Iterator[dict[str, Any]]:
    """The kept clips as they are stored; a row for each published clip is added to `accounts`."""
    waiting: list[dict[str, Any]] = []
    for published in progress(read_rows(raw), desc=f"{raw.parent.name}/{raw.name}", unit="clip"):
        account, clip = _convert(published, resampler)
        account["shard"] = number
        if clip is not None:
            yield clip
            # A long one takes memory that the next one needs.
            del clip
        waiting.append(account)
        if len(waiting) == _ACCOUNTS:
            accounts.append(pa.Table.from_pylist(waiting, schema=ROWS))
            waiting = []
    accounts.append(pa.Table.from_pylist(waiting, schema=ROWS))


def _convert(published: dict[str, Any], resampler: str) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The account of a published clip, and the clip as it is stored, if it can be read."""
    encoded, file, splits = published.pop("encoded"), published.pop("file"), published.pop("splits")
    account = published | {"splits": splits}
    if encoded is None:
        missing = {"reason": "missing", "detail": f"{file}: the corpus lists this file and does not have it"}
        return account | missing, None
    account["encoded_bytes"] = len(encoded)
    try:
        samples = decode_to_16k(encoded, resampler, file)
    except UnreadableAudioError as error:
        return account | {"reason": error.reason, "detail": f"{file}: {error}"}, None
    clip = published | {
        "num_samples": len(samples),
        "sha256": hashlib.sha256(encoded).hexdigest(),
        "audio_sha256": hashlib.sha256(samples.data).hexdigest(),
    }
    account |= clip | {"silence": silence(samples), "clipping": clipping(samples)}
    return account, clip | {
        "audio": {"bytes": stored_flac(samples, encoded), "path": f"{Path(published['id']).name}.flac"}
    }


def keep_freed_memory() -> None:
    """Have glibc keep the memory that a clip has used for the next one.

    By default it goes back to the kernel and is asked for again page by page, about four hundred a clip, which takes
    an eighth of the time. Does nothing with another C library.
    """
    if platform.libc_ver()[0] == "glibc":
        # Source: mallopt(3); M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, of which 32 MiB is the most that it takes.
        libc = ctypes.CDLL(None)
        libc.mallopt(-1, 1 << 30)
        libc.mallopt(-3, 1 << 25)


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
    keep_freed_memory()
    raw = args.raw / args.split / f"shard-{args.number}.parquet"
    convert(raw, int(args.number), args.settings, args.shard, args.rows)


if __name__ == "__main__":
    run_command(main)
