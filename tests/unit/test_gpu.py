"""The checks on a GPU: their steps, results and measurements. tests/workflow/test_gpu.py runs all of them."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu.checks import CHECKS, Check, run_check
from gpu.clips import MEAN, RATE, clip_lengths
from gpu.commands import parse_jobs
from gpu.models import XLS_R_1B
from gpu.prepare import HERE, locked
from gpu.profiler import kind_of
from gpu.results import append, read, table
from gpu.speed import cost_of, largest
from gpu.step import Step
from material import ROOT

DRY_RUN = """\
Building DAG of jobs...

[Fri Nov 27 09:01:11 2026]
checkpoint finetune:
    input: clips.parquet, vocab.json
    output: results/runs/a/checkpoints, results/runs/a/training.json
    log: logs/finetune/a.log
    jobid: 4
    resources: tmpdir=/tmp, gpu=1
Shell command: python -m speechmill.training.finetune --settings '{"seed": 42}' 2>&1 | tee logs/finetune/a.log

[Fri Nov 27 09:01:11 2026]
rule verify:
    input: results/runs/a/model/manifest.json
    log: logs/verify.log
    jobid: 0
Shell command: python -m speechmill.report.verify results/runs/a/model
Job stats:
"""


def outcome(tmp_path: Path, main: Callable[[Step], None], limit: float = 60.0) -> dict[str, object]:
    """Run a function as a step, and return the line of its outcome."""
    step = Step("step", tmp_path / "results.jsonl", tmp_path, tmp_path, small=True)
    run_check(Check("step", main, limit), step, tmp_path / "step.log")
    return read(step.results)[-1]


def test_time_limits_add_up_to_eight_minutes() -> None:
    assert sum(check.limit for check in CHECKS) == 480


def test_readme_lists_the_steps_and_their_limits() -> None:
    text = (HERE / "README.md").read_text()
    for check in CHECKS:
        assert f"| `{check.name}` | {check.limit} |" in text


def test_failed_step_is_recorded_with_the_end_of_its_output(tmp_path: Path) -> None:
    def main(_: Step) -> None:
        print("x" * 9000, flush=True)
        raise RuntimeError("no GPU")

    line = outcome(tmp_path, main)
    assert (line["outcome"], line["status"]) == ("failed", 1)
    assert str(line["output"]).endswith("no GPU\n")
    assert len(str(line["output"])) == 3000


def test_step_is_killed_at_its_limit_with_its_processes(tmp_path: Path) -> None:
    def main(_: Step) -> None:
        print("started", flush=True)
        subprocess.run(["sleep", "1000"], check=True)

    line = outcome(tmp_path, main, limit=2.0)
    assert (line["outcome"], line["output"]) == ("timed out", "started\n")


def test_table_is_made_from_a_truncated_file(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    append(file, {"step": "speed", "name": "stock", "values": {"seconds": 1234.5, "device": "H100"}})
    append(file, {"step": "speed", "outcome": "failed", "seconds": 3.2, "limit": 150, "output": "out of\nmemory"})
    file.write_text(file.read_text() + '{"step": "mem')
    assert [" ".join(line.split()) for line in table(read(file)).splitlines()] == [
        "speed: stock seconds 1,234 device H100",
        "speed: FAILED 3 of 150 s",
        "out of",
        "memory",
    ]


def test_jobs_of_a_dry_run() -> None:
    training, verify = parse_jobs(DRY_RUN)
    assert training.rule == "finetune"
    assert training.inputs == ["clips.parquet", "vocab.json"]
    assert training.outputs == ["results/runs/a/checkpoints", "results/runs/a/training.json"]
    assert training.log == "logs/finetune/a.log"
    assert training.command.endswith("""--settings '{"seed": 42}' 2>&1 | tee logs/finetune/a.log""")
    assert (verify.rule, verify.outputs) == ("verify", [])


def test_packages_have_the_versions_of_the_lock_file() -> None:
    packages = [line for line in (HERE / "requirements.txt").read_text().splitlines() if not line.startswith("#")]
    lock = (ROOT / "requirements.lock").read_text()
    assert "pydantic" in packages
    assert all(f"\n{pinned} " in lock for pinned in locked(packages, lock))
    with pytest.raises(ValueError, match="absent"):
        locked(["absent"], lock)


@given(st.floats(0, 5000), st.floats(10, 1000))
def test_largest_batch_is_found_within_5_percent(limit: float, start: float) -> None:
    found = largest(lambda seconds: seconds <= limit, start, longest=8000.0)
    assert found <= limit
    assert limit - found <= max(1.0, 0.06 * limit)


@given(st.floats(10, 1000))
def test_no_batch_above_the_longest_is_tried(start: float) -> None:
    tried: list[float] = []
    assert largest(lambda seconds: not tried.append(seconds), start, longest=2000.0) == 2000.0
    assert max(tried) == 2000.0


def test_flop_of_xls_r_1b() -> None:
    # Source: a separate estimate of forward and backward pass for clips of 5 s with a frozen feature encoder.
    assert cost_of(XLS_R_1B, "bf16").flop_per_audio_second == pytest.approx(300e9, rel=0.02)


def test_mean_clip_length_is_that_of_common_voice() -> None:
    lengths = clip_lengths(20_000)
    assert sum(lengths) / len(lengths) / RATE == pytest.approx(MEAN, rel=0.02)


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        ("nvjet_tst_192x192_64x3_2x1_v_bz_coopA_NNT", "matrix product"),
        ("void cudnn::cnn::conv2d_grouped_direct_kernel", "convolution"),
        ("pytorch_flash::flash_bwd_dq_dk_dv_loop_seqk_parallel_kernel", "attention"),
        ("void at::native::ctc_loss_backward_log_beta_gpu_kernel", "CTC loss"),
        ("multi_tensor_apply_kernel<FusedAdamMathFunctor>", "optimizer"),
        ("Memcpy HtoD (Pinned -> Device)", "copy"),
        ("something new", "other"),
    ],
)
def test_kind_of_a_kernel(kernel: str, kind: str) -> None:
    assert kind_of(kernel) == kind


def test_results_are_json_lines(tmp_path: Path) -> None:
    append(tmp_path / "results.jsonl", {"step": "inputs", "name": "ё", "values": {}})
    assert json.loads((tmp_path / "results.jsonl").read_text())["name"] == "ё"
