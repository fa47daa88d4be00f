"""shards: one raw shard to one shard of 16 kHz FLAC clips, every published clip accounted for."""

import argparse
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from speechmill.audio import UnreadableAudioError, decode_to_16k, encode_flac
from speechmill.command import run_command
from speechmill.config.shards import ShardSettings
from speechmill.progress import progress
from speechmill.tables import ROWS, clip_schema, read_rows, write_in_row_groups, write_table

# Small enough that reading one clip at random reads little else.
_ROW_GROUP = 16


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
    accounts: list[dict[str, Any]] = []
    write_in_row_groups(_clips(raw, number, settings.resampler, accounts), schema, shard, _ROW_GROUP)
    write_table(accounts, ROWS, rows)


def _clips(raw: Path, number: int, resampler: str, accounts: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    kept = 0
    for published in progress(read_rows(raw), desc=f"{raw.parent.name}/{raw.name}", unit="clip"):
        encoded = published.pop("encoded")
        file = published.pop("file")
        splits = published.pop("splits")
        account = published | {"splits": splits, "shard": number}
        accounts.append(account)
        if encoded is None:
            account |= {"reason": "missing", "detail": f"the corpus lists {file} and does not have it"}
            continue
        try:
            samples = decode_to_16k(encoded, resampler)
        except UnreadableAudioError as error:
            account |= {"reason": "unreadable", "detail": f"{file}: {error}"}
            continue
        clip = published | {
            "num_samples": len(samples),
            "sha256": hashlib.sha256(encoded).hexdigest(),
            "audio_sha256": hashlib.sha256(samples.tobytes()).hexdigest(),
        }
        account |= clip | {"row_group": kept // _ROW_GROUP, "row": kept % _ROW_GROUP}
        kept += 1
        yield clip | {"audio": {"bytes": encode_flac(samples), "path": f"{Path(file).stem}.flac"}}


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
