"""What a run has come to, in a few lines for the terminal."""

import argparse
import json
from pathlib import Path

from speechmill.command import run_command


def outcome(run: Path) -> str:
    """Where the card and the plots of a run's folder are, and the scores of its selected checkpoint in one line."""
    selection = json.loads((run / "selection.json").read_text())
    scores = [
        json.loads(path.read_text())
        for path in sorted((run / "evaluation" / str(selection["step"])).glob("*/*/metrics.json"))
    ]
    results = ", ".join(
        f"{s['set']} WER {s['wer']:.2%} ({s['decoder']}, {s['clips_scored']} of {s['clips_expected']} clips)"
        for s in scores
    )
    return "\n".join(
        [
            f"card    {run / 'model' / 'README.md'}",
            f"plots   {run / 'model' / 'plots'}",
            f"result  {run.name}, step {selection['step']}: {results}",
        ]
    )


def main() -> None:
    """Print the outcome of each run's folder that is given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+")
    for run in parser.parse_args().runs:
        print(outcome(run))


if __name__ == "__main__":
    run_command(main)
