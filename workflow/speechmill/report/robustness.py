"""robustness: a plot of the error rate on perturbed copies of evaluation sets, at the selected checkpoint."""

import argparse
from pathlib import Path

from pydantic import BaseModel

from speechmill.config.evaluation import ErrorRate
from speechmill.core.command import run_command
from speechmill.core.files import read_json
from speechmill.core.tables import read_table
from speechmill.report.plots import plot_robustness
from speechmill.scoring.systems import selected_rows


class RobustnessSettings(BaseModel):
    """The settings of this stage."""

    metric: ErrorRate
    titles: dict[str, str]
    """The titles of the sets that have perturbed copies."""


def main() -> None:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=RobustnessSettings.model_validate_json, required=True)
    parser.add_argument("--summary", type=Path, required=True)
    parser.add_argument("--selection", type=Path, required=True, help="selection.json, with the selected step")
    parser.add_argument("--plot", type=Path, required=True)
    args = parser.parse_args()
    scores = read_table(args.summary).to_pandas()
    selected = selected_rows(scores, read_json(args.selection))
    plot_robustness(selected, args.settings.titles.__getitem__, args.plot, args.settings.metric)


if __name__ == "__main__":
    run_command(main)
