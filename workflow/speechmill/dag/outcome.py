"""The results of a run, in a few lines for the terminal."""

import argparse
from pathlib import Path

from speechmill.core.command import run_command
from speechmill.core.files import read_json
from speechmill.core.selection import is_selected, selected_mean


def outcome(run: Path) -> str:
    """Return where the card and the pages of a run are, and the scores of its selected checkpoint in one line."""
    # Imported here, because it would slow down the planning of every job.
    from speechmill.core.tables import read_table

    selection = read_json(run / "selection.json")
    # Of the sets in the configuration; the folder of scores may have those of earlier ones.
    scores = [
        row
        for row in read_table(run / "evaluation" / "summary.parquet").to_pylist()
        # Without perturbed copies of sets, of which there may be many.
        if is_selected(row, selection) and row["set"].count("-") == 1
    ]
    results = []
    # The error rate that the run is judged by stands first.
    metric = read_json(run / "evaluation" / "breakdown.json")["metric"]
    for score in scores:
        if score["unavailable"]:
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
        "labels": "label_errors/suspicious.html",
        "scores": "evaluation/summary.parquet",
    }
    averaged = selected_mean(selection)
    which = f"mean of steps {', '.join(map(str, averaged))}" if averaged else f"step {selection['step']}"
    return "\n".join(
        [
            *(f"{what:<7} {run / place}" for what, place in places.items() if (run / place).exists()),
            f"result  {run.name}, {which}: {', '.join(results)}",
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
