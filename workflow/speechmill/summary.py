"""summary: every score of a run in one table."""

import argparse
from pathlib import Path

import pandas as pd

from speechmill.command import run_command, written_whole
from speechmill.tables import read_json

COLUMNS = [
    "run", "step", "set", "decoder", "protocol", "wer", "wer_low", "wer_high", "cer", "loss", "substitutions",
    "deletions", "insertions", "reference_words", "clips_expected", "clips_scored", "clips_without_loss",
    "outside_vocabulary", "unavailable", "audio_seconds", "wall_seconds", "checkpoint_sha256", "eval_set_sha256",
]  # fmt: skip


def summarise(metrics: list[Path]) -> pd.DataFrame:
    """A row a `metrics.json`, sorted by set, decoder and step."""
    rows = [read_json(path) for path in metrics]
    for row in rows:
        row["wer_low"], row["wer_high"] = row["wer_ci95"]
        row["outside_vocabulary"] = " ".join(row["characters_outside_vocabulary"])
    frame = pd.DataFrame(rows)[COLUMNS].astype(dict.fromkeys(("wer", "wer_low", "wer_high", "cer", "loss"), float))
    return frame.sort_values(["set", "decoder", "step"], ignore_index=True)


def main() -> None:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--metrics", type=Path, nargs="+", required=True)
    parser.add_argument("--summary", type=Path, required=True)
    args = parser.parse_args()
    with written_whole(args.summary) as beside:
        summarise(args.metrics).to_parquet(beside)


if __name__ == "__main__":
    run_command(main)
