"""Calibration of the confidence of words, and its expected calibration error."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from speechmill.config.evaluation import Decoder
from speechmill.core.files import corrupt_file_error, read_json
from speechmill.core.tables import read_table

CALIBRATION = "confidence.json"
"""The name of the file in the model folder that contains a `Calibration`."""

BINS = 15
"""The number of bins of equal width, as in the source of `expected_calibration_error`."""

# Log-odds of 0 and 1 are not finite.
_SMALLEST = 1e-6


Clips = list[tuple[list[float] | None, list[bool] | None]]
"""The confidence of the words of each clip, and whether each is right; None for a clip that is left out."""


class Calibrator(BaseModel):
    """Platt scaling: calibrated confidence is sigmoid(slope * log-odds of the confidence + intercept).

    Two parameters need few wrong words, of which a good model has few on dev. Source: Platt, Probabilistic outputs for
    support vector machines, 1999, with the log-odds of the confidence in place of the output of the machine.
    """

    slope: float = 1.0
    intercept: float = 0.0
    words: int
    """The number of words on dev that it was fitted on."""
    wrong: int
    """How many of them are wrong."""

    @property
    def is_fitted(self) -> bool:
        """Whether there were right and wrong words to fit it on; otherwise it changes nothing."""
        return 0 < self.wrong < self.words

    def __call__(self, confidence: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the calibrated confidence of each word."""
        if not self.is_fitted:
            return confidence
        calibrated: NDArray[np.float64] = 1 / (1 + np.exp(-(self.slope * log_odds(confidence) + self.intercept)))
        return calibrated


class Reliability(BaseModel):
    """How well the confidence of the words in a set agrees with their accuracy."""

    set: str
    decoder: Decoder
    words: int
    wrong: int
    clips_left_out: int
    """Clips whose words cannot be compared with the reference, because text rules change their number."""
    ece_before: float | None
    """The expected calibration error without calibration; None for a set without words."""
    ece_after: float | None


class Calibration(BaseModel):
    """The calibrators of a model, and what they achieve."""

    dev: str
    """The set that the calibrators were fitted on."""
    calibrators: dict[Decoder, Calibrator]
    sets: list[Reliability]


class Bin(NamedTuple):
    """The words whose confidence is in one interval: their mean confidence, their accuracy, and their number."""

    confidence: float
    accuracy: float
    words: int


def log_odds(confidence: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the log-odds of each confidence, which is limited so that they are finite."""
    limited = np.clip(confidence, _SMALLEST, 1 - _SMALLEST)
    odds: NDArray[np.float64] = np.log(limited / (1 - limited))
    return odds


def reliability_bins(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> list[Bin]:
    """Return the bins of equal width that contain words, from the lowest confidence to the highest.

    Bin m contains the words with a confidence in ((m - 1) / BINS, m / BINS]; the first one also those with 0.
    """
    numbers = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    members = ((numbers == number) for number in np.unique(numbers))
    return [Bin(float(confidence[each].mean()), float(right[each].mean()), int(each.sum())) for each in members]


def expected_calibration_error(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> float | None:
    """Return the mean difference between confidence and accuracy over the bins, weighted by their words.

    None if there are no words. Source: Guo and others, On calibration of modern neural networks, 2017, equation 3.
    """
    if not len(confidence):
        return None
    bins = reliability_bins(confidence, right)
    return sum(each.words * abs(each.accuracy - each.confidence) for each in bins) / len(confidence)


def reliability(set_name: str, decoder: Decoder, calibrator: Calibrator, clips: Clips) -> Reliability:
    """Return how well the confidence of the words in a set agrees with their accuracy."""
    confidence, right = joined(clips)
    return Reliability(
        set=set_name,
        decoder=decoder,
        words=len(right),
        wrong=int((~right).sum()),
        clips_left_out=sum(words is None for words, _ in clips),
        ece_before=expected_calibration_error(confidence, right),
        ece_after=expected_calibration_error(calibrator(confidence), right),
    )


def joined(clips: Clips) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the confidence of all words of clips, and whether each is right."""
    confidence = [each for words, _ in clips for each in words or []]
    right = [each for _, words in clips for each in words or []]
    return np.array(confidence, dtype=np.float64), np.array(right, dtype=np.bool_)


def read_clips(path: Path) -> dict[Decoder, Clips]:
    """Return the clips of a table CONFIDENCE, by decoder.

    Raises:
        SpeechmillError: The table cannot be read.
    """
    clips: dict[Decoder, Clips] = {}
    columns = read_table(path, ["decoder", "confidence", "right"]).to_pydict()
    for decoder, confidence, right in zip(*columns.values(), strict=True):
        clips.setdefault(decoder, []).append((confidence, right))
    return clips


def read_calibration(path: Path) -> Calibration:
    """Return the content of `confidence.json`.

    Raises:
        SpeechmillError: It is corrupt.
    """
    try:
        return Calibration.model_validate(read_json(path))
    except ValidationError as error:
        raise corrupt_file_error(path, f"is no calibration ({error.errors()[0]['msg']})") from error
