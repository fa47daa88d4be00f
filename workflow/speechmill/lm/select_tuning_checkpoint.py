"""select_tuning_checkpoint: the checkpoint that is best greedily on dev, on which the language model's weights are tuned."""

import argparse
from pathlib import Path

from speechmill.core.command import run_command
from speechmill.core.tables import write_json
from speechmill.scoring.select import best_step
from speechmill.scoring.summary import summarise


def main() -> None:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--metrics", type=Path, nargs="+", required=True, help="of each checkpoint on dev, greedy")
    parser.add_argument("--best", type=Path, required=True)
    args = parser.parse_args()
    scores = summarise(args.metrics)
    dev = str(scores["set"].iloc[0])
    write_json({"step": best_step(scores, dev, "greedy", "wer"), "set": dev}, args.best)


if __name__ == "__main__":
    run_command(main)
