import subprocess
import sys
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import Wav2Vec2Config

from benchmarks import gpu_evaluate
from benchmarks.gpu_train import MEAN, RATE, XLS_R_1B, clip_lengths, flop_per_audio_second, largest, main
from material import ROOT

# Libraries that a machine with a borrowed GPU may lack.
MISSING = ("datasets", "jiwer", "pandas", "pyarrow", "pydantic", "snakemake", "soundfile", "soxr", "tensorboard")
# Runs the scripts one after the other, without importing torch and transformers again; a form feed separates them.
RUN_SCRIPTS = """
import runpy, sys
sys.modules.update(dict.fromkeys(MISSING))
for script in SCRIPTS:
    sys.argv = [script, "--small", "--audio-seconds", "8"]
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise
    print("\\f")
"""


@pytest.fixture(scope="module")
def outputs() -> list[str]:
    """Run both scripts in one process that can import only torch, transformers and their dependencies."""
    scripts = [str(ROOT / "tests" / "benchmarks" / f"gpu_{name}.py") for name in ("train", "evaluate")]
    done = subprocess.run(
        [sys.executable, "-c", f"MISSING, SCRIPTS = {MISSING}, {scripts}\n{RUN_SCRIPTS}"],
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
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\f")


def test_training_script_needs_only_torch_and_transformers(outputs: list[str]) -> None:
    for name in (
        "stock: audio-seconds per second",
        "speechmill: audio-seconds per second",
        "speechmill: MFU",
        "does not measure XLS-R 1B",
    ):
        assert name in outputs[0]


def test_evaluation_script_needs_only_torch_and_transformers(outputs: list[str]) -> None:
    for name in (
        "64 clips in given order, fp32: RTFx",
        "by length, 120 s, bf16: RTFx",
        "at its best: RTFx",
        "does not measure XLS-R 1B",
    ):
        assert name in outputs[1]


@pytest.mark.parametrize("main", [main, gpu_evaluate.main])
def test_full_size_model_needs_a_gpu(
    main: Callable[[], None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["script"])
    with pytest.raises(SystemExit):
        main()
    assert "--small" in capsys.readouterr().err


@given(st.floats(0, 5000), st.floats(10, 1000))
def test_largest_batch_is_found_within_5_percent(limit: float, start: float) -> None:
    found = largest(lambda seconds: seconds <= limit, start)
    assert found <= limit
    assert limit - found <= max(1.0, 0.06 * limit)


def test_flop_of_xls_r_1b() -> None:
    # Source: a separate estimate of forward and backward pass for clips of 5 s with a frozen feature encoder.
    assert flop_per_audio_second(Wav2Vec2Config(**XLS_R_1B), 5.0) == pytest.approx(300e9, rel=0.01)


def test_mean_clip_length_is_that_of_common_voice() -> None:
    lengths = clip_lengths(20_000)
    assert sum(lengths) / len(lengths) / RATE == pytest.approx(MEAN, rel=0.02)


@given(st.lists(st.integers(1, 20 * RATE), min_size=1), st.floats(1, 100))
def test_evaluation_batches_hold_each_clip_once(lengths: list[int], seconds: float) -> None:
    batches = list(gpu_evaluate.by_length(lengths, seconds))
    assert [length for batch in batches for length in batch] == sorted(lengths, reverse=True)
    assert all(len(batch) == 1 or len(batch) * batch[0] <= seconds * RATE for batch in batches)
