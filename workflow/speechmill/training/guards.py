"""What ends a training before its end, each with a sentence on what to do: signals, NaN, a full device, blanks."""

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
"""The exit status that means: run the same command again, and training goes on."""

# One signal may come twice: to the whole group of processes, and handed on by the one that started them.
_ECHO_SECONDS = 2.0
_NEVER = torch.iinfo(torch.int64).max
_SHOWN_IDS = 20
# So many saves in a row without a word are no longer the plateau that CTC begins with.
_BLANK_SAVES = 3


class StopRequest:
    """Whether a signal has asked for the end of training."""

    def __init__(self) -> None:
        self.signal: str | None = None
        """The name of the signal that came."""
        self._since = 0.0

    def handle(self, number: int, _: FrameType | None = None) -> None:
        """Note a signal; leave at once if it is a second one."""
        now = time.monotonic()
        if self.signal is None:
            self.signal, self._since = signal.Signals(number).name, now
        elif now - self._since >= _ECHO_SECONDS:
            os._exit(EXIT_RESUMABLE)


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """A block in which SIGTERM and SIGINT do not end the process, but ask for its end; a second one does end it."""
    request = StopRequest()
    before = {number: signal.signal(number, request.handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def ignore_signals(_: int) -> None:
    """Let a process that decodes clips leave signals to the one that trains: it needs the clips of its last step."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


class NotFiniteError(Exception):
    """A loss or a gradient of `step` was NaN or infinite."""

    def __init__(self, step: int) -> None:
        super().__init__(f"not finite at step {step}")
        self.step = step


class FiniteGuard:
    """Notes on the device at which step a loss or a gradient was first infinite or NaN; asking is what waits for it."""

    def __init__(self, device: torch.device) -> None:
        self._first = torch.tensor(_NEVER, device=device)

    def watch(self, value: Tensor, step: int) -> None:
        """Look at a value of `step` without waiting for it."""
        self._first = torch.where(torch.isfinite(value.detach()), self._first, self._first.clamp(max=step))

    def first(self) -> int | None:
        """The step of the first value that was not finite, or None. Waits for the device."""
        first = int(self._first)
        return None if first == _NEVER else first


def not_finite(run: str, step: int, ids: Sequence[str]) -> SpeechmillError:
    """What to say of a loss or a gradient of `step`, on the clips `ids`, that is NaN or infinite."""
    shown = ", ".join(ids[:_SHOWN_IDS]) + (f" and {len(ids) - _SHOWN_IDS} more" if len(ids) > _SHOWN_IDS else "")
    return SpeechmillError(
        f"the loss or its gradient was NaN or infinite at step {step}, on the clips {shown}. No state was saved since."
        f" Try a lower runs.{run}.finetune.learning_rate, a longer warmup_steps, a lower max_grad_norm, or precision"
        " bf16 or fp32 instead of fp16; and listen to these clips"
    )


def out_of_memory(run: str, padded_seconds: float, plan: dict[str, Any], total_bytes: int) -> SpeechmillError:
    """What to say of a device of `total_bytes` that had no memory left for a batch of `padded_seconds`."""
    fits, assumed = plan["fits_seconds"], plan["gpu_memory_gib"]
    ways = f"set runs.{run}.plan.batch.seconds lower and gradient_accumulation higher"
    now = fits["with_checkpointing"] if plan["gradient_checkpointing"] else fits["without_checkpointing"]
    if not plan["gradient_checkpointing"]:
        ways += (
            f", or runs.{run}.finetune.gradient_checkpointing to true, with which {fits['with_checkpointing']:.0f} s"
            " would fit"
        )
    return SpeechmillError(
        f"no memory was left on the device: a batch of {padded_seconds:.1f} s, padding included, was asked for, and the"
        f" plan thinks that {now:.0f} s fit into runs.{run}.gpu_memory_gib, {assumed:.0f} GiB; the device has"
        f" {total_bytes / 2**30:.1f} GiB, if no other program has some of it. To mend it, {ways}"
    )


def only_blanks(rows: Sequence[dict[str, Any]], warmup_steps: int) -> bool:
    """Whether the last probes among the rows of the log, all after the warm-up, have no word in any clip."""
    last = [row for row in rows if row.get("dev_clips") and row["step"] > warmup_steps][-_BLANK_SAVES:]
    return len(last) == _BLANK_SAVES and all(row["dev_empty"] == row["dev_clips"] for row in last)


def blanks_warning(run: str, step: int) -> str:
    """What to say of a model that does not leave the blank."""
    return (
        f"warning: at step {step} the model writes nothing for any clip of dev, for {_BLANK_SAVES} saves in a row:"
        " it gives all frames to CTC's blank. Training may still leave this plateau by itself; if it does not, try a"
        f" higher runs.{run}.finetune.learning_rate or another warmup_steps, steps of fewer clips and more of them,"
        " more epochs, or a base; and see in clips/train.parquet that texts fit what is said"
    )
