"""verify: check the figures of a model card against the files of its folder and against the recordings.

Figures are recomputed (scores: the model is loaded with plain transformers and processes every clip again, one at a
time; errors are counted by jiwer), derived (the card is rendered again from the evidence), or recorded (time, hardware,
the figures of another card). The last section of the card lists which figures are of which kind.
"""

import argparse
from pathlib import Path

from speechmill.core.command import SpeechmillError, run_command
from speechmill.model.devices import acquire_devices
from speechmill.report.verify_exports import check_exports
from speechmill.report.verify_folder import check_folder
from speechmill.report.verify_pieces import check_pieces
from speechmill.report.verify_scores import check_scores


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+", metavar="FOLDER", help="a model folder with its card")
    parser.add_argument("--data", type=Path, help="the folder of the prepared datasets, `results/data`; without it,"
                        " scores are not recomputed")  # fmt: skip
    parser.add_argument("--gpus", type=int, default=1, help="0 runs on the CPU; otherwise on a GPU if there is one")
    args = parser.parse_args()
    number = 0
    for model in args.models:
        result = check_folder(model)
        if args.data is None:
            result.passed.append("skipped     scores were not recomputed: pass the prepared datasets with --data")
        elif result.differences:
            result.passed.append("skipped     scores were not recomputed, because of the differences")
        else:
            result.add(check_pieces(model, args.data.parent / "pieces"))
            with acquire_devices("auto", str(model), args.gpus) as (device,):
                result.add(check_scores(model, args.data, device))
            result.add(check_exports(model, args.data))
        print(model)
        for line in result.passed:
            print(f"  {line}")
        for line in result.differences:
            print(f"  DIFFERS     {line}")
        number += len(result.differences)
    if number:
        raise SpeechmillError(f"{number} differences between the cards and the files or recordings; see above")
    print("verified")


if __name__ == "__main__":
    run_command(main)
