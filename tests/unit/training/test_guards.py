import os
import signal
import subprocess
import sys
from itertools import chain, repeat
from typing import Any

import pytest
import torch

from material import ROOT
from speechmill.training import guards
from speechmill.training.guards import (
    EXIT_RESUMABLE,
    FiniteGuard,
    StopRequest,
    not_finite,
    only_blanks,
    out_of_memory,
    stop_requests,
)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_is_recorded_and_ends_nothing(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with stop_requests() as request:
        assert request.signal is None
        os.kill(os.getpid(), number)
        assert request.signal == number.name
    assert signal.getsignal(number) is before


@pytest.mark.parametrize(("seconds", "exits"), [(0.1, []), (5.0, [EXIT_RESUMABLE])], ids=["echo", "second signal"])
def test_second_signal_exits_but_an_echo_does_not(
    monkeypatch: pytest.MonkeyPatch, seconds: float, exits: list[int]
) -> None:
    recorded: list[int] = []
    monkeypatch.setattr("os._exit", recorded.append)
    clock = chain([100.0], repeat(100.0 + seconds))
    monkeypatch.setattr(guards.time, "monotonic", lambda: next(clock))
    request = StopRequest()
    request.handle(signal.SIGTERM)
    request.handle(signal.SIGTERM)
    assert recorded == exits


def test_program_survives_a_closed_output_pipe() -> None:
    program = (
        "import sys\nfrom speechmill.core.progress import ignore_broken_pipes\n"
        "sys.stdin.readline()\n"
        "with ignore_broken_pipes():\n"
        "    for _ in range(3):\n"
        "        print('unread', flush=True)\n"
        "        print('unread', file=sys.stderr)\n"
        "sys.exit(75)\n"
    )
    running = subprocess.Popen(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": str(ROOT / "workflow")},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert running.stdin is not None and running.stdout is not None
    running.stdout.close()
    running.stdin.write(b"\n")
    running.stdin.close()
    assert running.wait() == 75


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_first_non_finite_step_is_remembered(bad: float) -> None:
    guard = FiniteGuard(torch.device("cpu"))
    for step, value in enumerate([1.0, 0.0, bad, 2.0, bad], start=1):
        guard.watch(torch.tensor(value), step)
    assert guard.first() == 3


def test_finite_values_are_not_reported() -> None:
    guard = FiniteGuard(torch.device("cpu"))
    guard.watch(torch.tensor(1e30), 1)
    assert guard.first() is None


def test_error_names_some_clips_and_counts_the_rest() -> None:
    message = str(not_finite("demo", 7, [f"clip-{i}" for i in range(30)]))
    assert "at step 7, on the clips clip-0, clip-1, " in message
    assert "clip-19 and 10 more;" in message
    assert "runs.demo.finetune.learning_rate" in message


PLAN: dict[str, Any] = {
    "gpu_memory_gib": 78.0,
    "gradient_checkpointing": False,
    "fits_seconds": {"without_checkpointing": 410.0, "with_checkpointing": 2100.0},
}


def test_out_of_memory_error_names_sizes_and_keys() -> None:
    message = str(out_of_memory("demo", 480.26, PLAN, 24 * 2**30))
    assert "a batch of 480.3 s, padding included." in message
    assert "410 s fit into runs.demo.gpu_memory_gib, 78 GiB; the device has 24.0 GiB" in message
    assert "runs.demo.plan.batch.seconds" in message
    assert "runs.demo.finetune.gradient_checkpointing to true, with which 2100 s would fit" in message
    message = str(out_of_memory("demo", 480.26, PLAN | {"gradient_checkpointing": True}, 24 * 2**30))
    assert "2100 s fit" in message
    assert "gradient_checkpointing" not in message


def evaluations(*shares: tuple[int, int, int]) -> list[dict[str, Any]]:
    return [{"step": step, "dev_clips": clips, "dev_empty": empty} for step, clips, empty in shares]


@pytest.mark.parametrize(
    ("rows", "blank"),
    [
        (evaluations((20, 9, 9), (30, 9, 9), (40, 9, 9)), True),
        (evaluations((20, 9, 0), (30, 9, 9), (40, 9, 9), (50, 9, 9)), True),
        (evaluations((20, 9, 9), (30, 9, 8), (40, 9, 9)), False),
        (evaluations((5, 9, 9), (20, 9, 9), (30, 9, 9)), False),
        (evaluations((20, 9, 9), (30, 9, 9)), False),
        ([{"step": step, "loss": 3.0} for step in (20, 30, 40)], False),
    ],
    ids=["three", "the last three", "a word", "in the warm-up", "two", "no evaluations"],
)
def test_only_blanks_after_warm_up(rows: list[dict[str, Any]], blank: bool) -> None:
    assert only_blanks(rows, 10) is blank
