"""Calibration of the confidence of words."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from speechmill.core.command import SpeechmillError
from speechmill.core.files import write_json
from speechmill.report.calibration import calibrate, fit
from speechmill.scoring.reliability import (
    BINS,
    Calibrator,
    expected_calibration_error,
    read_calibration,
    reliability_bins,
)

CONFIDENCE = np.array([0.55, 0.6, 0.7, 0.8, 0.85, 0.9, 0.9, 0.95, 0.97, 0.99, 0.99, 0.995])
RIGHT = np.array([0, 1, 0, 0, 1, 1, 0, 1, 1, 1, 1, 1], dtype=bool)


def test_calibration_error_is_the_weighted_gap_of_the_bins() -> None:
    # By hand: the bin (12/15, 13/15] has 2 words, mean confidence 0.84, half of them right; the bin (14/15, 1] has 3
    # words, mean confidence 0.97, all right.
    confidence = np.array([0.82, 0.86, 0.95, 0.97, 0.99])
    right = np.array([True, False, True, True, True])
    assert expected_calibration_error(confidence, right) == pytest.approx((2 * 0.34 + 3 * 0.03) / 5)


def test_bins_contain_their_upper_ends() -> None:
    assert BINS == 15
    found = reliability_bins(np.array([0.0, 1 / 15, 0.07, 1.0]), np.array([False, True, True, True]))
    assert [(each.words, each.accuracy) for each in found] == [(2, 0.5), (1, 1.0), (1, 1.0)]


def test_set_without_words_has_no_calibration_error() -> None:
    nothing = np.array([])
    assert expected_calibration_error(nothing, nothing.astype(bool)) is None
    assert reliability_bins(nothing, nothing.astype(bool)) == []


@pytest.mark.parametrize(
    ("confidence", "right", "slope", "intercept"),
    [
        (CONFIDENCE, RIGHT, 0.6570770, -0.8072090),
        # Perfectly separated, so that the slope would be infinite with targets of 0 and 1.
        (np.array([0.2, 0.4, 0.9, 0.95]), np.array([False, False, True, True]), 0.6048651, -0.5109567),
    ],
)
def test_fit_is_that_of_scikit_learn(
    confidence: NDArray[np.float64], right: NDArray[np.bool_], slope: float, intercept: float
) -> None:
    # Source: _SigmoidCalibration of scikit-learn 1.9.1, which CalibratedClassifierCV(method="sigmoid") uses.
    found = fit(confidence, right)
    assert (found.slope, found.intercept) == (pytest.approx(slope, rel=1e-4), pytest.approx(intercept, rel=1e-4))


@pytest.mark.parametrize("right", [True, False])
def test_confidence_is_unchanged_without_right_or_wrong_words(right: bool) -> None:
    calibrator = fit(CONFIDENCE, np.full(len(CONFIDENCE), right))
    assert not calibrator.is_fitted
    np.testing.assert_array_equal(calibrator(CONFIDENCE), CONFIDENCE)


def test_certain_words_have_finite_confidence() -> None:
    calibrated = Calibrator(slope=2.0, intercept=0.5, words=2, wrong=1)(np.array([0.0, 1.0]))
    assert 0 < calibrated[0] < 1e-9
    assert 1 - 1e-9 < calibrated[1] < 1


def test_only_dev_decides_on_calibrators() -> None:
    dev = {"greedy": [(CONFIDENCE.tolist(), RIGHT.tolist()), (None, None)]}
    test = {"greedy": [([0.9, 0.8], [False, True]), ([], [])]}
    found = calibrate({"a-dev": dev, "a-test": test}, "a-dev")
    assert found.calibrators["greedy"] == fit(CONFIDENCE, RIGHT)
    assert [(each.set, each.words, each.wrong, each.clips_left_out) for each in found.sets] == [
        ("a-dev", 12, 4, 1),
        ("a-test", 2, 1, 0),
    ]
    assert found.sets[0].ece_after < found.sets[0].ece_before


@pytest.mark.parametrize("unavailable", [{"a-dev": {}}, {}])
def test_without_dev_no_calibrator_is_fitted(unavailable: Any) -> None:
    found = calibrate({**unavailable, "a-test": {"greedy": [([0.9, 0.8], [False, True])]}}, "a-dev")
    assert not found.calibrators["greedy"].is_fitted
    assert found.sets[0].ece_after == found.sets[0].ece_before


def test_file_of_another_kind_is_no_calibration(tmp_path: Path) -> None:
    write_json({"step": 1}, tmp_path / "confidence.json")
    with pytest.raises(SpeechmillError, match=r"confidence\.json is no calibration \(Field required\)"):
        read_calibration(tmp_path / "confidence.json")
