"""Data-parallel training in several processes, each with one device and an equal share of every step.

The stage starts the processes and waits for them: it holds the locks of their devices, hosts the store through which
they connect, forwards signals, and exits with their status. Each process finds RANK, LOCAL_RANK, WORLD_SIZE,
MASTER_ADDR and MASTER_PORT in its environment, as under `torchrun`; accelerate and the Trainer read them.

On several nodes of a Slurm job, srun starts the stage with one task per node or one task per GPU:

    srun --kill-on-bad-exit --nodes 2 --ntasks-per-node 1 --gpus-per-task 4 python -m speechmill.training.finetune …
    srun --kill-on-bad-exit --nodes 2 --ntasks-per-node 4 --gpus-per-task 1 python -m speechmill.training.finetune …

Both start the processes of `runs.*.gpus: 8`, an equal share in each task. Ranks follow from SLURM_PROCID. The store is
on the host of the first task, the first in SLURM_STEP_NODELIST, at a port derived from SLURM_JOB_ID and SLURM_STEP_ID.
The node list is that of the step, since a job of many nodes may run a step on one. All nodes need access to the folders
of work and results; only the first task writes results.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed

from speechmill.core.command import SpeechmillError, user_message
from speechmill.model.devices import slurm_tasks
from speechmill.training.guards import EXIT_RESUMABLE

T = TypeVar("T")

# How long the other processes wait while one of them saves a state or evaluates on dev.
_TIMEOUT = timedelta(hours=2)

# Environment variables of a process that `launch` started: the read end of a pipe that closes when the launcher ends,
# and the file for the first error message.
_LAUNCHER_PIPE, _ERROR_FILE = "SPEECHMILL_LAUNCHER_PIPE", "SPEECHMILL_ERROR_FILE"


def launched() -> bool:
    """Return whether `launch` started this process."""
    return _LAUNCHER_PIPE in os.environ


def rank() -> int:
    """Return the rank of this process in the training; 0 for a single process."""
    return int(os.environ["RANK"]) if launched() else 0


def world_size() -> int:
    """Return the number of processes of the training."""
    return int(os.environ["WORLD_SIZE"]) if launched() else 1


def is_first_task() -> bool:
    """Return whether this is the first task of a Slurm step, which writes the results; true without Slurm."""
    return slurm_tasks() == 1 or os.environ["SLURM_PROCID"] == "0"


def launch(module: str, arguments: Sequence[str], devices: Sequence[torch.device]) -> None:
    """Run `python -m module arguments` in one process per device of `devices`, and wait until all have ended.

    The output of rank 0 is shown, that of the other processes is not. No process is left when this function ends, nor
    when the launcher is killed.

    Raises:
        SystemExit: With status 75 if the processes stopped at a signal and can resume; with status 1, after printing
            the message of the process that failed first, if one failed.
        SpeechmillError: A process ended without a message, for example because it was killed.
    """
    task, host, port = _rendezvous()
    store = _store(host, port, is_master=True) if task == 0 else None
    first_rank = task * len(devices)
    with tempfile.TemporaryDirectory(prefix="speechmill-") as name, _pipe() as pipe:
        folder = Path(name)
        environment = {
            # Without a number of threads, accelerate sets one.
            "OMP_NUM_THREADS": "1",
            **os.environ,
            **({"ACCELERATE_USE_CPU": "1"} if devices[0].type == "cpu" else {}),
            "WORLD_SIZE": str(len(devices) * slurm_tasks()),
            "LOCAL_WORLD_SIZE": str(len(devices)),
            "MASTER_ADDR": host,
            "MASTER_PORT": str(store.port if store else port),
            _LAUNCHER_PIPE: str(pipe),
            _ERROR_FILE: str(folder / "error"),
        }
        started: list[subprocess.Popen[bytes]] = []

        def forward(number: int, _: object) -> None:
            for each in started:
                each.send_signal(number)

        handlers = {number: signal.signal(number, forward) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            for local in range(len(devices)):
                with (folder / str(local)).open("wb") as hidden:
                    output = None if first_rank + local == 0 else hidden
                    started.append(
                        subprocess.Popen(
                            [sys.executable, "-m", module, *arguments],
                            env=environment | {"RANK": str(first_rank + local), "LOCAL_RANK": str(local)},
                            pass_fds=[pipe],
                            stdout=output,
                            stderr=output,
                        )
                    )
            failed = _first_failure(started)
        finally:
            for each in started:
                each.kill()
                each.wait()
            for number, handler in handlers.items():
                signal.signal(number, handler)
        # A process that a forwarded signal ended had not installed its handlers yet, so nothing is lost.
        if failed is not None and started[failed].returncode not in (-signal.SIGTERM, -signal.SIGINT):
            _raise_failure(folder, first_rank, failed, started[failed].returncode)
    if any(each.returncode for each in started):
        sys.exit(EXIT_RESUMABLE)


@contextmanager
def _pipe() -> Iterator[int]:
    """Yield the read end of a pipe whose write end only this process holds, so that it closes when the process ends."""
    read, write = os.pipe()
    try:
        yield read
    finally:
        os.close(read)
        os.close(write)


def _rendezvous() -> tuple[int, str, int]:
    """Return the number of this Slurm task and the host and port of the store; with port 0 the system chooses one."""
    if slurm_tasks() == 1:
        return 0, "127.0.0.1", 0
    # Different ports for the steps of a job and for consecutive jobs, below the range from which the system chooses.
    job, step = int(os.environ["SLURM_JOB_ID"]), int(os.environ["SLURM_STEP_ID"])
    return (
        int(os.environ["SLURM_PROCID"]),
        first_host(os.environ["SLURM_STEP_NODELIST"]),
        10_000 + (16 * job + step) % 20_000,
    )


def first_host(nodes: str) -> str:
    """Return the first host of a Slurm node list: `gpu03` for `gpu[03-07,11],login1`."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])+", nodes)
    assert first is not None, nodes
    return re.sub(r"\[(\d+)[^\]]*\]", r"\1", first[0])


def _store(host: str, port: int, *, is_master: bool) -> Any:
    return torch.distributed.TCPStore(  # type: ignore[attr-defined]  # its stubs do not list it
        host, port, is_master=is_master, wait_for_workers=False, timeout=_TIMEOUT
    )


def _first_failure(started: Sequence[subprocess.Popen[bytes]]) -> int | None:
    """Wait for all processes, kill all once one fails, and return the position of the one that failed first."""
    failed = None
    with ThreadPoolExecutor(len(started)) as watchers:
        ending = {watchers.submit(each.wait): position for position, each in enumerate(started)}
        for future in as_completed(ending):
            if failed is None and future.result() not in (0, EXIT_RESUMABLE):
                failed = ending[future]
                for each in started:
                    each.kill()
    return failed


def _raise_failure(folder: Path, first_rank: int, local: int, status: int) -> None:
    """Print the message that the process `local` left and exit, or raise SpeechmillError if it left none."""
    error_file = folder / "error"
    # A killed process leaves no message; the file then belongs to a process that lost its connection to it.
    if status > 0 and error_file.is_file():
        sys.stderr.write(error_file.read_text(encoding="utf-8"))
        sys.exit(1)
    reason = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
    output = (folder / str(local)).read_text(encoding="utf-8", errors="replace")[-2000:]
    raise SpeechmillError(
        f"training process {first_rank + local} {reason} without an error message. If the host ran out of memory, give"
        " the job more; run snakemake again, and training resumes from its last save. The last output of the process:\n"
        f"{output or '(none except the output above)'}"
    )


@contextmanager
def process_group() -> Iterator[torch.device]:
    """Join the process group of the processes that `launch` started, and yield the device of this process.

    Tensors on the host are communicated by gloo, those on a GPU by NCCL. An exception in the block ends this process;
    the first process to fail leaves its message for `launch`.
    """
    threading.Thread(target=_exit_with_launcher, args=(int(os.environ[_LAUNCHER_PIPE]),), daemon=True).start()
    try:
        if "ACCELERATE_USE_CPU" in os.environ:
            device, backend = torch.device("cpu"), "gloo"
        else:
            device, backend = torch.device("cuda", int(os.environ["LOCAL_RANK"])), "cpu:gloo,cuda:nccl"
            torch.cuda.set_device(device)
        store = _store(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
        torch.distributed.init_process_group(
            backend, store=store, rank=rank(), world_size=world_size(), timeout=_TIMEOUT
        )
        try:
            yield device
        except SystemExit:
            _leave()
            raise
        _leave()
    except Exception as error:
        message = user_message(error)
        with suppress(FileExistsError), Path(os.environ[_ERROR_FILE]).open("x", encoding="utf-8") as file:
            file.write(traceback.format_exc() if message is None else f"error: {message}\n")
        # Skip torch's destructors, which may wait for the other processes.
        os._exit(1)


def _exit_with_launcher(pipe: int) -> None:
    """Block until the launcher ends, however it ends, and exit; reading a pipe releases the GIL."""
    os.read(pipe, 1)
    os._exit(1)


def _leave() -> None:
    barrier()
    torch.distributed.destroy_process_group()


def barrier() -> None:
    """Wait until every process has called this function."""
    if launched():
        torch.distributed.all_reduce(torch.zeros(1))


def all_reduce_sum(value: float) -> float:
    """Return the sum of `value` over all processes, all of which must call this function."""
    if not launched():
        return value
    total = torch.tensor([value], dtype=torch.float64)
    torch.distributed.all_reduce(total)
    return total.item()


def broadcast(compute: Callable[[], T]) -> T:
    """Call `compute` in the process of rank 0 only, and return its result in every process."""
    if not launched():
        return compute()
    box = [compute()] if rank() == 0 else [None]
    torch.distributed.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    return box[0]  # type: ignore[return-value]  # received from rank 0


class AnyRank:
    """An asynchronous all-reduce of a flag, once per step: all processes learn at the same step that one has set it.

    The flags are reduced on the host while the next step is computed, so no process waits, and the result of a call is
    that of the previous one. A single process gets its own flag immediately.
    """

    def __init__(self) -> None:
        self._pending: tuple[torch.distributed.Work, torch.Tensor] | None = None

    def update(self, flag: bool) -> bool:
        """Submit this process's flag, and return whether any process set its flag in the previous call."""
        if not launched():
            return flag
        if self._pending is not None:
            work, result = self._pending
            work.wait()
            self._pending = None
            if result.item():
                return True
        result = torch.tensor([float(flag)])
        self._pending = (torch.distributed.all_reduce(result, torch.distributed.ReduceOp.MAX, async_op=True), result)
        return False
