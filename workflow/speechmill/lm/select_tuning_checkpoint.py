"""select_tuning_checkpoint: select the checkpoint that is best on dev with greedy decoding, to tune the weights at."""

import argparse
from pathlib import Path

from pydantic import BaseModel

from speechmill.config.evaluation import Metric
from speechmill.core.command import run_command
from speechmill.core.files import write_json
from speechmill.scoring.select import best_step
from speechmill.scoring.summary import summarise


class TuningCheckpointSettings(BaseModel):
    """The stage settings."""

    metric: Metric


def main() -> None:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=TuningCheckpointSettings.model_validate_json, required=True)
    parser.add_argument(
        "--metrics", type=Path, nargs="+", required=True, help="the greedy metrics of each checkpoint on dev"
    )
    parser.add_argument("--tuning-checkpoint", type=Path, required=True)
    args = parser.parse_args()
    scores = summarise(args.metrics)
    dev = str(scores["set"].iloc[0])
    write_json({"step": best_step(scores, dev, "greedy", args.settings.metric), "set": dev}, args.tuning_checkpoint)


if __name__ == "__main__":
    run_command(main)
