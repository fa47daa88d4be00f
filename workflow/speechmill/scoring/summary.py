"""summary: collect all scores of a run in one table."""

import argparse
from pathlib import Path
from typing import get_args

import pandas as pd
import pyarrow as pa

from speechmill.config.evaluation import Protocol
from speechmill.core.command import run_command
from speechmill.core.files import read_json
from speechmill.core.selection import averaged_column
from speechmill.core.tables import write_arrow_table

_BY_PROTOCOL = {f"{rate}_{protocol}": (rate, protocol) for protocol in get_args(Protocol) for rate in ("wer", "cer")}
_RATES = ["wer", "wer_low", "wer_high", "cer", "cer_low", "cer_high", "loss"]

COLUMNS = [
    "run", "step", "set", "decoder", "protocol", *_RATES, "substitutions", "deletions", "insertions", "reference_words",
    "clips_expected", "clips_scored", "clips_without_loss", "no_interval", "outside_vocabulary",
    "characters_outside", "unavailable",
    "audio_seconds", "wall_seconds", "forward_seconds", "decoding_seconds", "device", "checkpoint_sha256",
    "eval_set_sha256", *_BY_PROTOCOL,
]  # fmt: skip


def summarise(metrics: list[Path]) -> pd.DataFrame:
    """Return a table with one row per `metrics.json`, sorted by set, decoder and step.

    The main scores follow the row's `protocol`. The scores under each protocol are in columns with its name, null where
    the protocol was not used. If a mean of checkpoints is among them, the column `averaged` has the steps of these; it
    is empty for a single checkpoint.
    """
    rows = [read_json(path) for path in metrics]
    averaged = any("averaged" in row for row in rows)
    for row in rows:
        for metric in ("wer", "cer"):
            row[f"{metric}_low"], row[f"{metric}_high"] = row[f"{metric}_ci95"]
        for column, (rate, protocol) in _BY_PROTOCOL.items():
            row[column] = row["protocols"].get(protocol, {}).get(rate)
        row["outside_vocabulary"] = " ".join(row["characters_outside_vocabulary"])
        row["characters_outside"] = sum(row["characters_outside_vocabulary"].values())
        row["averaged"] = averaged_column(row.get("averaged", []))
    columns = [*COLUMNS, *(["averaged"] if averaged else [])]
    frame = pd.DataFrame(rows)[columns].astype(dict.fromkeys((*_RATES, *_BY_PROTOCOL), float))
    return frame.sort_values(["set", "decoder", "step", *columns[len(COLUMNS) :]], ignore_index=True)


def main() -> None:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--metrics", type=Path, nargs="+", required=True)
    parser.add_argument("--summary", type=Path, required=True)
    args = parser.parse_args()
    write_arrow_table(pa.Table.from_pandas(summarise(args.metrics)), args.summary)


if __name__ == "__main__":
    run_command(main)
