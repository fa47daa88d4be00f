"""Which devices a job computes on."""

import fcntl
import itertools
import os
import platform
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import torch

from speechmill.core.command import SpeechmillError


@contextmanager
def acquire_devices(wanted: str, run: str, granted: int, count: int = 1) -> Iterator[list[torch.device]]:
    """The devices for a job that `wanted` asks for: `gpu`, `cpu`, or `auto`, GPUs where there are any.

    There are `count` of them, an even share of which is this task's where Slurm started several. GPUs are this job's
    alone until the block ends, and no others are visible to it: jobs on one machine lock a file a device, among those
    that CUDA_VISIBLE_DEVICES shows, and wait for one another; each takes all that it needs at once. `granted` is what
    Snakemake gave, which may be fewer than the rule asked for.
    Raises SpeechmillError where GPUs are wanted and there are too few.
    """
    here, left = divmod(count, tasks())
    if left:
        raise SpeechmillError(
            f"runs.{run}.gpus is {count}, which {tasks()} Slurm tasks cannot share: start a task a node or a task a"
            f" GPU, or set runs.{run}.gpus to a multiple of {tasks()}"
        )
    # Not `is_available`: it binds the process to the devices that it sees at that moment.
    seen = torch.cuda.device_count()
    if wanted == "cpu" or (wanted == "auto" and (granted == 0 or seen == 0)):
        yield [torch.device("cpu")] * here
        return
    if granted == 0 or seen == 0:
        why = "was granted none (--resources gpu=0)" if granted == 0 else "sees none on this machine"
        raise SpeechmillError(
            f"runs.{run}.device is gpu, but the job {why}; run it where there is a GPU, or set"
            f" runs.{run}.device to cpu and expect to wait"
        )
    if granted < count or seen < here:
        few, why = (
            (granted, f"was granted {granted}; give snakemake --resources gpu={count}, or more")
            if granted < count
            else (
                seen * tasks(),
                f"sees {seen} of the {here} that it needs on this machine; run it where there are more",
            )
        )
        raise SpeechmillError(
            f"runs.{run}.gpus is {count}, but the job {why}, or set runs.{run}.gpus to {few} and raise"
            f" runs.{run}.plan.gradient_accumulation, so that a step keeps its clips"
        )
    with _locked(visible_devices(seen), here) as names:
        # Before the first use of a GPU: the Trainer spreads its batches over all that it sees.
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(names)
        yield [torch.device("cuda", position) for position in range(here)]


def device_name(device: torch.device) -> str:
    """What a device is called by its maker: the GPU, or this machine's processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    about = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.+)$", about.read_text(), re.MULTILINE) if about.is_file() else None
    return found[1] if found else platform.processor() or platform.machine()


def tasks() -> int:
    """How many tasks of a Slurm step share a run; 1 unless srun started this one beside others."""
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))


def visible_devices(count: int) -> list[str]:
    """The names of the `count` devices that torch sees, in its order: what CUDA_VISIBLE_DEVICES calls them."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [name.strip() for name in listed.split(",")][:count] if listed else [str(i) for i in range(count)]


@contextmanager
def _locked(names: list[str], count: int) -> Iterator[list[str]]:
    """Hold the locks of `count` of the devices `names`."""
    folder = Path(tempfile.gettempdir()) / "speechmill-devices"
    folder.mkdir(exist_ok=True)
    _open_to_all(folder, 0o777)
    uuids = _uuids()
    while True:
        with ExitStack() as held:
            with _lock(folder / "taking"):
                # One job at a time looks, so that no two hold a part each of what both need.
                free = (name for name in names if _try_lock(folder / f"{_lock_name(name, uuids)}.lock", held))
                taken = list(itertools.islice(free, count))
            if len(taken) == count:
                yield taken
                return
        time.sleep(1)  # flock can wait for one file, not for whichever of several comes free


def _lock_name(name: str, uuids: dict[str, str]) -> str:
    """What the lock of a device is called: by its UUID, however the job names it, where `uuids` by index tell it.

    Indices are nvidia-smi's, by the bus: where the devices of a machine differ and jobs name them both by index and by
    UUID, CUDA_DEVICE_ORDER=PCI_BUS_ID makes CUDA count in the same way.
    """
    if name in uuids:
        return uuids[name]
    if name.startswith("GPU-"):
        # The beginning of a UUID will do for CUDA_VISIBLE_DEVICES.
        return next((uuid for uuid in uuids.values() if uuid.startswith(name)), name)
    # Slurm may count each job's devices from 0: the same index in another job is another device.
    job = os.environ.get("SLURM_JOB_ID")
    return f"{job}-{name}" if job else name


def _uuids() -> dict[str, str]:
    """The UUID of each GPU that the job may see, by index; none where nvidia-smi tells nothing."""
    try:
        listed = subprocess.run(
            ["nvidia-smi", "--query-gpu=index,uuid", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return {}
    return dict(line.split(", ") for line in listed.splitlines())


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("a") as file:
        _open_to_all(path, 0o666)
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _try_lock(path: Path, held: ExitStack) -> bool:
    """Lock a file until `held` is closed, unless somebody else has."""
    file = path.open("a")
    _open_to_all(path, 0o666)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return False
    held.enter_context(file)
    return True


def _open_to_all(path: Path, mode: int) -> None:
    # Users who share a machine share its devices; what another user made is open already.
    with suppress(PermissionError):
        path.chmod(mode)
