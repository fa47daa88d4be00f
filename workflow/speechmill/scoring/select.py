"""select: the best checkpoint becomes the model; a model that was not trained here is selected as it is."""

import argparse
import shutil
from pathlib import Path

import pandas as pd

from speechmill.config.evaluation import SelectConfig
from speechmill.core.command import SpeechmillError, atomic_write, run_command
from speechmill.core.tables import file_digest, read_table, write_json


def best_step(summary: pd.DataFrame, set_name: str, decoder: str, metric: str) -> int:
    """The step with the smallest `metric` on a set; the earliest of equals.

    Raises SpeechmillError where no step has that figure.
    """
    rows = summary[(summary["set"] == set_name) & (summary["decoder"] == decoder)].dropna(subset=[metric])
    if rows.empty:
        raise SpeechmillError(f"no checkpoint has a {metric} on {set_name} by {decoder}, so none can be selected")
    return int(rows.sort_values([metric, "step"]).iloc[0]["step"])


def main() -> None:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=SelectConfig.model_validate_json, required=True)
    parser.add_argument("--summary", type=Path, help="the scores of all checkpoints; if there are any")
    parser.add_argument("--checkpoints", type=Path)
    parser.add_argument("--model", type=Path, nargs="*", default=[], help="the model's files, by name")
    parser.add_argument("--selection", type=Path, required=True)
    args = parser.parse_args()
    by: SelectConfig = args.settings
    step = best_step(read_table(args.summary).to_pandas(), str(by.set), by.decoder, by.metric) if args.summary else 0
    for file in args.model:
        with atomic_write(file) as beside:
            shutil.copyfile(args.checkpoints / f"checkpoint-{step}" / file.name, beside)
    digests = {file.name: file_digest(file) for file in args.model}
    write_json({"step": step, **by.model_dump(), "sha256": digests}, args.selection)


if __name__ == "__main__":
    run_command(main)
