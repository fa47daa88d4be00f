"""synchronisation: where the host waits for the GPU in a step of training.

PyTorch's kernel of the CTC loss copies lengths to the device and waits for that. The step fails if anything else waits.
"""

import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import torch

from gpu.step import Step
from gpu.watched import train_watched
from speechmill.training import trainer

# Frames of these files do not say which line of speechmill or transformers waits.
_LIBRARIES = ("/site-packages/torch/", "/contextlib.py", "/warnings.py")


@contextmanager
def _mode(mode: str, device: torch.device) -> Iterator[None]:
    if device.type != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode(mode)
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@contextmanager
def _listed(places: Counter[str], device: torch.device) -> Iterator[None]:
    """Count the synchronisations in the block by the lines that cause them."""

    def note(message: Warning | str, *_: object, **__: object) -> None:
        if "synchroniz" in str(message):
            frames = [f for f in traceback.extract_stack()[:-1] if not any(part in f.filename for part in _LIBRARIES)]
            places[" < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in frames[:-4:-1])] += 1

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note  # type: ignore[assignment]
        with _mode("warn", device):
            yield


def _loss_without_kernel(logits: torch.Tensor, *_: object) -> torch.Tensor:
    """Return a value for each clip that depends on all logits, as `clip_losses` does."""
    return logits.float().mean((1, 2))


def main(step: Step) -> None:
    """Record the places of all synchronisations, then run a step without the CTC loss in which each is an error."""
    seconds, places = 20.0, Counter[str]()
    train_watched(step, seconds, _listed(places, step.device))
    step.measured("a step in bf16", synchronisations=places.total(), places=dict(places.most_common(20)))
    with patch.object(trainer, "clip_losses", _loss_without_kernel):
        train_watched(step, seconds, _mode("error", step.device))
    step.measured("a step without the CTC loss, in which each synchronisation is an error", passed=True)
