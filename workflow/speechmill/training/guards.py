"""Events that end training early, with their messages: signals, NaN losses, out of memory, outputs of only blanks."""

import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from speechmill.core.command import SpeechmillError

EXIT_RESUMABLE = os.EX_TEMPFAIL
"""The exit status of a stage that stopped at a signal; run the same command again to resume."""

# A process may receive the same signal twice: as part of its process group, and forwarded by the launcher.
_ECHO_SECONDS = 2.0
_NEVER = torch.iinfo(torch.int64).max
_SHOWN_IDS = 20
# CTC training starts with a plateau of only blanks; the warning comes after this many consecutive dev evaluations.
_BLANK_EVALS = 3


class StopRequest:
    """A record of the signal that asked training to stop."""

    def __init__(self) -> None:
        self.signal: str | None = None
        """The name of the received signal, or None."""
        self._since = 0.0

    def handle(self, number: int, _: FrameType | None = None) -> None:
        """Record a signal; exit immediately if it is the second one."""
        now = time.monotonic()
        if self.signal is None:
            self.signal, self._since = signal.Signals(number).name, now
        elif now - self._since >= _ECHO_SECONDS:
            os._exit(EXIT_RESUMABLE)


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Record SIGTERM and SIGINT in the yielded request instead of ending the process; a second signal ends it."""
    request = StopRequest()
    before = {number: signal.signal(number, request.handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def ignore_signals(_: int) -> None:
    """Ignore SIGTERM and SIGINT in a data loader worker: the training process needs the clips of its last step."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


class NotFiniteError(Exception):
    """A NaN or infinite loss or gradient at `step`."""

    def __init__(self, step: int) -> None:
        super().__init__(f"not finite at step {step}")
        self.step = step


class FiniteGuard:
    """The first step with a NaN or infinite loss or gradient, tracked on the device without synchronisation."""

    def __init__(self, device: torch.device) -> None:
        self._first = torch.tensor(_NEVER, device=device)

    def watch(self, value: Tensor, step: int) -> None:
        """Check a value of `step` without waiting for the device."""
        self._first = torch.where(torch.isfinite(value.detach()), self._first, self._first.clamp(max=step))

    def first(self) -> int | None:
        """Return the step of the first value that was not finite, or None; waits for the device."""
        first = int(self._first)
        return None if first == _NEVER else first


def not_finite(run: str, step: int, ids: Sequence[str]) -> SpeechmillError:
    """Return the error for a NaN or infinite loss or gradient at `step`, which trained on the clips `ids`."""
    shown = ", ".join(ids[:_SHOWN_IDS]) + (f" and {len(ids) - _SHOWN_IDS} more" if len(ids) > _SHOWN_IDS else "")
    return SpeechmillError(
        f"the loss or its gradient was NaN or infinite at step {step}, on the clips {shown}; no state was saved"
        f" since. Try a lower runs.{run}.finetune.learning_rate, more warmup_steps, a lower max_grad_norm, or precision"
        " bf16 or fp32 instead of fp16, and check these clips and their texts"
    )


def out_of_memory(run: str, padded_seconds: float, plan: dict[str, Any], total_bytes: int) -> SpeechmillError:
    """Return the error for a device of `total_bytes` that ran out of memory in a batch of `padded_seconds`."""
    fits, assumed = plan["fits_seconds"], plan["gpu_memory_gib"]
    advice = f"set runs.{run}.plan.batch.seconds lower and gradient_accumulation higher"
    estimated = fits["with_checkpointing"] if plan["gradient_checkpointing"] else fits["without_checkpointing"]
    if not plan["gradient_checkpointing"]:
        advice += (
            f", or runs.{run}.finetune.gradient_checkpointing to true, with which {fits['with_checkpointing']:.0f} s"
            " would fit"
        )
    return SpeechmillError(
        f"the device ran out of memory in a batch of {padded_seconds:.1f} s, padding included. The plan estimates that"
        f" {estimated:.0f} s fit into runs.{run}.gpu_memory_gib, {assumed:.0f} GiB; the device has"
        f" {total_bytes / 2**30:.1f} GiB, some of which other programs may use. To fix it, {advice}"
    )


def only_blanks(rows: Sequence[dict[str, Any]], warmup_steps: int) -> bool:
    """Return whether the last dev evaluations in the rows of the log, after the warm-up, recognised no word."""
    last = [row for row in rows if row.get("dev_clips") and row["step"] > warmup_steps][-_BLANK_EVALS:]
    return len(last) == _BLANK_EVALS and all(row["dev_empty"] == row["dev_clips"] for row in last)


def blanks_warning(run: str, step: int) -> str:
    """Return the warning for a model that outputs only blanks."""
    return (
        f"warning: at step {step} the model outputs no text for any dev clip, in {_BLANK_EVALS} dev evaluations in"
        " a row: it assigns all frames to the CTC blank. Training may still leave this plateau by itself; if it does"
        f" not, try a higher runs.{run}.finetune.learning_rate or other warmup_steps, smaller batches and more steps,"
        " more epochs, or a base model, and check in clips/train.parquet that the texts match the recordings"
    )
