import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from material import recording
from speechmill.core.tables import write_arrow_table
from speechmill.inference.log_probs import LogProbsSettings
from speechmill.report.markdown import code_block, code_span
from speechmill.report.reference_model import ReferenceModel
from speechmill.report.verify_folder import count_figures
from speechmill.report.verify_scores import TOLERANCE_POINTS, _changed_texts, compare_scores, tolerance


def test_figures_are_counted_by_section_without_code() -> None:
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
    assert count_figures(card) == {"Front matter and introduction": 3, "Results": 4}


def test_backticks_of_a_corpus_hide_no_figures() -> None:
    code = code_block("``` 1\n2")
    card = f"## Results\n- {code_span('`7')} 3 of 4, {code_span('a``5')} 6\n\n{code}\n\n| 8 |\n"
    assert count_figures(card) == {"Results": 4}


ROW: dict[str, Any] = {
    "wer": 0.1, "wer_low": 0.05, "wer_high": 0.15, "cer": 0.02, "substitutions": 7, "reference_words": 10_000,
    "loss": 0.5, "clips_scored": 20,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "exact", "same"),
    [
        ({}, True, True),
        ({"wer": 0.1 + 1e-12}, True, True),  # a different order of summation
        ({"wer": 0.1001}, True, False),
        ({"wer": 0.1 + TOLERANCE_POINTS / 101}, False, True),
        ({"wer": 0.1 + TOLERANCE_POINTS / 99}, False, False),
        ({"loss": 0.50001}, True, True),
        ({"loss": 0.501}, True, False),
        ({"loss": 0.501}, False, True),
        ({"substitutions": 8}, True, False),
        ({"substitutions": 8}, False, True),  # the kinds of errors may change together with the rate
        ({"reference_words": 10_001}, False, False),
        ({"clips_scored": 19}, False, False),
        ({"loss": None}, True, False),
    ],
)
def test_tolerance_depends_on_device(change: dict[str, Any], exact: bool, same: bool) -> None:
    assert (compare_scores(ROW, ROW | change, tolerance(exact, False, "fp32")) == []) == same


@pytest.mark.parametrize(
    ("precision", "change", "same"),
    [
        ("fp32", {"wer": 0.1 + TOLERANCE_POINTS / 1001, "substitutions": 8}, True),
        ("fp32", {"wer": 0.1 + TOLERANCE_POINTS / 999}, False),
        ("fp32", {"loss": 0.501}, False),
        ("bf16", {"wer": 0.1 + TOLERANCE_POINTS / 101, "loss": 0.501}, True),
        ("fp16", {"wer": 0.1 + TOLERANCE_POINTS / 99}, False),
    ],
)
def test_tolerance_on_a_gpu_depends_on_precision(precision: str, change: dict[str, Any], same: bool) -> None:
    assert (compare_scores(ROW, ROW | change, tolerance(True, True, precision)) == []) == same


@pytest.mark.parametrize(
    ("same_device", "gpu", "precision", "words"),
    [(True, True, "bf16", 2), (True, True, "fp32", 1), (False, True, "fp32", 2), (True, False, "fp32", 0)],
)
def test_few_words_of_a_small_set_may_differ(same_device: bool, gpu: bool, precision: str, words: int) -> None:
    # In the check on an H200 in bf16, one of 188 words changed: 0.53 points.
    row, allowed = ROW | {"reference_words": 188}, tolerance(same_device, gpu, precision)
    for changed in range(4):
        assert (compare_scores(row, row | {"wer": 0.1 + changed / 188.001}, allowed) == []) == (changed <= words)


def test_tolerance_is_printed() -> None:
    assert str(tolerance(True, False, "fp32")) == "equal within 1e-09, on the same CPU model"
    assert str(tolerance(True, True, "fp32")) == "within 0.02 points or 1 word, in fp32 on the same GPU model"
    assert str(tolerance(False, True, "bf16")) == "within 0.2 points or 2 words, on another device or torch version"


def test_clips_with_another_text_are_counted_and_named(tmp_path: Path) -> None:
    write_arrow_table(pa.table({"id": ["a", "b", "c"], "hypothesis": ["x", "y", "z"]}), tmp_path / "greedy.parquet")
    write_arrow_table(pa.table({"id": ["1", "2", "3"]}), tmp_path / "restricted.parquet")
    assert _changed_texts(tmp_path / "greedy.parquet", ["x", "y", "z"]) == ""
    assert _changed_texts(tmp_path / "greedy.parquet", ["x", "u", "v"]) == "the texts of 2 clips are others: b, c"
    assert _changed_texts(tmp_path / "restricted.parquet", ["x", "u", "v"]) == ""


def test_missing_value_must_stay_missing() -> None:
    assert compare_scores(ROW | {"loss": math.nan}, ROW | {"loss": None}, tolerance(True, False, "fp32")) == []
    (line,) = compare_scores(ROW | {"loss": math.nan}, ROW, tolerance(True, False, "fp32"))
    assert line == "loss is None in the evidence but 0.5 when recomputed"


@pytest.mark.parametrize(("samples", "frames"), [(1, 0), (399, 0), (400, 1), (16_000, 49)])
def test_clip_shorter_than_a_frame_has_no_output(checkpoints: Path, samples: int, frames: int) -> None:
    # The receptive field of a frame of wav2vec2 is 400 samples (25 ms); frames are 320 samples apart.
    model = ReferenceModel(checkpoints / "checkpoint-0", torch.device("cpu"))
    log_probs = model.log_probs(recording(1.0)[:samples], LogProbsSettings(device="cpu", batch_seconds=1))
    assert len(log_probs) == frames
    assert frames or model.decode(log_probs) == ""
