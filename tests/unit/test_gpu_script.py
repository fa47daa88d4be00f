import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import Wav2Vec2Config

from benchmarks import gpu_evaluate
from benchmarks.gpu_train import MEAN, RATE, XLS_R_1B, clip_lengths, largest, main, operations
from material import ROOT

TRAIN, EVALUATE = (ROOT / "tests" / "benchmarks" / f"gpu_{name}.py" for name in ("train", "evaluate"))
# What a machine that is lent for its GPU need not have.
LACKING = ("datasets", "jiwer", "pandas", "pyarrow", "pydantic", "snakemake", "soundfile", "soxr", "tensorboard")


def run_script(script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    without = f"import runpy, sys; sys.modules.update(dict.fromkeys({LACKING})); sys.argv = {[str(script), *arguments]}"
    return subprocess.run(
        [sys.executable, "-c", f"{without}; runpy.run_path({str(script)!r}, run_name='__main__')"],
        env={
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": f"{ROOT / 'workflow'}:{ROOT / 'tests'}",
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )


def test_both_recipes_run_with_torch_and_transformers_alone() -> None:
    done = run_script(TRAIN, "--small", "--audio-seconds", "8")
    assert done.returncode == 0, done.stderr
    for figure in ("stock: audio-seconds a second", "ours: audio-seconds a second", "ours: share of the matrix peak"):
        assert figure in done.stdout
    assert "still to be had" in done.stdout


def test_an_evaluation_runs_with_torch_and_transformers_alone() -> None:
    done = run_script(EVALUATE, "--small", "--audio-seconds", "8")
    assert done.returncode == 0, done.stderr
    for figure in ("64 clips as they come, fp32: RTFx", "by length, 120 s, bf16: RTFx", "at its best: RTFx"):
        assert figure in done.stdout
    assert "still to be had" in done.stdout


@pytest.mark.parametrize("main", [main, gpu_evaluate.main])
def test_a_full_size_model_is_not_tried_without_a_gpu(
    main: Callable[[], None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["script"])
    with pytest.raises(SystemExit):
        main()
    assert "--small" in capsys.readouterr().err


@given(st.floats(0, 5000), st.floats(10, 1000))
def test_the_largest_batch_fits_and_little_more_does(limit: float, start: float) -> None:
    found = largest(lambda seconds: seconds <= limit, start)
    assert found <= limit
    assert limit - found <= max(1.0, 0.06 * limit)


def test_a_second_of_audio_costs_xls_r_1b_300_gflop() -> None:
    # Source: an estimate made apart from this, forward and backward in clips of 5 s, its convolutions frozen.
    assert operations(Wav2Vec2Config(**XLS_R_1B), 5.0) == pytest.approx(300e9, rel=0.01)


def test_clips_are_as_long_as_those_of_common_voice() -> None:
    lengths = clip_lengths(20_000)
    assert sum(lengths) / len(lengths) / RATE == pytest.approx(MEAN, rel=0.02)


@given(st.lists(st.integers(1, 20 * RATE), min_size=1), st.floats(1, 100))
def test_batches_of_an_evaluation_hold_each_clip_once_within_their_seconds(lengths: list[int], seconds: float) -> None:
    batches = list(gpu_evaluate.by_length(lengths, seconds))
    assert [length for batch in batches for length in batch] == sorted(lengths, reverse=True)
    assert all(len(batch) == 1 or len(batch) * batch[0] <= seconds * RATE for batch in batches)
