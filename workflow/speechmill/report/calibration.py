"""calibration: fit the calibrators of a model's confidence on dev, measure them on all scored sets, and plot that."""

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel
from torch.nn.functional import binary_cross_entropy_with_logits

from speechmill.config.evaluation import Decoder
from speechmill.core.command import run_command
from speechmill.core.files import write_json
from speechmill.report.plots import plot_reliability
from speechmill.scoring.reliability import (
    Calibration,
    Calibrator,
    Clips,
    joined,
    log_odds,
    read_clips,
    reliability,
)


class CalibrationSettings(BaseModel):
    """The stage settings."""

    dev: str
    """The set to fit calibrators on."""
    titles: dict[str, str]
    """The titles of the sets."""


def fit(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> Calibrator:
    """Return the calibrator with the smallest cross-entropy on words, with the targets of Platt's section 2.2.

    These are not quite 0 and 1, so that parameters are finite if confidence separates right and wrong words perfectly.
    Without right or without wrong words, the calibrator changes nothing.

    Args:
        confidence: The confidence of each word.
        right: Whether each word is right.
    """
    calibrator = Calibrator(words=len(right), wrong=int((~right).sum()))
    if not calibrator.is_fitted:
        return calibrator
    odds = torch.from_numpy(log_odds(confidence))
    number = calibrator.words - calibrator.wrong
    targets = torch.from_numpy(np.where(right, (number + 1) / (number + 2), 1 / (calibrator.wrong + 2)))
    parameters = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [parameters], max_iter=1000, tolerance_grad=1e-10, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = binary_cross_entropy_with_logits(parameters[0] * odds + parameters[1], targets)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    calibrator.slope, calibrator.intercept = parameters.tolist()
    return calibrator


def calibrate(sets: dict[str, dict[Decoder, Clips]], dev: str) -> Calibration:
    """Return the calibrators for each decoder, fitted on `dev` alone, and their calibration errors on all sets.

    A set that is not available has no decoders, or is not among `sets`.
    """
    decoders = dict.fromkeys(decoder for each in sets.values() for decoder in each)
    calibrators = {decoder: fit(*joined(sets.get(dev, {}).get(decoder, []))) for decoder in decoders}
    return Calibration(
        dev=dev,
        calibrators=calibrators,
        sets=[
            reliability(name, decoder, calibrators[decoder], clips)
            for name, decoders in sets.items()
            for decoder, clips in decoders.items()
        ],
    )


def main() -> None:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=CalibrationSettings.model_validate_json, required=True)
    parser.add_argument("--confidence", type=Path, nargs="+", required=True, help="the table of each set")
    parser.add_argument("--calibration", type=Path, required=True, help="the file to write")
    parser.add_argument("--plot", type=Path, required=True, help="the plot to write")
    args = parser.parse_args()
    torch.set_num_threads(1)
    sets = {path.stem: read_clips(path) for path in args.confidence}
    found = calibrate(sets, args.settings.dev)
    write_json(found.model_dump(), args.calibration)
    plot_reliability(found, sets, args.settings.titles.__getitem__, args.plot)
    for each in found.sets:
        print(
            f"{each.set} by {each.decoder}: expected calibration error {each.ece_before} before, {each.ece_after} after"
        )


if __name__ == "__main__":
    run_command(main)
