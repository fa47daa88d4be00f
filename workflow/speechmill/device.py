"""Which device a job computes on."""

import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from speechmill.command import SpeechmillError


@contextmanager
def taken_device(wanted: str, run: str, gpus: int) -> Iterator[torch.device]:
    """The device for a job that `wanted` asks for: `gpu`, `cpu`, or `auto`, a GPU where there is one.

    A GPU is this job's alone until the block ends: jobs on one machine lock a file a device, among those that
    CUDA_VISIBLE_DEVICES shows, and wait for one another. `gpus` is what Snakemake granted.
    Raises SpeechmillError where a GPU is wanted and there is none.
    """
    if wanted == "cpu" or (wanted == "auto" and (gpus == 0 or not torch.cuda.is_available())):
        yield torch.device("cpu")
        return
    if gpus == 0 or not torch.cuda.is_available():
        why = "was granted none (--resources gpu=0)" if gpus == 0 else "sees none on this machine"
        raise SpeechmillError(
            f"runs.{run}.device is gpu, but the job {why}; run it where there is a GPU, or set"
            f" runs.{run}.device to cpu and expect to wait"
        )
    names = visible_devices(torch.cuda.device_count())
    with _locked(names) as position:
        # Before the first use of a GPU: the Trainer spreads its batches over all that it sees.
        os.environ["CUDA_VISIBLE_DEVICES"] = names[position]
        yield torch.device("cuda", 0)


def visible_devices(count: int) -> list[str]:
    """The names of the `count` devices that torch sees, in its order: what CUDA_VISIBLE_DEVICES calls them."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [name.strip() for name in listed.split(",")][:count] if listed else [str(i) for i in range(count)]


@contextmanager
def _locked(names: list[str]) -> Iterator[int]:
    folder = Path(tempfile.gettempdir()) / "speechmill-devices"
    folder.mkdir(exist_ok=True)
    _open_to_all(folder, 0o777)
    while True:
        for position, name in enumerate(names):
            path = folder / f"{name}.lock"
            with path.open("a") as lock:
                _open_to_all(path, 0o666)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                yield position
                return
        time.sleep(1)  # flock can wait for one file, not for whichever of several comes free


def _open_to_all(path: Path, mode: int) -> None:
    # Users who share a machine share its devices; what another user made is open already.
    with suppress(PermissionError):
        path.chmod(mode)
