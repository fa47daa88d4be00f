"""inference: the seconds of audio that XLS-R 1B transcribes greedily per second (RTFx), for clips of mixed lengths.

speechmill is measured as the stage `log_probs` runs it, reading audio included; stock transformers in the order of the
clips, in batches of 64 that are in memory already.
"""

import time
from collections.abc import Iterator
from copy import deepcopy
from typing import Any
from unittest.mock import patch

import torch
from transformers import PreTrainedModel

from gpu import inputs
from gpu.clips import RATE, Batch, batch_of
from gpu.step import Step, free_memory, synchronise
from speechmill.core.files import read_json
from speechmill.core.tables import read_table
from speechmill.inference import log_probs
from speechmill.model.models import load_processor, model_config, new_model

LANGUAGE = "ru"
STOCK_CLIPS = 64
# The default of `evaluation.batch_seconds`, and a batch for a GPU with more memory.
_BATCH_SECONDS = (120.0, 480.0)


class ForwardTimes:
    """Measures the time that the device takes for forward passes, without waiting for them."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._seconds = 0.0

    def __call__(self, model: Any, batch: Any) -> torch.Tensor:
        """Run a forward pass."""
        start, end = (torch.cuda.Event(enable_timing=True) if self._cuda else None for _ in range(2))
        started = time.monotonic()
        if start is not None:
            start.record()
        logits = self._forward(model, batch)
        if start is not None and end is not None:
            end.record()
            self._events.append((start, end))
        self._seconds += time.monotonic() - started
        return logits

    _forward = staticmethod(log_probs.forward)

    @property
    def seconds(self) -> float:
        """The time of all forward passes; the device must have finished them."""
        return sum(start.elapsed_time(end) for start, end in self._events) / 1000 if self._cuda else self._seconds


def in_given_order(lengths: list[int]) -> Iterator[list[int]]:
    """Yield batches of 64 clips in the given order, as the pipeline of transformers does."""
    for start in range(0, len(lengths), STOCK_CLIPS):
        yield lengths[start : start + STOCK_CLIPS]


def stock_seconds(model: PreTrainedModel, batches: list[Batch], device: torch.device, dtype: torch.dtype) -> float:
    """Return the time in which stock transformers transcribes batches that are in memory."""
    synchronise(device)
    started = time.monotonic()
    for batch in batches:
        tensors = {key: batch[key].to(device) for key in ("input_values", "attention_mask")}
        with torch.inference_mode(), torch.autocast(device.type, dtype, enabled=dtype is not torch.float32):
            model(**tensors).logits.argmax(-1).cpu()
    return time.monotonic() - started


def main(step: Step) -> None:
    """Record RTFx by precision and batch size."""
    clips = read_table(inputs.clips(step, LANGUAGE)).to_pylist()
    # As much as a test set has, since `infer` first tries whether padding matters, which takes a constant time.
    repeated = clips if step.small else 5 * clips
    processor = load_processor(inputs.vocab(step, LANGUAGE))
    size = len(read_json(inputs.vocab(step, LANGUAGE) / "vocab.json"))
    config = model_config(None, inputs.base(step), {}, size)
    model = new_model(config, inputs.base(step), processor.tokenizer.get_vocab()).eval()
    audio = sum(clip["num_samples"] for clip in clips) / RATE
    batches = [batch_of(batch) for batch in in_given_order([clip["num_samples"] for clip in clips])]
    # Without the kernels that `infer` sets up.
    stock = deepcopy(model)
    for precision, dtype in {"bf16": torch.bfloat16, "fp32": torch.float32}.items():
        for seconds in _BATCH_SECONDS:
            free_memory()
            settings = log_probs.LogProbsSettings(
                device=step.device.type,
                batch_seconds=seconds,
                precision=precision,  # type: ignore[arg-type]
            )
            # A warm-up comes first.
            for of_pass in (clips, repeated if precision == "bf16" else clips):
                times = ForwardTimes(step.device)
                started = time.monotonic()
                with patch.object(log_probs, "forward", times):
                    log_probs.infer(model, processor, of_pass, inputs.shards(step), settings, step.device)
                elapsed = time.monotonic() - started
            step.measured(
                f"speechmill in {precision}, batches of {seconds:.0f} s",
                rtfx=audio * len(of_pass) / len(clips) / elapsed,
                percent_outside_forward=100 * (1 - times.seconds / elapsed),
            )
        free_memory()
        stock.to(step.device)
        fastest = min(stock_seconds(stock, batches, step.device, dtype) for _ in range(2))
        step.measured(f"stock in {precision}, {STOCK_CLIPS} clips in given order", rtfx=audio / fastest)
