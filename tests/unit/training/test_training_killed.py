"""Training runs that are killed, stopped by signals, or lose their newest state or disk space, and resume."""

import json
import os
import random
import shutil
import signal
import socket
import sys
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file
from transformers import Wav2Vec2Processor

from finetune_process import (
    Arguments,
    command_line,
    fork_context,
    output_arguments,
    run_reporting_events,
    write_inputs,
)
from material import STOCHASTIC, as_json, recording, store
from speechmill.config.mixing import MixingSettings
from speechmill.config.plan import PlanConfig
from speechmill.model.batching import batch_stats, clips_from_table
from speechmill.training.guards import EXIT_RESUMABLE

pytestmark = pytest.mark.slow

SETTINGS: dict[str, Any] = {
    "device": "cpu",
    "gpus": 1,
    "plan": {"epochs": 4, "batch": {"seconds": 3}, "gradient_accumulation": 1, "save_steps": 6, "pool_clips": 16},
    "model": {"init": STOCHASTIC},
    "finetune": {"learning_rate": 1e-3, "precision": "fp32", "threads": 1, "warmup_steps": 2},
    "augment": {"noise": {"probability": 0.5, "snr_db": [5, 20]}},
    "checkpoints": {"best": 3},
    "text": {},
    "batch_seconds": 20,
    "metric": "wer",
}
# Log rows at other steps than saves, and resume states at other steps than checkpoints.
RUNTIME_SETTINGS = {"logging_steps": 4, "resume_minutes": 0.002}


class Training:
    """A training run of the stage in a folder of its own."""

    def __init__(self, inputs: Arguments, folder: Path, settings: dict[str, Any] = SETTINGS) -> None:
        """Prepare a run on `inputs`, whose results and output go to `folder`."""
        self.folder, self.output = folder, folder / "output.txt"
        self._inputs, self._settings = inputs, settings

    def run(
        self,
        after: int | None = None,
        number: signal.Signals = signal.SIGKILL,
        max_bytes: int | None = None,
        read: bool = True,
        workers: int = 0,
    ) -> int | None:
        """Run the stage and return its exit status.

        Args:
            after: The number of events (steps and synced files) after which the process group gets a signal.
            number: The signal, which also reaches the data loader workers, as on a cluster or in a terminal.
            max_bytes: The largest file that the process can write.
            read: Whether the output goes to a file; otherwise to a pipe that nothing reads.
            workers: The number of data loader workers.
        """
        child, events = self.start(self.output if read else None, max_bytes, workers)
        try:
            for _ in range(after or sys.maxsize):
                events.recv_bytes()
            assert child.pid is not None
            os.killpg(child.pid, number)
            while True:
                events.recv_bytes()
        except EOFError:
            child.join()
        return child.exitcode

    def start(
        self, output: Path | None, max_bytes: int | None = None, workers: int = 0
    ) -> tuple[ForkServerProcess, Connection]:
        """Start the stage; return its process, and the connection to which it writes at every event."""
        self.folder.mkdir(exist_ok=True)
        runtime_settings = as_json({"finetune": RUNTIME_SETTINGS | {"workers": workers}})
        arguments = self._inputs | output_arguments(self.folder)
        arguments |= {"--settings": [as_json(self._settings)], "--runtime-settings": [runtime_settings]}
        context = fork_context()
        events, sender = context.Pipe(duplex=False)
        child = context.Process(target=run_reporting_events, args=(command_line(arguments), sender, max_bytes, output))
        child.start()
        sender.close()
        return child, events

    @property
    def work(self) -> Path:
        """The folder of the resume states."""
        (folder,) = (path for path in (self.folder / "work").iterdir() if path.name not in ("tensorboard", "lock"))
        return folder

    def states(self) -> list[Path]:
        """Return the resume states, the newest last."""
        return sorted(self.work.glob("checkpoint-*"), key=lambda path: int(path.name.removeprefix("checkpoint-")))

    def results(self) -> tuple[list[dict[str, Any]], dict[str, dict[str, torch.Tensor]]]:
        """Return the log without times and speeds, and the weights of each checkpoint."""
        rows = map(json.loads, (self.folder / "out" / "training.jsonl").read_text().splitlines())
        checkpoints = sorted((self.folder / "out" / "checkpoints").glob("checkpoint-*"))
        return [{key: value for key, value in row.items() if key != "audio_seconds_per_second"} for row in rows], {
            path.name: load_file(path / "model.safetensors") for path in checkpoints
        }

    def copy(self, folder: Path) -> "Training":
        """Return a copy of this run in another folder."""
        shutil.copytree(self.folder, folder)
        return Training(self._inputs, folder, self._settings)


def inputs_in(folder: Path, letters: Wav2Vec2Processor, mixing: MixingSettings | None = None) -> Arguments:
    """Write the inputs of a training run of about 30 steps: 24 clips of one speaker and 8 of another."""
    rng = np.random.default_rng(0)
    recordings = [recording(float(rng.uniform(0.3, 0.6)), seed=i) for i in range(32)]
    texts = ["".join(rng.choice(list("abcde"), size=rng.integers(2, 5))) for _ in range(32)]
    clips = store(folder, recordings, texts, ["a"] * 24 + ["b"] * 8)
    plan = PlanConfig.model_validate(SETTINGS["plan"])
    table = pa.Table.from_pylist(clips[0])
    steps = batch_stats(clips_from_table(table, mixing), plan).batches
    saved = [*range(6, steps, 6), steps]
    planned = {"batches": steps, "total_steps": steps, "checkpoints": saved, "epochs": 4, "mixing": None}
    return write_inputs(folder, clips, letters, planned | {"gradient_checkpointing": False})


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, letters: Wav2Vec2Processor) -> Arguments:
    """Write the inputs of a training run that takes every clip once in an epoch."""
    return inputs_in(tmp_path_factory.mktemp("inputs"), letters)


@pytest.fixture(scope="module")
def uninterrupted(inputs: Arguments, tmp_path_factory: pytest.TempPathFactory) -> Training:
    training = Training(inputs, tmp_path_factory.mktemp("uninterrupted") / "run")
    assert training.run() == 0
    return training


@pytest.fixture(scope="module")
def halfway(inputs: Arguments, tmp_path_factory: pytest.TempPathFactory) -> Training:
    """Return a run that was killed after it had saved two resume states."""
    training = Training(inputs, tmp_path_factory.mktemp("halfway") / "run")
    events = 40
    while not (training.folder / "work").exists() or len(training.states()) < 2:
        assert training.run(after=events) == -signal.SIGKILL
        events += 20
    return training


def assert_same(one: Training, other: Training) -> None:
    log, weights = one.results()
    expected_log, expected = other.results()
    assert log == expected_log
    assert weights.keys() == expected.keys()
    for step, tensors in expected.items():
        for name, tensor in tensors.items():
            assert torch.equal(weights[step][name], tensor), f"{step}: {name}"


def test_ten_kills_leave_identical_results(inputs: Arguments, uninterrupted: Training, tmp_path: Path) -> None:
    training, rng = Training(inputs, tmp_path / "run"), random.Random(1)
    assert [training.run(after=rng.randint(1, 40)) for _ in range(10)] == [-signal.SIGKILL] * 10
    assert training.run() == 0
    assert_same(training, uninterrupted)
    assert "resuming from step" in training.output.read_text()


def test_kills_leave_identical_results_with_mixing(tmp_path: Path, letters: Wav2Vec2Processor) -> None:
    mixing = MixingSettings(by="speaker", temperature=3, groups={"corpus": "corpus"})
    inputs, settings = inputs_in(tmp_path, letters, mixing), SETTINGS | {"mixing": mixing.model_dump()}
    uninterrupted, killed = (Training(inputs, tmp_path / name, settings) for name in ("uninterrupted", "killed"))
    assert uninterrupted.run() == 0
    assert [killed.run(after=events) for events in (40, 30)] == [-signal.SIGKILL] * 2
    assert killed.run() == 0
    assert_same(killed, uninterrupted)
    assert "resuming from step" in killed.output.read_text()


def test_second_training_waits_for_the_first(inputs: Arguments, uninterrupted: Training, tmp_path: Path) -> None:
    # Snakemake alone was killed, and its job is still running when the same command is run again.
    training = Training(inputs, tmp_path / "run")
    first, events = training.start(None)
    for _ in range(20):
        events.recv_bytes()
    assert first.pid is not None
    os.killpg(first.pid, signal.SIGSTOP)
    shown = tmp_path / "shown"
    os.mkfifo(shown)
    second, _ = training.start(shown)
    with shown.open(encoding="utf-8") as output:
        # Blocks until the second one waits.
        message = output.readline()
        assert message.startswith(f"waiting for process {first.pid} on {socket.gethostname()}, which is training run")
        os.killpg(first.pid, signal.SIGCONT)
        with suppress(EOFError):
            while True:
                events.recv_bytes()
        assert "training has finished: its results are taken from" in output.read()
    for each in (first, second):
        each.join()
        assert each.exitcode == 0
    assert_same(training, uninterrupted)


def test_signals_save_and_leave_identical_results(inputs: Arguments, uninterrupted: Training, tmp_path: Path) -> None:
    training, rng = Training(inputs, tmp_path / "run"), random.Random(2)
    for number, workers in ((signal.SIGTERM, 0), (signal.SIGINT, 1)):
        assert training.run(after=rng.randint(1, 40), number=number, workers=workers) == EXIT_RESUMABLE
        messages = [line for line in training.output.read_text().splitlines() if line.startswith("stopped by")]
        assert messages[-1] == f"stopped by {number.name} after a save; run the same command again to resume"
    before = training.states()[-1]
    # A cluster also ends `tee`, which reads the output.
    assert training.run(after=20, number=signal.SIGTERM, read=False) == EXIT_RESUMABLE
    assert training.states()[-1] != before
    assert training.run() == 0
    assert_same(training, uninterrupted)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt"])
def test_truncated_state_falls_back_to_the_previous(
    halfway: Training, uninterrupted: Training, tmp_path: Path, name: str
) -> None:
    training = halfway.copy(tmp_path / "run")
    before, newest = training.states()
    with (newest / name).open("r+b") as file:
        file.truncate(file.seek(0, os.SEEK_END) // 2)
    assert training.run() == 0
    output = training.output.read_text()
    step = newest.name.removeprefix("checkpoint-")
    assert f"the resume state of step {step} is corrupt and was moved to {training.folder / 'work'}/" in output
    assert f"resuming from step {before.name.removeprefix('checkpoint-')} (to start over instead: rm -r" in output
    assert_same(training, uninterrupted)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt"])
def test_full_disk_keeps_newest_state(halfway: Training, uninterrupted: Training, tmp_path: Path, name: str) -> None:
    training = halfway.copy(tmp_path / "run")
    newest = training.states()[-1]
    assert training.run(max_bytes=(newest / name).stat().st_size - 1) == 1
    message = training.output.read_text().splitlines()[-1]
    assert f"could not be saved in {training.work} (" in message
    assert f"the state of step {newest.name.removeprefix('checkpoint-')} is kept" in message
    assert training.states()[-1] == newest
    assert not (training.work / "unfinished").exists()
    assert training.run() == 0
    assert_same(training, uninterrupted)
