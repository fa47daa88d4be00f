"""The stage finetune in processes that fork from a server with imported libraries, and its inputs on disk."""

import multiprocessing
import os
import resource
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import IO, Any

import pytest
import torch
from transformers import Wav2Vec2Processor

from speechmill.core.command import run_command
from speechmill.core.files import write_json
from speechmill.core.schemas import CLIPS
from speechmill.core.tables import clips_digest, write_table
from speechmill.training import finetune
from speechmill.training.checkpoint_callback import CheckpointCallback
from speechmill.training.trainer import SaveStopCallback

Stored = tuple[list[dict[str, Any]], list[Path]]
"""The rows of a table of clips, and the shards with their audio."""
Arguments = dict[str, list[Any]]


def write_inputs(folder: Path, clips: Stored, letters: Wav2Vec2Processor, plan: dict[str, Any]) -> Arguments:
    """Write the inputs of the stage to `folder`; return its arguments except the settings and outputs."""
    letters.save_pretrained(folder / "vocab")
    write_table(clips[0], CLIPS, folder / "clips.parquet")
    (folder / "clips.sha256").write_text(clips_digest(clips[0]))
    write_json({"clips_per_batch": 4.0, "parameters": 1, "peak_throughput": None} | plan, folder / "plan.json")
    return {
        "--run": ["demo"], "--gpus": [0], "--stage-version": [1],
        "--clips": [folder / "clips.parquet"], "--digest": [folder / "clips.sha256"], "--shards": clips[1],
        "--dev-clips": [folder / "clips.parquet"], "--dev-shards": clips[1],
        "--vocab": [folder / "vocab"], "--base": [], "--base-source": [], "--plan": [folder / "plan.json"],
    }  # fmt: skip


def output_arguments(folder: Path) -> Arguments:
    """Return the arguments for the work folder and the outputs in `folder`."""
    out = folder / "out"
    return {
        "--work": [folder / "work"], "--checkpoints": [out / "checkpoints"],
        "--record": [out / "training.json"], "--log": [out / "training.jsonl"],
    }  # fmt: skip


def command_line(arguments: Arguments) -> list[str]:
    """Return the arguments as a list of strings."""
    return [str(part) for name, values in arguments.items() for part in (name, *values)]


def run_stage() -> None:
    """Run the stage with the arguments in `sys.argv`."""
    run_command(finetune.main)


@cache
def fork_context() -> ForkServerContext:
    """Return a context whose processes fork from a server with imported libraries; the first call starts it."""
    context = multiprocessing.get_context("forkserver")
    preloaded = ["transformers.models.wav2vec2.modeling_wav2vec2", "torch.utils.serialization", __name__]
    context.set_forkserver_preload(preloaded)
    with pytest.MonkeyPatch.context() as patch:
        # Python 3.11 does not pass sys.path to the server.
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
        forkserver.ensure_running()
    return context


class ForkedPopen:
    """A replacement for the subprocess.Popen of `launch` that forks a process and calls a function in it."""

    def __init__(
        self,
        main: Callable[[], None],
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        pass_fds: Sequence[int],
        stdout: IO[bytes] | None,
        stderr: IO[bytes] | None,
    ) -> None:
        files = [stdout.fileno() if stdout else 1, stderr.fileno() if stderr else 2, *pass_fds]
        # multiprocessing passes the file descriptors of connections to the new process.
        connections = [Connection(os.dup(file)) for file in files]
        self._process = fork_context().Process(
            target=_run_in_environment, args=(main, list(command[3:]), dict(env), connections)
        )
        self._process.start()
        for connection in connections:
            connection.close()

    @property
    def returncode(self) -> int | None:
        """The exit status, or minus the number of the signal that ended the process."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Send a signal to the process."""
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        """Kill the process if it is still running."""
        self._process.kill()

    def wait(self) -> int | None:
        """Wait until the process has ended, and return its exit status."""
        self._process.join()
        return self.returncode


def _run_in_environment(
    main: Callable[[], None], arguments: list[str], environment: dict[str, str], connections: list[Connection]
) -> None:
    for number, connection in zip((1, 2), connections[:2], strict=True):
        os.dup2(connection.fileno(), number)
    os.environ.clear()
    os.environ.update(environment, SPEECHMILL_LAUNCHER_PIPE=str(connections[2].fileno()))
    sys.argv = ["finetune", *arguments]
    main()


def stop_at_step_2() -> None:
    """Run the stage; rank 0 has its launcher send SIGTERM at step 2, and continues once it has received the signal."""
    on_step_end = CheckpointCallback.on_step_end

    def signalled(self: CheckpointCallback, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        if state.global_step == 2:
            launcher = multiprocessing.parent_process()
            assert launcher is not None and launcher.pid is not None
            reader, writer = os.pipe()
            os.set_blocking(writer, False)
            signal.set_wakeup_fd(writer)
            os.kill(launcher.pid, signal.SIGTERM)
            os.read(reader, 1)
        return on_step_end(self, args, state, control, **kwargs)

    CheckpointCallback.on_step_end = signalled  # type: ignore[method-assign]  # this process runs nothing else
    run_stage()


def run_reporting_events(arguments: list[str], sender: Connection, max_bytes: int | None, output: Path | None) -> None:
    """Run the stage in a process group of its own, and report each step and each synced file through `sender`."""
    os.setpgid(0, 0)
    torch.set_num_threads(1)
    if output is None:
        read, write = os.pipe()
        os.close(read)
    else:
        write = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for descriptor in (1, 2):
        os.dup2(write, descriptor)
    if max_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, max_bytes))
    on_step_end = SaveStopCallback.on_step_end

    def step(*args: Any, **kwargs: Any) -> Any:
        sender.send_bytes(b"step")
        return on_step_end(*args, **kwargs)

    SaveStopCallback.on_step_end = step  # type: ignore[method-assign]  # this process runs nothing else
    os.fsync = lambda _: sender.send_bytes(b"file")
    sys.argv = ["finetune", *arguments]
    run_stage()
