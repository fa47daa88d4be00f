"""What all steps share: their results, the device, and its memory."""

import gc
from dataclasses import dataclass
from pathlib import Path

import torch

from gpu.results import append


@dataclass(frozen=True)
class Step:
    """A step that is running."""

    name: str
    results: Path
    """The file of JSON lines."""
    work: Path
    """The folder of what the step `inputs` has written, and of temporary files."""
    kit: Path
    """The folder that `make gpu-kit` has written."""
    small: bool
    """Whether to run on a CPU with tiny models and little audio."""

    @property
    def device(self) -> torch.device:
        """The device of all measurements."""
        return torch.device("cpu" if self.small else "cuda")

    def measured(self, name: str, /, **values: object) -> None:
        """Record the values of a measurement."""
        append(self.results, {"step": self.name, "name": name, "values": values})


def synchronise(device: torch.device) -> None:
    """Wait for all queued work of the device."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def free_memory() -> None:
    """Return the memory of deleted models and failed steps to the device, and measure the peak anew."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def device_gib(device: torch.device) -> float:
    """Return the memory of the device in GiB; on a CPU, that of a small GPU, for the estimates of the plan."""
    return torch.cuda.get_device_properties(device).total_memory / 2**30 if device.type == "cuda" else 8.0


def peak_gib(device: torch.device) -> float:
    """Return the most memory that tensors took since `free_memory`, in GiB; 0 on a CPU."""
    return torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else 0.0
