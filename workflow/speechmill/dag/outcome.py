"""The results of a run, in a few lines for the terminal."""

import argparse
from pathlib import Path

from speechmill.core.command import run_command
from speechmill.core.files import read_json


def outcome(run: Path) -> str:
    """Return where the card and the pages of a run are, and the scores of its selected checkpoint in one line."""
    selection = read_json(run / "selection.json")
    scores = [
        read_json(path)
        for step in (str(selection["step"]), "selected")
        for path in sorted((run / "evaluation" / step).glob("*/*/metrics.json"))
        # Without perturbed copies of sets, of which there may be many.
        if path.parts[-3].count("-") == 1
    ]
    results = []
    # The error rate that the run is judged by stands first.
    metric = read_json(run / "evaluation" / "breakdown.json")["metric"]
    for score in scores:
        if score.get("unavailable"):
            results.append(f"{score['set']} not scored: unavailable")
            continue
        # Null where the references are empty.
        rate = "undefined" if score[metric] is None else f"{score[metric]:.2%}"
        scored = f"{score['clips_scored']} of {score['clips_expected']} clips"
        results.append(f"{score['set']} {metric.upper()} {rate} ({score['decoder']}, {scored})")
    places = {
        "card": "model/README.md",
        "plots": "model/plots",
        "worst": "worst",
        "scores": "evaluation/summary.parquet",
    }
    return "\n".join(
        [
            *(f"{what:<7} {run / place}" for what, place in places.items() if (run / place).exists()),
            f"result  {run.name}, step {selection['step']}: {', '.join(results)}",
        ]
    )


def main() -> None:
    """Print the results of each run, by its folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+")
    for run in parser.parse_args().runs:
        print(outcome(run))


if __name__ == "__main__":
    run_command(main)
