import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import Wav2Vec2Processor

from finetune_process import (
    ForkedPopen,
    Stored,
    command_line,
    output_arguments,
    run_stage,
    stop_at_step_2,
    write_inputs,
)
from material import LAYER_NORM, ROOT, STOCHASTIC, as_json, recording, store
from speechmill.core.command import SpeechmillError
from speechmill.core.files import read_json
from speechmill.training import distributed, finetune
from speechmill.training.distributed import (
    AnyRank,
    all_reduce_sum,
    barrier,
    broadcast,
    first_host,
    is_first_task,
    launch,
    launched,
    rank,
    world_size,
)
from speechmill.training.guards import EXIT_RESUMABLE

CPU = torch.device("cpu")
Program = Callable[[str], str]


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """Return a function that writes a module which processes run in `tmp_path`, outside of Slurm."""
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT / 'workflow'}")
    monkeypatch.delenv("SLURM_STEP_NUM_TASKS", raising=False)
    monkeypatch.chdir(tmp_path)

    def write(text: str) -> str:
        (tmp_path / "program.py").write_text(text)
        return "program"

    return write


COLLECTIVES = """
import json, sys
from speechmill.training import distributed

with distributed.process_group() as device:
    rank, any_rank, flags = distributed.rank(), distributed.AnyRank(), []
    for step in range(9):
        flags.append(any_rank.update(rank == 1 and step == 5))
        distributed.barrier()
    results = {
        "arguments": sys.argv[1:],
        "device": str(device),
        "world_size": distributed.world_size(),
        "sum": distributed.all_reduce_sum(10.0 ** rank),
        "broadcast": distributed.broadcast(lambda: f"of {rank}"),
        "flags": flags,
    }
    open(f"{rank}.json", "w").write(json.dumps(results))
    print("printed by", rank)
"""


@pytest.mark.slow
def test_collectives_and_any_rank_in_two_processes(
    tmp_path: Path, program: Program, capfd: pytest.CaptureFixture[str]
) -> None:
    launch(program(COLLECTIVES), ["--run", "demo"], [CPU, CPU])
    results = [read_json(tmp_path / f"{number}.json") for number in (0, 1)]
    assert results[0] == results[1]
    flags = [False] * 6 + [True] + [False] * 2
    assert results[0] == {
        "arguments": ["--run", "demo"], "device": "cpu", "world_size": 2, "sum": 11.0, "broadcast": "of 0",
        "flags": flags,
    }  # fmt: skip
    assert capfd.readouterr().out == "printed by 0\n"


def test_collectives_in_a_single_process() -> None:
    assert not launched()
    assert (rank(), world_size(), all_reduce_sum(2.5), broadcast(lambda: "value")) == (0, 1, 2.5, "value")
    barrier()
    any_rank = AnyRank()
    assert [any_rank.update(each) for each in (False, True, False)] == [False, True, False]


FAILING = """
from speechmill.training import distributed
from speechmill.core.command import SpeechmillError

with distributed.process_group():
    if distributed.rank() == 1:
        raise SpeechmillError("shard 3 is corrupt; delete it")
    distributed.barrier()
"""


@pytest.mark.slow
def test_failure_ends_all_and_shows_one_message(program: Program, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        launch(program(FAILING), [], [CPU, CPU])
    assert ended.value.code == 1
    assert [line for line in capfd.readouterr().err.splitlines() if "error" in line.lower()] == [
        "error: shard 3 is corrupt; delete it"
    ]


def as_rank(first: str, second: str) -> str:
    """Return a program that runs `first` in rank 0 and `second` in rank 1; it imports no torch, and so starts fast."""
    return f"import os, signal, sys\nif os.environ['RANK'] == '0':\n    {first}\nelse:\n    {second}\n"


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "training process 1 was killed by SIGKILL"),
        # The other process reports its lost connection before it is killed.
        (
            "open(os.environ['SPEECHMILL_ERROR_FILE'], 'x').close(); os.kill(os.getpid(), signal.SIGKILL)",
            "training process 1 was killed by SIGKILL",
        ),
        ("sys.exit('last output')", "(?s)training process 1 ended with status 1.*last output"),
    ],
)
def test_killed_process_ends_all_and_is_named(program: Program, second: str, message: str) -> None:
    with pytest.raises(SpeechmillError, match=message):
        launch(program(as_rank("signal.pause()", second)), [], [CPU, CPU])


def test_resumable_exit_status_is_passed_on(program: Program) -> None:
    with pytest.raises(SystemExit) as ended:
        launch(program(as_rank(f"sys.exit({EXIT_RESUMABLE})", f"sys.exit({EXIT_RESUMABLE})")), [], [CPU, CPU])
    assert ended.value.code == EXIT_RESUMABLE


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_signal_before_handlers_is_resumable(program: Program, name: str) -> None:
    before = signal.getsignal(signal.Signals[name])
    waiting = f"signal.signal(signal.{name}, signal.SIG_DFL); signal.pause()"
    sending = f"signal.signal(signal.{name}, signal.SIG_DFL); os.kill(os.getppid(), signal.{name}); signal.pause()"
    with pytest.raises(SystemExit) as ended:
        launch(program(as_rank(waiting, sending)), [], [CPU, CPU])
    assert ended.value.code == EXIT_RESUMABLE
    assert signal.getsignal(signal.Signals[name]) == before


WAITING = """
import os, sys, torch
from speechmill.training import distributed

if distributed.launched():
    with distributed.process_group():
        pids = torch.zeros(2, dtype=torch.int64)
        pids[distributed.rank()] = os.getpid()
        torch.distributed.all_reduce(pids)
        if distributed.rank() == 0:
            print(*pids.tolist(), flush=True)
        # Rank 0 blocks in Python, rank 1 in a collective.
        sys.stdin.read() if distributed.rank() == 0 else distributed.barrier()
else:
    distributed.launch("program", [], [torch.device("cpu")] * 2)
"""


@pytest.mark.slow
def test_killed_launcher_leaves_no_process(program: Program) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", program(WAITING)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as launcher:
        assert launcher.stdout is not None
        handles = [os.pidfd_open(int(number)) for number in launcher.stdout.readline().split()]
        assert len(handles) == 2
        launcher.kill()
        for handle in handles:
            # A pidfd becomes readable when the process ends.
            assert select.select([handle], [], [], 60)[0]
            os.close(handle)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    """Return 26 clips: seven batches of four, the last of which has two."""
    rng = np.random.default_rng(0)
    recordings = [recording(float(rng.uniform(0.3, 0.9)), seed=i) for i in range(26)]
    texts = ["".join(rng.choice(list("abcde"), size=rng.integers(2, 6))) for _ in range(26)]
    return store(tmp_path_factory.mktemp("clips"), recordings, texts)


class Training:
    """A training run of the stage, in a folder of its own."""

    def __init__(
        self,
        folder: Path,
        clips: Stored,
        letters: Wav2Vec2Processor,
        gpus: int,
        accumulation: int,
        finetuning: dict[str, Any] | None = None,
        **init: Any,
    ) -> None:
        self.work, self.out = folder / "work", folder / "out"
        self.out.mkdir(parents=True)
        settings = {
            "device": "cpu", "gpus": gpus, "model": {"init": LAYER_NORM | init}, "augment": {}, "text": {},
            "plan": {"epochs": 3, "batch": {"clips": 4}, "gradient_accumulation": accumulation, "save_steps": 4},
            "finetune": {"learning_rate": 1e-3, "precision": "fp32", "warmup_steps": 1, "threads": 1}
            | (finetuning or {}),
            "checkpoints": {"best": None}, "batch_seconds": 20, "metric": "wer",
        }  # fmt: skip
        runtime_settings = {"finetune": {"logging_steps": 1}, "checkpoints": {"dev_clips": 0}}
        # 21 batches, four per step: the last step has one.
        plan = {"batches": 21, "total_steps": 6, "epochs": 3, "checkpoints": [4, 6], "gradient_checkpointing": False}
        self._arguments = command_line(
            write_inputs(folder, clips, letters, plan)
            | output_arguments(folder)
            | {"--settings": [as_json(settings)], "--runtime-settings": [as_json(runtime_settings)]}
        )

    def run(self, monkeypatch: pytest.MonkeyPatch, main: Callable[[], None] = run_stage) -> None:
        """Start or resume it, with `main` in the processes that it launches."""
        monkeypatch.setattr(sys, "argv", ["finetune", *self._arguments])
        monkeypatch.setattr(distributed, "subprocess", SimpleNamespace(Popen=partial(ForkedPopen, main)))
        finetune.main()

    def steps(self, *keys: str) -> list[list[float]]:
        """Return the values of `keys` in the log, by step."""
        rows = [json.loads(line) for line in (self.out / "training.jsonl").read_text().splitlines()]
        return [[row[key] for key in keys] for row in rows if "loss" in row]

    def weights(self, step: int) -> dict[str, torch.Tensor]:
        return load_file(self.out / "checkpoints" / f"checkpoint-{step}" / "model.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize(
    "finetuning",
    [{}, {"lora": {"rank": 4}, "head_only_steps": 2, "head_learning_rate": 1e-2}],
    ids=["all weights", "cheaper training"],
)
def test_two_processes_equal_one_with_more_accumulation(
    tmp_path: Path,
    clips: Stored,
    letters: Wav2Vec2Processor,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    finetuning: dict[str, Any],
) -> None:
    trainings = {}
    for gpus, accumulation in ((1, 4), (2, 2)):
        trainings[gpus] = Training(tmp_path / f"{gpus}", clips, letters, gpus, accumulation, finetuning)
        trainings[gpus].run(monkeypatch)
    one, two = trainings[1], trainings[2]
    assert [step for (step,) in two.steps("step")] == [1, 2, 3, 4, 5, 6]
    for key, tolerance in (("loss", 1e-5), ("grad_norm", 1e-4), ("learning_rate", 0.0)):
        for expected, value in zip(one.steps(key), two.steps(key), strict=True):
            assert value == pytest.approx(expected, rel=tolerance), key
    for step in (4, 6):
        torch.testing.assert_close(one.weights(step), two.weights(step), rtol=1e-3, atol=2e-5)
    hyper_parameters = read_json(two.out / "training.json")["hyper_parameters"]
    assert (hyper_parameters["total_train_batch_size"], hyper_parameters["num_devices"]) == (16, 2)
    assert finetuning.keys() <= hyper_parameters.keys()
    assert list(two.work.glob("*/checkpoint-*")) == []
    # Progress is shown once per training, not once per process.
    assert capfd.readouterr().err.count("6/6") == 2


@pytest.mark.slow
def test_sigterm_stops_two_processes_resumably(
    tmp_path: Path, clips: Stored, letters: Wav2Vec2Processor, monkeypatch: pytest.MonkeyPatch
) -> None:
    uninterrupted, stopped = (
        Training(tmp_path / name, clips, letters, 2, 2, **STOCHASTIC) for name in ("uninterrupted", "stopped")
    )
    uninterrupted.run(monkeypatch)
    with pytest.raises(SystemExit) as ended:
        stopped.run(monkeypatch, stop_at_step_2)
    assert ended.value.code == EXIT_RESUMABLE
    assert [path.name for path in stopped.work.glob("*/checkpoint-*")] == ["checkpoint-3"]
    stopped.run(monkeypatch)
    assert read_json(stopped.out / "training.json")["sessions"] == 2
    assert stopped.steps("step", "loss", "grad_norm") == uninterrupted.steps("step", "loss", "grad_norm")
    for step in (4, 6):
        expected = uninterrupted.weights(step)
        assert all(torch.equal(tensor, expected[name]) for name, tensor in stopped.weights(step).items())


RECORD_ENVIRONMENT = "import json, os\nopen(f\"{os.environ['RANK']}.json\", 'w').write(json.dumps(dict(os.environ)))\n"


def test_slurm_tasks_form_one_training(tmp_path: Path, program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    step = {
        "SLURM_STEP_NUM_TASKS": "2", "SLURM_JOB_ID": "4711", "SLURM_STEP_ID": "0", "SLURM_STEP_NODELIST": "localhost",
    }  # fmt: skip
    for name, value in step.items():
        monkeypatch.setenv(name, value)
    for task in (0, 1):
        monkeypatch.setenv("SLURM_PROCID", str(task))
        assert is_first_task() is (task == 0)
        launch(program(RECORD_ENVIRONMENT), [], [CPU, CPU])
    environments = [read_json(tmp_path / f"{number}.json") for number in range(4)]
    assert [each["LOCAL_RANK"] for each in environments] == ["0", "1", "0", "1"]
    for name, value in (("WORLD_SIZE", "4"), ("LOCAL_WORLD_SIZE", "2"), ("MASTER_ADDR", "localhost")):
        assert {each[name] for each in environments} == {value}
    (port,) = {int(each["MASTER_PORT"]) for each in environments}
    assert 10_000 <= port < 30_000


names = st.from_regex(r"[a-z][a-z-]{0,8}", fullmatch=True)
# A part of a node list in compact form, and its first host.
plain = st.builds(lambda name, number: (f"{name}{number}", f"{name}{number}"), names, st.integers(0, 99))
numbers = st.builds(lambda first, more: (first, more), st.integers(0, 999), st.lists(st.integers(1, 9), max_size=3))


@st.composite
def ranges(draw: st.DrawFn) -> tuple[str, str]:
    """Draw a range such as `gpu[03-07,11]`, and its first host, `gpu03`."""
    name, (first, steps), width = draw(names), draw(numbers), draw(st.integers(1, 4))
    parts, last = [f"{first:0{width}d}"], first
    for step in steps:
        parts.append(f"{last + step:0{width}d}" + draw(st.sampled_from(["", f"-{last + step + 1:0{width}d}"])))
        last += step + 1
    return f"{name}[{','.join(parts)}]", f"{name}{first:0{width}d}"


@given(st.lists(plain | ranges(), min_size=1, max_size=4))
def test_first_host_of_compact_node_lists(parts: list[tuple[str, str]]) -> None:
    assert first_host(",".join(compact for compact, _ in parts)) == parts[0][1]


# From Slurm's manual pages (srun, scontrol), and from a site that numbers racks and nodes.
@pytest.mark.parametrize(
    ("nodes", "first"),
    [("lx[15,18,32-33]", "lx15"), ("tux[1-3]", "tux1"), ("rack[0-1]n[05-08],login1", "rack0n05"), ("n1", "n1")],
)
def test_first_host_of_real_node_lists(nodes: str, first: str) -> None:
    assert first_host(nodes) == first
