"""Choice and locking of the devices that a job computes on."""

import itertools
import os
import platform
import re
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from speechmill.core.command import SpeechmillError

# A lock can wait for one file, but not for whichever of several becomes free first.
_POLL_SECONDS = 1


@contextmanager
def acquire_devices(wanted: str, section: str, granted: int, count: int = 1) -> Iterator[list[torch.device]]:
    """Yield the devices of a job, and keep its GPUs locked for it until the block ends.

    Jobs on one machine share the GPUs that CUDA_VISIBLE_DEVICES lists (all without it) by a lock file for each GPU, and
    wait for each other. A job acquires all its GPUs at once, and no others are visible to it; none are to a job on the
    CPU. GPUs compute fp32 without TF32.

    Args:
        wanted: `gpu`, `cpu`, or `auto`, which means GPUs if there are any.
        section: The section of the configuration with the key `device`, such as `runs.NAME`, for error messages.
        granted: The number of GPUs that Snakemake granted, which may be lower than the rule requested.
        count: The number of devices of the run. If Slurm started several tasks, each gets an equal share.

    Raises:
        SpeechmillError: GPUs are wanted and there are too few, or the tasks of Slurm cannot share `count` equally.
    """
    per_task, remainder = divmod(count, slurm_tasks())
    if remainder:
        raise SpeechmillError(
            f"{section}.gpus is {count}, which {slurm_tasks()} Slurm tasks cannot share equally: start one task per"
            f" node or one per GPU, or set {section}.gpus to a multiple of {slurm_tasks()}"
        )
    # Not `is_available`, which binds the process to the devices that are visible at that moment.
    visible = torch.cuda.device_count()
    if wanted == "cpu" or (wanted == "auto" and (granted == 0 or visible == 0)):
        # A pipeline of transformers would use one that another job has locked.
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        yield [torch.device("cpu")] * per_task
        return
    if granted == 0 or visible == 0:
        reason = "was granted none (--resources gpu=0)" if granted == 0 else "finds none on this machine"
        raise SpeechmillError(
            f"{section}.device is gpu, but the job {reason}; run it on a machine with a GPU, or set"
            f" {section}.device to cpu, which is much slower"
        )
    if granted < count or visible < per_task:
        available, reason = (
            (granted, f"was granted {granted}; give snakemake --resources gpu={count} or more")
            if granted < count
            else (
                visible * slurm_tasks(),
                f"finds {visible} of the {per_task} that it needs on this machine; run it on a machine with more",
            )
        )
        raise SpeechmillError(
            f"{section}.gpus is {count}, but the job {reason}, or set {section}.gpus to {available} and raise"
            f" {section}.plan.gradient_accumulation to keep the number of clips per step"
        )
    with _locked(visible_devices(visible), per_task) as names:
        # Before the first use of a GPU: the Trainer distributes its batches over all GPUs that are visible.
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(names)
        allow_tf32(False)
        yield [torch.device("cuda", index) for index in range(per_task)]


def allow_tf32(allowed: bool) -> None:
    """Set whether GPUs may compute fp32 products and convolutions in TF32; torch's default allows the latter."""
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """Return the half precision in which autocast computes on a device at the moment, or None."""
    # Not `is_autocast_available`, which torch.compile cannot trace.
    if device.type not in ("cpu", "cuda") or not torch.is_autocast_enabled(device.type):
        return None
    return torch.get_autocast_dtype(device.type)


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a copy of a tensor on a device; the host does not wait for the work that is queued there."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        # Only a copy from pinned memory is asynchronous.
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def device_name(device: torch.device) -> str:
    """Return the model name of a GPU, or that of this machine's processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.+)$", cpuinfo.read_text(), re.MULTILINE) if cpuinfo.is_file() else None
    return found[1] if found else platform.processor() or platform.machine()


def slurm_tasks() -> int:
    """Return the number of tasks in this Slurm step, which share a run; 1 without Slurm."""
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))


def visible_devices(count: int) -> list[str]:
    """Return the names that CUDA_VISIBLE_DEVICES has for the `count` devices that torch finds, in torch's order."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [name.strip() for name in listed.split(",")][:count] if listed else [str(i) for i in range(count)]


@contextmanager
def _locked(names: list[str], count: int) -> Iterator[list[str]]:
    """Lock `count` of the devices `names` until the block ends, and yield their names.

    If that many are not free, a line on stderr names the devices that the job waits for, and another one the devices
    that it gets in the end. The operating system releases the locks of a job that is killed.
    """
    folder = _lock_folder()
    uuids = _uuids()
    waiting = False
    while True:
        with ExitStack() as held:
            # One job at a time tries to lock devices, so that no two jobs each hold a part of what both need.
            with _file_lock(folder / "taking"):
                free = (name for name in names if _try_lock(folder / f"{_lock_name(name, uuids)}.lock", held))
                acquired = list(itertools.islice(free, count))
            if len(acquired) == count:
                if waiting:
                    print(f"acquired GPU{'s' if count > 1 else ''} {', '.join(acquired)}", file=sys.stderr, flush=True)
                yield acquired
                return
        if not waiting:
            candidates = f"{count} of the GPUs {', '.join(names)}" if len(names) > 1 else f"GPU {names[0]}"
            print(f"waiting for {candidates}: in use by other jobs on this machine", file=sys.stderr, flush=True)
            waiting = True
        time.sleep(_POLL_SECONDS)


def _lock_folder() -> Path:
    """Return the folder of the locks, which all users of this machine share.

    Its sticky bit keeps a user from removing or replacing the locks of others.

    Raises:
        SpeechmillError: Its path exists and is not a folder, or is a symbolic link, possibly to another user's folder.
    """
    folder = Path(tempfile.gettempdir()) / "speechmill-devices"
    with suppress(FileExistsError):
        folder.mkdir()
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except NotADirectoryError:
        raise SpeechmillError(f"{folder} is not a folder, but the locks of the GPUs belong there; delete it") from None
    try:
        # The umask applies to mkdir, and release 0.1.0 set no sticky bit.
        if os.fstat(descriptor).st_uid == os.getuid():
            os.fchmod(descriptor, 0o1777)
    finally:
        os.close(descriptor)
    return folder


def _lock_name(name: str, uuids: dict[str, str]) -> str:
    """Return the name of a device's lock: its UUID, given `uuids` by index, whether the job uses the index or the UUID.

    Indices are those of nvidia-smi, which counts in PCI bus order. On a machine with GPUs of different models where
    some jobs use indices and others UUIDs, CUDA_DEVICE_ORDER=PCI_BUS_ID makes CUDA count in the same order.
    """
    if name in uuids:
        return uuids[name]
    if name.startswith("GPU-"):
        # CUDA_VISIBLE_DEVICES accepts an unambiguous prefix of a UUID.
        return next((uuid for uuid in uuids.values() if uuid.startswith(name)), name)
    # Slurm may count each job's devices from 0, so that the same index means another device in another job.
    job = os.environ.get("SLURM_JOB_ID")
    return f"{job}-{name}" if job else name


def _uuids() -> dict[str, str]:
    """Return the UUID of each GPU that the job may use, by index; empty if nvidia-smi is missing or fails."""
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


def _file_lock(path: Path, blocking: bool = True) -> FileLock:
    """Return the lock on a file that every user of this machine may lock.

    FileLock opens it with O_NOFOLLOW, and sets the mode through the descriptor of a file that it has just created.

    Raises:
        SpeechmillError: The path is a link, or not a regular file, which another user may have put there.
    """
    with suppress(FileNotFoundError):
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            raise SpeechmillError(
                f"{path} is a link or not a regular file, so it is not the lock of a GPU; delete it, or ask the user"
                f" with the id {found.st_uid}, who owns it, or root"
            )
    # Without a fallback for file systems that lack flock: its locks would outlive a job that is killed.
    return FileLock(path, mode=0o666, blocking=blocking, fallback_to_soft=False)


def _try_lock(path: Path, held: ExitStack) -> bool:
    """Lock a file until `held` is closed, and return False if another job holds the lock."""
    try:
        held.enter_context(_file_lock(path, blocking=False))
    except Timeout:
        return False
    return True
