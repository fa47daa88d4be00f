"""Trainings that are killed, asked to stop, robbed of their newest state or of room, and started again."""

import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file
from transformers import Wav2Vec2Processor

from material import LIVELY, as_json, recording, store
from speechmill.config.plan import PlanConfig
from speechmill.core.command import run_command
from speechmill.core.tables import CLIPS, clips_digest, write_json, write_table
from speechmill.model.batching import batch_stats, clips_of
from speechmill.training import finetune
from speechmill.training.guards import EXIT_RESUMABLE
from speechmill.training.trainer import SaveStopCallback

pytestmark = pytest.mark.slow

SETTINGS: dict[str, Any] = {
    "device": "cpu",
    "gpus": 1,
    "plan": {"epochs": 4, "batch": {"seconds": 3}, "gradient_accumulation": 1, "save_steps": 6, "pool_clips": 16},
    "model": {"init": LIVELY},
    "finetune": {"learning_rate": 1e-3, "precision": "fp32", "threads": 1, "warmup_steps": 2},
    "augment": {"noise": {"probability": 0.5, "snr_db": [5, 20]}},
    "checkpoints": {"best": 3},
    "text": {},
    "batch_seconds": 20,
}
# Lines of the log that do not fall together with saves, and states at other steps than the checkpoints.
PACE = {"finetune": {"logging_steps": 4, "resume_minutes": 0.002}}


class Training:
    """The program with its arguments: what it is made of lies in `materials`, what it makes goes to `folder`."""

    def __init__(self, materials: Path, folder: Path) -> None:
        self.folder, self.said = folder, folder / "said.txt"
        shards = sorted(map(str, materials.glob("corpus/train/*.parquet")))
        clips, vocab = f"{materials}/clips.parquet", f"{materials}/vocab"
        self.arguments = [
            "--run", "demo", "--settings", as_json(SETTINGS), "--gpus", "0", "--code", "abc",
            "--clips", clips, "--digest", f"{materials}/clips.sha256", "--shards", *shards, "--dev-clips", clips,
            "--dev-shards", *shards, "--vocab", vocab, "--base", "--base-source", "--plan", f"{materials}/plan.json",
            "--work", f"{folder}/work", "--checkpoints", f"{folder}/out/checkpoints",
            "--record", f"{folder}/out/training.json", "--log", f"{folder}/out/training.jsonl",
        ]  # fmt: skip

    def run(
        self,
        after: int | None = None,
        number: signal.Signals = signal.SIGKILL,
        most_bytes: int | None = None,
        read: bool = True,
        workers: int = 0,
    ) -> int | None:
        """Run the program, and send it a signal once it has told of so many of its moments; its exit status.

        It can write no file of more than `most_bytes`; unless `read`, its output is a pipe that nobody reads. The
        `workers` that decode for it are signalled too, as a cluster or a terminal does it.
        """
        self.folder.mkdir(exist_ok=True)
        # A server that has imported all that is needed, and forks.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["speechmill.training.finetune", "test_training_killed"])
        told, telling = context.Pipe(duplex=False)
        pace = as_json({**PACE, "finetune": {**PACE["finetune"], "workers": workers}})
        arguments = [*self.arguments, "--runtime-settings", pace]
        child = context.Process(target=main, args=(arguments, telling, most_bytes, self.said if read else None))
        child.start()
        telling.close()
        try:
            for _ in range(after or sys.maxsize):
                told.recv_bytes()
            assert child.pid is not None
            os.killpg(child.pid, number)
            while True:
                told.recv_bytes()
        except EOFError:
            child.join()
        return child.exitcode

    @property
    def work(self) -> Path:
        """The folder of the states."""
        (folder,) = (path for path in (self.folder / "work").iterdir() if path.name != "tensorboard")
        return folder

    def states(self) -> list[Path]:
        """The states, the newest last."""
        return sorted(self.work.glob("checkpoint-*"), key=lambda path: int(path.name.removeprefix("checkpoint-")))

    def results(self) -> tuple[list[dict[str, Any]], dict[str, dict[str, torch.Tensor]]]:
        """The log, without what depends on the clock, and the weights of each checkpoint."""
        rows = map(json.loads, (self.folder / "out" / "training.jsonl").read_text().splitlines())
        timed = ("audio_seconds_per_second", "train_runtime", "train_samples_per_second", "train_steps_per_second")
        checkpoints = sorted((self.folder / "out" / "checkpoints").iterdir())
        return [{key: value for key, value in row.items() if key not in timed} for row in rows], {
            path.name: load_file(path / "model.safetensors") for path in checkpoints
        }

    def copy(self, folder: Path) -> "Training":
        """A training that goes on in another folder from where this one is."""
        shutil.copytree(self.folder, folder)
        other = Training.__new__(Training)
        other.folder, other.said = folder, folder / "said.txt"
        other.arguments = [argument.replace(f"{self.folder}/", f"{folder}/") for argument in self.arguments]
        return other


def main(arguments: list[str], telling: Connection, most_bytes: int | None, output: Path | None) -> None:
    """Run the program in a process of its own, telling of each step and of each file that a state consists of."""
    os.setpgid(0, 0)
    torch.set_num_threads(1)
    if output is None:
        read, write = os.pipe()
        os.close(read)
    else:
        write = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for descriptor in (1, 2):
        os.dup2(write, descriptor)
    if most_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    on_step_end = SaveStopCallback.on_step_end

    def step(*args: Any, **kwargs: Any) -> Any:
        telling.send_bytes(b"step")
        return on_step_end(*args, **kwargs)

    SaveStopCallback.on_step_end = step  # type: ignore[method-assign]  # this process runs nothing else
    os.fsync = lambda _: telling.send_bytes(b"file")
    sys.argv = ["finetune", *arguments]
    run_command(finetune.main)


@pytest.fixture(autouse=True, scope="module")
def _found_by_server() -> Iterator[None]:
    """Let the server that forks find what it is to import: Python 3.11 does not tell it where."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
        yield


@pytest.fixture(scope="module")
def materials(tmp_path_factory: pytest.TempPathFactory, letters: Wav2Vec2Processor) -> Path:
    """The inputs of a training of some thirty steps."""
    folder = tmp_path_factory.mktemp("materials")
    drawn = np.random.default_rng(0)
    recordings = [recording(float(drawn.uniform(0.3, 0.6)), seed=i) for i in range(32)]
    texts = ["".join(drawn.choice(list("abcde"), size=drawn.integers(2, 5))) for _ in range(32)]
    clips, _ = store(folder, recordings, texts)
    write_table(clips, CLIPS, folder / "clips.parquet")
    (folder / "clips.sha256").write_text(clips_digest(clips))
    letters.save_pretrained(folder / "vocab")
    plan = PlanConfig.model_validate(SETTINGS["plan"])
    steps = batch_stats(clips_of(pa.Table.from_pylist(clips)), plan).batches
    planned = {"batches": steps, "total_steps": steps, "checkpoints": [*range(6, steps, 6), steps]}
    about = {"epochs": 4, "clips_per_batch": 6.0, "parameters": 1, "gradient_checkpointing": False}
    about["peak_throughput"] = None
    write_json(planned | about, folder / "plan.json")
    return folder


@pytest.fixture(scope="module")
def undisturbed(materials: Path, tmp_path_factory: pytest.TempPathFactory) -> Training:
    training = Training(materials, tmp_path_factory.mktemp("undisturbed") / "run")
    assert training.run() == 0
    return training


@pytest.fixture(scope="module")
def halfway(materials: Path, tmp_path_factory: pytest.TempPathFactory) -> Training:
    """A training that was killed when it had two states."""
    training = Training(materials, tmp_path_factory.mktemp("halfway") / "run")
    moments = 40
    while not (training.folder / "work").exists() or len(training.states()) < 2:
        assert training.run(after=moments) == -signal.SIGKILL
        moments += 20
    return training


def assert_same(one: Training, other: Training) -> None:
    log, weights = one.results()
    expected_log, expected = other.results()
    assert log == expected_log
    assert weights.keys() == expected.keys()
    for step, tensors in expected.items():
        for name, tensor in tensors.items():
            assert torch.equal(weights[step][name], tensor), f"{step}: {name}"


def test_a_training_that_is_killed_ten_times_ends_with_the_same_bits(
    materials: Path, undisturbed: Training, tmp_path: Path
) -> None:
    training, moments = Training(materials, tmp_path / "run"), random.Random(1)
    assert [training.run(after=moments.randint(1, 40)) for _ in range(10)] == [-signal.SIGKILL] * 10
    assert training.run() == 0
    assert_same(training, undisturbed)
    assert "going on from step" in training.said.read_text()


def test_a_training_that_is_asked_to_stop_saves_says_how_to_go_on_and_ends_with_the_same_bits(
    materials: Path, undisturbed: Training, tmp_path: Path
) -> None:
    training, moments = Training(materials, tmp_path / "run"), random.Random(2)
    for number, workers in ((signal.SIGTERM, 0), (signal.SIGINT, 1)):
        assert training.run(after=moments.randint(1, 40), number=number, workers=workers) == EXIT_RESUMABLE
        told = [line for line in training.said.read_text().splitlines() if line.startswith("stopped by")]
        assert told[-1] == f"stopped by {number.name}, and saved: run the same command again to go on"
    before = training.states()[-1]
    # A cluster ends `tee` too.
    assert training.run(after=20, number=signal.SIGTERM, read=False) == EXIT_RESUMABLE
    assert training.states()[-1] != before
    assert training.run() == 0
    assert_same(training, undisturbed)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt"])
def test_a_training_whose_newest_state_is_truncated_goes_on_from_the_one_before(
    halfway: Training, undisturbed: Training, tmp_path: Path, name: str
) -> None:
    training = halfway.copy(tmp_path / "run")
    before, newest = training.states()
    with (newest / name).open("r+b") as file:
        file.truncate(file.seek(0, os.SEEK_END) // 2)
    assert training.run() == 0
    said = training.said.read_text()
    step = newest.name.removeprefix("checkpoint-")
    assert f"the state of step {step} is set aside as {training.folder / 'work'}/" in said
    assert f"going on from step {before.name.removeprefix('checkpoint-')} (to start again instead: rm -r" in said
    assert_same(training, undisturbed)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt"])
def test_a_training_whose_disk_fills_up_says_so_keeps_its_newest_state_and_goes_on_with_room(
    halfway: Training, undisturbed: Training, tmp_path: Path, name: str
) -> None:
    training = halfway.copy(tmp_path / "run")
    newest = training.states()[-1]
    assert training.run(most_bytes=(newest / name).stat().st_size - 1) == 1
    said = training.said.read_text().splitlines()[-1]
    assert f"could not be saved in {training.work} (" in said
    assert f"the state of step {newest.name.removeprefix('checkpoint-')} is kept" in said
    assert training.states()[-1] == newest
    assert not (training.work / "unfinished").exists()
    assert training.run() == 0
    assert_same(training, undisturbed)
