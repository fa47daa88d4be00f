import math
from pathlib import Path
from typing import Any

import jiwer
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from material import recording
from speechmill.inference.log_probs import LogProbsSettings
from speechmill.report.verify import POINTS, ReferenceModel, counted, differences, numbers
from speechmill.scoring.error_rates import count

TEXTS = st.text(alphabet="аб ё", max_size=12)


def test_figures_are_counted_by_section_and_code_is_none() -> None:
    card = """---
value: 12.35
---
# Model of 2026
- Loss: 0.0639

## Usage
```python
rate = 16_000
```
It needs `torch 2.11` and [a page](http://example.org/404).
### Results
| 9.21 | 8.00 – 10.55 | 1,234 |
"""
    assert numbers(card) == {"Front matter, and the first lines": 3, "Results": 4}


@given(TEXTS, TEXTS)
def test_errors_of_a_clip_are_those_that_the_workflow_counts(reference: str, hypothesis: str) -> None:
    (ours,) = count([reference], [hypothesis])
    assert counted(reference, hypothesis) == ours


def test_errors_of_a_clip_are_by_jiwer() -> None:
    found = counted("раз два три", "раз двадва пять шесть")
    assert (found.errors, found.words) == (3, 3)
    assert found.errors / found.words == jiwer.wer("раз два три", "раз двадва пять шесть")


ROW: dict[str, Any] = {
    "wer": 0.1, "wer_low": 0.05, "wer_high": 0.15, "cer": 0.02, "substitutions": 7, "reference_words": 100,
    "loss": 0.5, "clips_scored": 20,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "exact", "same"),
    [
        ({}, True, True),
        ({"wer": 0.1 + 1e-12}, True, True),  # summed in another order
        ({"wer": 0.1001}, True, False),
        ({"wer": 0.1 + POINTS / 101}, False, True),
        ({"wer": 0.1 + POINTS / 99}, False, False),
        ({"loss": 0.50001}, True, True),
        ({"loss": 0.501}, True, False),
        ({"loss": 0.501}, False, True),
        ({"substitutions": 8}, True, False),
        ({"substitutions": 8}, False, True),  # what errors are made of may change where their rate does
        ({"reference_words": 101}, False, False),
        ({"clips_scored": 19}, False, False),
        ({"loss": None}, True, False),
    ],
)
def test_on_the_same_device_figures_are_equal_and_elsewhere_within_the_tolerance(
    change: dict[str, Any], exact: bool, same: bool
) -> None:
    assert (differences(ROW, ROW | change, exact) == []) == same


def test_a_figure_that_there_is_not_is_not_there_again() -> None:
    assert differences(ROW | {"loss": math.nan}, ROW | {"loss": None}, True) == []
    (line,) = differences(ROW | {"loss": math.nan}, ROW, True)
    assert line == "loss is None in the card's evidence, and 0.5 when it is computed again"


@pytest.mark.parametrize(("samples", "frames"), [(1, 0), (399, 0), (400, 1), (16_000, 49)])
def test_what_is_shorter_than_the_window_of_the_first_frame_has_none(
    checkpoints: Path, samples: int, frames: int
) -> None:
    # The window of wav2vec2 is 400 samples, 25 ms, and comes again after 320.
    ear = ReferenceModel(checkpoints / "checkpoint-0", torch.device("cpu"))
    heard = ear.log_probs(recording(1.0)[:samples], LogProbsSettings(device="cpu", batch_seconds=1))
    assert len(heard) == frames
    assert frames or ear.greedy(heard) == ""
