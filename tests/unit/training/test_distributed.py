import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import Wav2Vec2Processor

from material import LAYER_NORM, ROOT, as_json, recording, store
from speechmill.core.command import SpeechmillError
from speechmill.core.tables import CLIPS, clips_digest, write_json, write_table
from speechmill.training import finetune
from speechmill.training.distributed import (
    Vote,
    all_reduce_sum,
    barrier,
    broadcast,
    first_host,
    launch,
    launched,
    rank,
    world_size,
)
from speechmill.training.guards import EXIT_RESUMABLE

CPU = torch.device("cpu")
Program = Callable[[str], str]
Stored = tuple[list[dict[str, Any]], list[Path]]


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """Writes a module that processes can run; they run in `tmp_path`. No Slurm has started anything."""
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT / 'workflow'}")
    monkeypatch.delenv("SLURM_STEP_NUM_TASKS", raising=False)
    monkeypatch.chdir(tmp_path)

    def write(text: str) -> str:
        (tmp_path / "program.py").write_text(text)
        return "program"

    return write


def json_of(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


REACHING = """
import json, sys
from speechmill.training import distributed
from speechmill.training.distributed import Vote

with distributed.joined() as device:
    rank, vote, heard = distributed.rank(), Vote(), []
    for step in range(9):
        heard.append(vote.any(rank == 1 and step == 5))
        distributed.barrier()
    found = {
        "arguments": sys.argv[1:],
        "device": str(device),
        "processes": distributed.world_size(),
        "sum": distributed.all_reduce_sum(10.0 ** rank),
        "first": distributed.broadcast(lambda: f"of {rank}"),
        "heard": heard,
    }
    open(f"{rank}.json", "w").write(json.dumps(found))
    print("printed by", rank)
"""


@pytest.mark.slow
def test_processes_reach_each_other_and_hear_a_yes_at_the_same_step(
    tmp_path: Path, program: Program, capfd: pytest.CaptureFixture[str]
) -> None:
    assert launch(program(REACHING), ["--run", "demo"], [CPU, CPU])
    found = [json_of(tmp_path / f"{number}.json") for number in (0, 1)]
    assert found[0] == found[1]
    heard = [False] * 6 + [True] + [False] * 2
    assert found[0] == {
        "arguments": ["--run", "demo"], "device": "cpu", "processes": 2, "sum": 11.0, "first": "of 0", "heard": heard,
    }  # fmt: skip
    assert capfd.readouterr().out == "printed by 0\n"


def test_a_process_alone_needs_nobody() -> None:
    assert not launched()
    assert (rank(), world_size(), all_reduce_sum(2.5), broadcast(lambda: "made")) == (0, 1, 2.5, "made")
    barrier()
    vote = Vote()
    assert [vote.any(each) for each in (False, True, False)] == [False, True, False]


FAILING = """
from speechmill.training import distributed
from speechmill.core.command import SpeechmillError

with distributed.joined():
    if distributed.rank() == 1:
        raise SpeechmillError("corpus: shard 3 cannot be read; make it again")
    distributed.barrier()
"""


@pytest.mark.slow
def test_one_that_fails_ends_all_and_its_message_is_all_that_is_told(
    program: Program, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        launch(program(FAILING), [], [CPU, CPU])
    assert ended.value.code == 1
    assert [line for line in capfd.readouterr().err.splitlines() if "error" in line.lower()] == [
        "error: corpus: shard 3 cannot be read; make it again"
    ]


# Without torch, so that they start at once.
def as_rank(first: str, second: str) -> str:
    """A program whose process of rank 0 runs `first`, and that of rank 1 `second`."""
    return f"import os, signal, sys\nif os.environ['RANK'] == '0':\n    {first}\nelse:\n    {second}\n"


@pytest.mark.parametrize(
    ("second", "told"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "process 1 of the training was killed by SIGKILL"),
        # The other has lost its peer, and says so before it is ended.
        (
            "open(os.environ['SPEECHMILL_FAULT'], 'x').close(); os.kill(os.getpid(), signal.SIGKILL)",
            "process 1 of the training was killed by SIGKILL",
        ),
        ("sys.exit('last words')", "(?s)process 1 of the training ended with status 1.*last words"),
    ],
)
def test_one_that_is_killed_ends_all_with_what_is_known(program: Program, second: str, told: str) -> None:
    with pytest.raises(SpeechmillError, match=told):
        launch(program(as_rank("signal.pause()", second)), [], [CPU, CPU])


def test_processes_that_stop_to_go_on_later_say_so_together(program: Program) -> None:
    with pytest.raises(SystemExit) as ended:
        launch(program(as_rank(f"sys.exit({EXIT_RESUMABLE})", f"sys.exit({EXIT_RESUMABLE})")), [], [CPU, CPU])
    assert ended.value.code == EXIT_RESUMABLE


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_that_comes_before_they_listen_can_be_gone_on_from(program: Program, name: str) -> None:
    before = signal.getsignal(signal.Signals[name])
    listening = f"signal.signal(signal.{name}, signal.SIG_DFL); signal.pause()"
    sending = f"signal.signal(signal.{name}, signal.SIG_DFL); os.kill(os.getppid(), signal.{name}); signal.pause()"
    with pytest.raises(SystemExit) as ended:
        launch(program(as_rank(listening, sending)), [], [CPU, CPU])
    assert ended.value.code == EXIT_RESUMABLE
    assert signal.getsignal(signal.Signals[name]) == before


WAITING = """
import os, sys, torch
from speechmill.training import distributed

if distributed.launched():
    with distributed.joined():
        everyone = torch.zeros(2, dtype=torch.int64)
        everyone[distributed.rank()] = os.getpid()
        torch.distributed.all_reduce(everyone)
        if distributed.rank() == 0:
            print(*everyone.tolist(), flush=True)
        # Rank 0 in Python, rank 1 deep in a collective.
        sys.stdin.read() if distributed.rank() == 0 else distributed.barrier()
else:
    distributed.launch("program", [], [torch.device("cpu")] * 2)
"""


@pytest.mark.slow
def test_a_killed_launcher_leaves_nobody_behind(program: Program) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", program(WAITING)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as launcher:
        assert launcher.stdout is not None
        handles = [os.pidfd_open(int(number)) for number in launcher.stdout.readline().split()]
        assert len(handles) == 2
        launcher.kill()
        for handle in handles:
            # It can be read from once the process has ended.
            assert select.select([handle], [], [], 60)[0]
            os.close(handle)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    """Twenty-six clips: seven batches of four, the last of which has two."""
    drawn = np.random.default_rng(0)
    recordings = [recording(float(drawn.uniform(0.3, 0.9)), seed=i) for i in range(26)]
    texts = ["".join(drawn.choice(list("abcde"), size=drawn.integers(2, 6))) for _ in range(26)]
    return store(tmp_path_factory.mktemp("clips"), recordings, texts)


class Training:
    """A training by the stage's own program, in a folder of its own."""

    def __init__(
        self, folder: Path, clips: Stored, letters: Wav2Vec2Processor, gpus: int, accumulation: int, **init: Any
    ) -> None:
        self.folder, self.out = folder, folder / "out"
        self.out.mkdir(parents=True)
        settings = {
            "device": "cpu", "gpus": gpus, "model": {"init": LAYER_NORM | init}, "augment": {}, "text": {},
            "plan": {"epochs": 3, "batch": {"clips": 4}, "gradient_accumulation": accumulation, "save_steps": 5},
            "finetune": {"learning_rate": 1e-3, "precision": "fp32", "warmup_steps": 1, "threads": 1},
            "checkpoints": {"best": None}, "batch_seconds": 20,
        }  # fmt: skip
        pace = {"finetune": {"logging_steps": 1}, "checkpoints": {"dev_clips": 0}}
        # 21 batches, two a step: the last step has one.
        plan = {
            "batches": 21, "total_steps": 11, "epochs": 3, "checkpoints": [5, 11], "gradient_checkpointing": False,
            "peak_throughput": None,
            "clips_per_batch": 4.0, "parameters": 1,
        }  # fmt: skip
        letters.save_pretrained(folder / "vocab")
        write_table(clips[0], CLIPS, folder / "train.parquet")
        (folder / "train.sha256").write_text(clips_digest(clips[0]))
        write_json(plan, folder / "plan.json")
        self._arguments: dict[str, list[Any]] = {
            "--run": ["demo"], "--settings": [as_json(settings)], "--runtime-settings": [as_json(pace)], "--gpus": [0],
            "--code": ["abc"], "--clips": [folder / "train.parquet"], "--digest": [folder / "train.sha256"],
            "--shards": clips[1], "--dev-clips": [folder / "train.parquet"], "--dev-shards": clips[1],
            "--vocab": [folder / "vocab"], "--base": [], "--base-source": [], "--plan": [folder / "plan.json"],
            "--work": [folder / "work"], "--checkpoints": [self.out / "checkpoints"],
            "--record": [self.out / "training.json"], "--log": [self.out / "training.jsonl"],
        }  # fmt: skip

    def run(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Start it, or go on with it."""
        given = [str(part) for key, values in self._arguments.items() for part in (key, *values)]
        monkeypatch.setattr(sys, "argv", ["finetune", *given])
        monkeypatch.setenv("PYTHONPATH", f"{self.folder}:{ROOT / 'workflow'}")
        finetune.main()

    def steps(self, *keys: str) -> list[list[float]]:
        """What was logged under `keys` at each step."""
        rows = [json.loads(line) for line in (self.out / "training.jsonl").read_text().splitlines()]
        return [[row[key] for key in keys] for row in rows if "loss" in row]

    def weights(self, step: int) -> dict[str, torch.Tensor]:
        return load_file(self.out / "checkpoints" / f"checkpoint-{step}" / "model.safetensors")


@pytest.mark.slow
def test_two_processes_train_as_one_with_doubled_accumulation(
    tmp_path: Path,
    clips: Stored,
    letters: Wav2Vec2Processor,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    trainings = {}
    for gpus, accumulation in ((1, 2), (2, 1)):
        trainings[gpus] = Training(tmp_path / f"{gpus}", clips, letters, gpus, accumulation)
        trainings[gpus].run(monkeypatch)
    one, two = trainings[1], trainings[2]
    assert [step for (step,) in two.steps("step")] == list(range(1, 12))
    for key, tolerance in (("loss", 1e-4), ("grad_norm", 1e-3), ("learning_rate", 0.0)):
        for here, there in zip(one.steps(key), two.steps(key), strict=True):
            assert there == pytest.approx(here, rel=tolerance), key
    for step in (5, 11):
        torch.testing.assert_close(one.weights(step), two.weights(step), rtol=1e-3, atol=2e-5)
    assert json_of(two.out / "training.json")["hyper_parameters"]["total_train_batch_size"] == 8
    # Progress is shown once a training, not once a process.
    assert capfd.readouterr().err.count("11/11") == 2


# Ends the training of which it is part at step 2: rank 0 asks the one that started it to end, and goes on when the
# signal has come back to it.
SIGNALLED = """
import os, signal
from speechmill.training import finetune
from speechmill.core.command import run_command
from speechmill.training.checkpoint_callback import CheckpointCallback

on_step_end = CheckpointCallback.on_step_end

def signalled(self, args, state, control, **kwargs):
    if state.global_step == 2:
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer)
        os.kill(os.getppid(), signal.SIGTERM)
        os.read(reader, 1)
    return on_step_end(self, args, state, control, **kwargs)

CheckpointCallback.on_step_end = signalled
run_command(finetune.main)
"""


@pytest.mark.slow
def test_sigterm_ends_two_processes_at_the_same_step_and_they_go_on_to_the_same_weights(
    tmp_path: Path, clips: Stored, letters: Wav2Vec2Processor, monkeypatch: pytest.MonkeyPatch
) -> None:
    lively = {"hidden_dropout": 0.1, "layerdrop": 0.3, "apply_spec_augment": True, "mask_time_prob": 0.3} | {
        "mask_time_length": 2
    }
    undisturbed, stopped = (
        Training(tmp_path / name, clips, letters, 2, 1, **lively) for name in ("undisturbed", "stopped")
    )
    undisturbed.run(monkeypatch)
    (stopped.folder / "program.py").write_text(SIGNALLED)
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(finetune, "launch", lambda _, arguments, devices: launch("program", arguments, devices))
        stopped.run(patch)
    assert ended.value.code == EXIT_RESUMABLE
    assert [path.name for path in stopped.folder.glob("work/*/checkpoint-*")] == ["checkpoint-3"]
    stopped.run(monkeypatch)
    assert stopped.steps("step", "loss", "grad_norm") == undisturbed.steps("step", "loss", "grad_norm")
    for step in (5, 11):
        expected = undisturbed.weights(step)
        assert all(torch.equal(tensor, expected[name]) for name, tensor in stopped.weights(step).items())


SEEN = "import json, os\nopen(f\"{os.environ['RANK']}.json\", 'w').write(json.dumps(dict(os.environ)))\n"


def test_the_tasks_of_a_slurm_step_make_one_training(
    tmp_path: Path, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = {
        "SLURM_STEP_NUM_TASKS": "2", "SLURM_JOB_ID": "4711", "SLURM_STEP_ID": "0", "SLURM_STEP_NODELIST": "localhost",
    }  # fmt: skip
    for name, value in step.items():
        monkeypatch.setenv(name, value)
    for task in (0, 1):
        monkeypatch.setenv("SLURM_PROCID", str(task))
        # Only the first has results to write.
        assert launch(program(SEEN), [], [CPU, CPU]) is (task == 0)
    seen = [json_of(tmp_path / f"{number}.json") for number in range(4)]
    assert [each["LOCAL_RANK"] for each in seen] == ["0", "1", "0", "1"]
    for name, value in (("WORLD_SIZE", "4"), ("LOCAL_WORLD_SIZE", "2"), ("MASTER_ADDR", "localhost")):
        assert {each[name] for each in seen} == {value}
    (port,) = {int(each["MASTER_PORT"]) for each in seen}
    assert 10_000 <= port < 30_000


names = st.from_regex(r"[a-z][a-z-]{0,8}", fullmatch=True)
# A part of a list: its compact form, and the first host that it stands for.
plain = st.builds(lambda name, number: (f"{name}{number}", f"{name}{number}"), names, st.integers(0, 99))
numbers = st.builds(lambda first, more: (first, more), st.integers(0, 999), st.lists(st.integers(1, 9), max_size=3))


@st.composite
def ranges(draw: st.DrawFn) -> tuple[str, str]:
    """`gpu[03-07,11]`, whose first host is `gpu03`."""
    name, (first, steps), width = draw(names), draw(numbers), draw(st.integers(1, 4))
    parts, last = [f"{first:0{width}d}"], first
    for step in steps:
        parts.append(f"{last + step:0{width}d}" + draw(st.sampled_from(["", f"-{last + step + 1:0{width}d}"])))
        last += step + 1
    return f"{name}[{','.join(parts)}]", f"{name}{first:0{width}d}"


@given(st.lists(plain | ranges(), min_size=1, max_size=4))
def test_the_first_host_of_a_list_is_found_in_its_compact_form(parts: list[tuple[str, str]]) -> None:
    assert first_host(",".join(compact for compact, _ in parts)) == parts[0][1]


# In the forms of Slurm's manual pages (srun, scontrol), and of a site that counts racks and nodes.
@pytest.mark.parametrize(
    ("nodes", "first"),
    [("lx[15,18,32-33]", "lx15"), ("tux[1-3]", "tux1"), ("rack[0-1]n[05-08],login1", "rack0n05"), ("n1", "n1")],
)
def test_the_first_host_of_lists_from_practice(nodes: str, first: str) -> None:
    assert first_host(nodes) == first
