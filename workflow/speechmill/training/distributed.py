"""Several processes that train one model together, each with its device and its share of every step.

The stage that wants them starts them and waits: it holds their devices, hosts the store through which they find each
other, passes signals on to them and ends as they do. Each finds RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and
MASTER_PORT in its environment, as under `torchrun`; accelerate and the Trainer read them.

On several nodes of a Slurm job srun starts the stage itself, with a task a node or a task a GPU:

    srun --kill-on-bad-exit --nodes 2 --ntasks-per-node 1 --gpus-per-task 4 python -m speechmill.training.finetune …
    srun --kill-on-bad-exit --nodes 2 --ntasks-per-node 4 --gpus-per-task 1 python -m speechmill.training.finetune …

Both make the processes of `runs.*.gpus: 8`, of which each task starts an even share. SLURM_PROCID gives their ranks,
SLURM_STEP_NODELIST the host of the store, which is that of the first task, SLURM_JOB_ID and SLURM_STEP_ID its port.
These are the step's variables, not the job's: a step of one task may run in a job of many nodes. All nodes see the
folders of work and of results, and the first task alone writes results.
"""

import ctypes
import os
import re
import signal
import subprocess
import sys
import tempfile
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
from speechmill.model.devices import tasks
from speechmill.training.guards import EXIT_RESUMABLE

T = TypeVar("T")

# How long one process may do something alone, a save or a probe, while the others wait for it.
_PATIENCE = timedelta(hours=2)

# In the environment of a process that `launch` started: the id of the one that did, and where the first fault goes.
_LAUNCHER, _FAULT = "SPEECHMILL_LAUNCHER", "SPEECHMILL_FAULT"


def launched() -> bool:
    """Whether this process is one of several that `launch` started."""
    return _LAUNCHER in os.environ


def rank() -> int:
    """The number of this process among those that train together; 0 for one alone."""
    return int(os.environ["RANK"]) if launched() else 0


def world_size() -> int:
    """How many processes train together."""
    return int(os.environ["WORLD_SIZE"]) if launched() else 1


def launch(module: str, arguments: Sequence[str], devices: Sequence[torch.device]) -> bool:
    """Run `python -m module arguments` in a process for each of `devices`, until all have ended.

    Returns whether this is the first of the `tasks`, the one that writes results. What the process of rank 0 prints is
    shown as it comes, what the others print is not.

    Raises SystemExit: with status 75 where they stopped at a signal and can go on; with 1, after the message of the
    process that failed first, where one failed. SpeechmillError where one was killed without a message. In all cases
    none of them is left; on Linux not even where this process is killed.
    """
    task, host, port = _place()
    store = _store(host, port, is_master=True) if task == 0 else None
    shared = {
        "WORLD_SIZE": str(len(devices) * tasks()),
        "LOCAL_WORLD_SIZE": str(len(devices)),
        "MASTER_ADDR": host,
        "MASTER_PORT": str(store.port if store else port),
        _LAUNCHER: str(os.getpid()),
    }
    if devices[0].type == "cpu":
        shared["ACCELERATE_USE_CPU"] = "1"
    first_rank = task * len(devices)
    with tempfile.TemporaryDirectory(prefix="speechmill-") as folder:
        shared[_FAULT] = f"{folder}/fault"
        started: list[subprocess.Popen[bytes]] = []

        def pass_on(number: int, _: object) -> None:
            for each in started:
                each.send_signal(number)

        before = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            for local in range(len(devices)):
                own = {"RANK": str(first_rank + local), "LOCAL_RANK": str(local)}
                with Path(folder, str(local)).open("wb") as hidden:
                    output = None if first_rank + local == 0 else hidden
                    started.append(
                        subprocess.Popen(
                            [sys.executable, "-m", module, *arguments],
                            # Where nothing says how many threads there are, accelerate sets them anew.
                            env={"OMP_NUM_THREADS": "1"} | os.environ | shared | own,
                            stdout=output,
                            stderr=output,
                        )
                    )
            failed = _first_failure(started)
        finally:
            for each in started:
                each.kill()
                each.wait()
            for number, handler in before.items():
                signal.signal(number, handler)
        # Those whom a signal ended had not begun: they would have listened for it.
        if failed is not None and started[failed].returncode not in (-signal.SIGTERM, -signal.SIGINT):
            _tell(Path(folder), first_rank, failed, started[failed].returncode)
    if any(each.returncode for each in started):
        sys.exit(EXIT_RESUMABLE)
    return task == 0


def _place() -> tuple[int, str, int]:
    """The number of this task, and host and port of the store; port 0 for one that the system chooses."""
    if tasks() == 1:
        return 0, "127.0.0.1", 0
    # Steps of one job, and jobs that follow each other, shall not meet; below the ports that the system chooses.
    job, step = int(os.environ["SLURM_JOB_ID"]), int(os.environ["SLURM_STEP_ID"])
    return (
        int(os.environ["SLURM_PROCID"]),
        first_host(os.environ["SLURM_STEP_NODELIST"]),
        10_000 + (16 * job + step) % 20_000,
    )


def first_host(nodes: str) -> str:
    """The first host of a list as Slurm writes it: `gpu03` of `gpu[03-07,11],login1`."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])+", nodes)
    assert first is not None, nodes
    return re.sub(r"\[(\d+)[^\]]*\]", r"\1", first[0])


def _store(host: str, port: int, *, is_master: bool) -> Any:
    return torch.distributed.TCPStore(  # type: ignore[attr-defined]  # its stubs do not list it
        host, port, is_master=is_master, wait_for_workers=False, timeout=_PATIENCE
    )


def _first_failure(started: Sequence[subprocess.Popen[bytes]]) -> int | None:
    """Wait for all, and kill all once one has failed: the position of the one that did so first."""
    failed = None
    with ThreadPoolExecutor(len(started)) as watchers:
        ending = {watchers.submit(each.wait): position for position, each in enumerate(started)}
        for future in as_completed(ending):
            if failed is None and future.result() not in (0, EXIT_RESUMABLE):
                failed = ending[future]
                for each in started:
                    each.kill()
    return failed


def _tell(folder: Path, first_rank: int, local: int, status: int) -> None:
    """End as the process `local` did, with the message that it left."""
    fault = folder / "fault"
    # One that was killed left none; it would be another's, of how it lost the first.
    if status > 0 and fault.is_file():
        sys.stderr.write(fault.read_text(encoding="utf-8"))
        sys.exit(1)
    how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
    last = (folder / str(local)).read_text(encoding="utf-8", errors="replace")[-2000:]
    raise SpeechmillError(
        f"process {first_rank + local} of the training {how} without a message. Where the host had no memory left,"
        " grant the job more; run snakemake again, and training goes on from its last save. It printed last:\n"
        f"{last or '(nothing beside what is above)'}"
    )


@contextmanager
def joined() -> Iterator[torch.device]:
    """Join the processes that `launch` started, of which this is one: its device, with torch.distributed at work.

    Tensors of the host travel by gloo, those of a GPU by NCCL. An exception in the block ends this process; its message
    is left to `launch`, the first one alone.
    """
    _end_with_launcher()
    try:
        if "ACCELERATE_USE_CPU" in os.environ:
            device, backend = torch.device("cpu"), "gloo"
        else:
            device, backend = torch.device("cuda", int(os.environ["LOCAL_RANK"])), "cpu:gloo,cuda:nccl"
            torch.cuda.set_device(device)
        store = _store(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
        torch.distributed.init_process_group(
            backend, store=store, rank=rank(), world_size=world_size(), timeout=_PATIENCE
        )
        try:
            yield device
        except SystemExit:
            _leave()
            raise
        _leave()
    except Exception as error:
        message = user_message(error)
        with suppress(FileExistsError), Path(os.environ[_FAULT]).open("x", encoding="utf-8") as file:
            file.write(traceback.format_exc() if message is None else f"error: {message}\n")
        # Not by way of torch's destructors, which may wait for the others.
        os._exit(1)


def _end_with_launcher() -> None:
    if sys.platform == "linux":
        pr_set_pdeathsig = 1  # <linux/prctl.h>
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != int(os.environ[_LAUNCHER]):
        os._exit(1)


def _leave() -> None:
    barrier()
    torch.distributed.destroy_process_group()


def barrier() -> None:
    """Wait until every process has come here."""
    if launched():
        torch.distributed.all_reduce(torch.zeros(1))


def all_reduce_sum(value: float) -> float:
    """The sum of the processes' values. All of them call it, at the same point."""
    if not launched():
        return value
    total = torch.tensor([value], dtype=torch.float64)
    torch.distributed.all_reduce(total)
    return total.item()


def broadcast(make: Callable[[], T]) -> T:
    """What `make` gives in the process of rank 0, where alone it is called, in every process."""
    if not launched():
        return make()
    box = [make()] if rank() == 0 else [None]
    torch.distributed.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    return box[0]  # type: ignore[return-value]  # filled by the process of rank 0


class Vote:
    """A question to every process, once a step; all hear at the same step that one has said yes.

    The answers travel while the next step is computed, from host to host and beside the GPU's stream, so that nobody
    waits for them: a yes is heard one call later. A process alone hears itself at once.
    """

    def __init__(self) -> None:
        self._asked: tuple[torch.distributed.Work, torch.Tensor] | None = None

    def any(self, mine: bool) -> bool:
        """Say yes or no: whether some process said yes a call ago."""
        if not launched():
            return mine
        if self._asked is not None:
            work, answer = self._asked
            work.wait()
            self._asked = None
            if answer.item():
                return True
        answer = torch.tensor([float(mine)])
        self._asked = (torch.distributed.all_reduce(answer, torch.distributed.ReduceOp.MAX, async_op=True), answer)
        return False
