"""speed: the training of XLS-R 1B by the stock recipe and by that of speechmill, in several variants.

Reading audio is not measured: all variants get batches in memory.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import Wav2Vec2Config, Wav2Vec2ForCTC
from transformers.trainer_pt_utils import get_length_grouped_indices

from gpu.clips import LABELS, MEAN, RATE, Batch, batch_of, clip_lengths
from gpu.models import SMALL, XLS_R_1B
from gpu.step import Step, device_gib, free_memory, peak_gib, synchronise
from speechmill.config.finetune import FinetuneConfig, MemoryConfig
from speechmill.model.ctc import clip_losses
from speechmill.model.gpu_kernels import use_gpu_kernels
from speechmill.model.models import INPUT_KEYS, forward, output_frames
from speechmill.training.cost import Cost, training_cost
from speechmill.training.finetune import set_up_training

STOCK_CLIPS = 8
# Less than the largest batch that fits, since varying shapes fragment the memory.
BATCH_FRACTION = 0.8
# Batches of up to this many seconds are tried; those of checkpointed variants would take minutes.
LONGEST_TRIED = 3000.0


@dataclass(frozen=True)
class Variant:
    """A way to train with speechmill."""

    precision: str
    compiled: bool = False
    checkpointing: bool = False
    usual_kernels: bool = False
    """Whether all kernels are those that transformers uses."""

    @property
    def name(self) -> str:
        """The name of the variant in the results."""
        options = {"compiled layers": self.compiled, "gradient checkpointing": self.checkpointing}
        options |= {"usual kernels": self.usual_kernels}
        return ", ".join(["speechmill in " + self.precision, *(name for name, used in options.items() if used)])


VARIANTS = (
    Variant("bf16"),
    Variant("bf16", compiled=True),
    Variant("bf16", usual_kernels=True),
    Variant("fp16"),
    Variant("bf16", checkpointing=True),
)


def _model(settings: dict[str, Any], device: torch.device, **changes: object) -> Wav2Vec2ForCTC:
    with device:
        # The embedding of masked frames is created on the CPU nevertheless.
        return Wav2Vec2ForCTC(Wav2Vec2Config(**settings | changes, vocab_size=LABELS)).train().to(device)


class Scaled:
    """The part of an optimiser step that follows the loss, with loss scaling in fp16."""

    def __init__(self, model: torch.nn.Module, device: torch.device, fp16: bool, fused: bool) -> None:
        self._model, self._type, self._fp16 = model, device.type, fp16
        self._optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=fused)
        self.reset()

    def reset(self) -> None:
        """Discard the state of a failed step."""
        self._optimizer.zero_grad()
        # With a higher initial scale, gradients overflow at first, and skipped steps take less time.
        self._scaler = torch.amp.GradScaler(self._type, init_scale=256.0, enabled=self._fp16)

    def step(self, loss: torch.Tensor) -> None:
        """Update the weights."""
        self._scaler.scale(loss).backward()
        self._scaler.unscale_(self._optimizer)
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad()


class StockRecipe:
    """The recipe of published models: fp16, 8 clips per batch, gradient checkpointing, defaults of transformers.

    The defaults are SDPA, SpecAugment masks made on the CPU, and layerdrop.
    """

    def __init__(self, settings: dict[str, Any], device: torch.device) -> None:
        self._device = device
        self._model = _model(settings, device)
        self._model.freeze_feature_encoder()
        self._model.gradient_checkpointing_enable()
        # A CPU does not train in fp16.
        self._fp16 = device.type == "cuda"
        self._scaled = Scaled(self._model, device, self._fp16, fused=False)
        self.reset = self._scaled.reset

    def batches(self, lengths: list[int], seconds: float) -> Iterator[list[int]]:
        """Yield batches of 8 clips of similar length."""
        order = get_length_grouped_indices(lengths, STOCK_CLIPS)
        for start in range(0, len(order), STOCK_CLIPS):
            yield [lengths[i] for i in order[start : start + STOCK_CLIPS]]

    def step(self, batch: Batch) -> None:
        """Run one optimizer step."""
        inputs = {key: tensor.to(self._device) for key, tensor in batch.items() if key != "num_samples"}
        with torch.autocast(self._device.type, torch.float16, enabled=self._fp16):
            loss = self._model(**inputs).loss
        # The Trainer checks the loss for NaN, which synchronises with the device.
        loss.isnan().item()
        self._scaled.step(loss)


class SpeechmillRecipe:
    """The recipe of speechmill: batches by padded seconds, no layerdrop, masks made on the device."""

    def __init__(self, settings: dict[str, Any], device: torch.device, variant: Variant) -> None:
        self._device = device
        self._dtype = torch.float16 if variant.precision == "fp16" and device.type == "cuda" else torch.bfloat16
        torch.set_float32_matmul_precision("high")
        self._model = _model(settings, device, layerdrop=0.0)
        finetune = FinetuneConfig(learning_rate=1e-6, compile=variant.compiled)
        set_up_training(self._model, finetune, has_base=True, checkpointing=variant.checkpointing)
        if not variant.usual_kernels:
            use_gpu_kernels(self._model, device)
        self._scaled = Scaled(self._model, device, self._dtype == torch.float16, fused=True)
        self.reset = self._scaled.reset

    def batches(self, lengths: list[int], seconds: float) -> Iterator[list[int]]:
        """Yield batches of clips of similar length of up to `seconds`, padding included, in random order."""
        batches: list[list[int]] = [[]]
        for length in sorted(lengths):
            if length * (len(batches[-1]) + 1) > seconds * RATE:
                batches.append([])
            batches[-1].append(length)
        for i in np.random.default_rng(1).permutation(len(batches)):
            yield batches[i]

    def step(self, batch: Batch) -> None:
        """Run one optimizer step."""
        inputs = {key: batch[key].to(self._device, non_blocking=True) for key in INPUT_KEYS if key in batch}
        with torch.autocast(self._device.type, self._dtype):
            logits = forward(self._model, inputs)
        # Lengths and labels stay on the host.
        frames = output_frames(self._model, batch["num_samples"])
        self._scaled.step(clip_losses(logits, frames, batch["labels"]).mean())


def largest(fits: Callable[[float], bool], start: float, longest: float) -> float:
    """Return the most seconds up to `longest` that fit, within 5 %, searched from `start`; 0 if nothing fits."""
    low, high = start, start
    if fits(start):
        while low < longest and fits(min(longest, 1.2 * low)):
            low = min(longest, 1.2 * low)
        high = min(longest, 1.2 * low)
    else:
        while low > 1.0 and not fits(low / 1.2):
            low /= 1.2
        low, high = low / 1.2, low
        if high <= 1.0:
            return 0.0
    while high - low > 0.05 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def fits(recipe: StockRecipe | SpeechmillRecipe, seconds: float) -> bool:
    """Return whether a step with clips of the mean length and `seconds` in total fits into the memory."""
    # One clip is shorter, since an attention mask without padding would be dropped and take no memory.
    others = max(1, round(seconds / MEAN)) - 1
    try:
        recipe.step(batch_of([round(0.9 * MEAN * RATE)] + [round(MEAN * RATE)] * others))
    except torch.OutOfMemoryError:
        fit = False
    else:
        fit = True
    # The tensors of a failed step are freed only together with its exception.
    recipe.reset()
    free_memory()
    return fit


def audio_seconds_per_second(
    recipe: StockRecipe | SpeechmillRecipe, lengths: list[int], seconds: float, least: float, device: torch.device
) -> float:
    """Return the speed of a recipe with batches of up to `seconds`, where it follows them, and of `least` in total."""
    chosen: list[list[int]] = []
    for batch in recipe.batches(lengths, seconds):
        chosen.append(batch)
        if sum(map(sum, chosen)) >= least * RATE:
            break
    batches = [batch_of(batch) for batch in chosen]
    elapsed = 0.0
    # The first pass is a warm-up: kernel selection, compilation and memory allocation.
    for _ in range(2):
        synchronise(device)
        started = time.monotonic()
        for batch in batches:
            recipe.step(batch)
        synchronise(device)
        elapsed = time.monotonic() - started
    return sum(map(sum, chosen)) / RATE / elapsed


def matrix_peak(size: int, device: torch.device) -> float:
    """Return the FLOP/s of bf16 products of random square matrices, the best of twenty."""
    one, other = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    fastest = float("inf")
    for _ in range(20):
        synchronise(device)
        started = time.monotonic()
        one @ other
        synchronise(device)
        fastest = min(fastest, time.monotonic() - started)
    return 2 * size**3 / fastest


def cost_of(settings: dict[str, Any], precision: str) -> Cost:
    """Return the plan's estimate of training on clips of the mean length."""
    config = Wav2Vec2Config(**settings, vocab_size=LABELS)
    memory = MemoryConfig(precision=precision)  # type: ignore[arg-type]
    return training_cost(
        config, memory, has_base=True, processes=1, accumulates=False, mean_seconds=MEAN, longest_seconds=MEAN
    )


def measure(step: Step) -> None:
    """Record all measurements, those that matter most first."""
    settings, device = (SMALL, step.device) if step.small else (XLS_R_1B, step.device)
    # As many as make batches of clips of almost equal length, of which some are measured.
    lengths, least = clip_lengths(80.0 if step.small else 50_000.0), 40.0 if step.small else 600.0
    peak = matrix_peak(256 if step.small else 8192, device)
    flop = cost_of(settings, "bf16").flop_per_audio_second
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    step.measured("device", name=name, torch=torch.__version__, matrix_tflops=peak / 1e12, step_gflop=flop / 1e9)

    def record(name: str, recipe: StockRecipe | SpeechmillRecipe, seconds: float, **others: float) -> float:
        free_memory()
        speed = audio_seconds_per_second(recipe, lengths, seconds, max(least, 4 * seconds), device)
        step.measured(
            name,
            audio_seconds_per_second=speed,
            mfu_percent=100 * speed * flop / peak,
            peak_gib=peak_gib(device),
            **others,
        )
        return speed

    torch.manual_seed(0)
    stock = record("stock", StockRecipe(settings, device), 0.0)
    for variant in VARIANTS:
        torch.manual_seed(0)
        free_memory()
        recipe = SpeechmillRecipe(settings, device, variant)
        expected = cost_of(settings, variant.precision).fitting_seconds(
            device_gib(device) * 2**30, variant.checkpointing
        )
        if step.small or variant.checkpointing or variant.usual_kernels:
            most = 25.0 if step.small else min(expected, LONGEST_TRIED / 2)
        else:
            most = largest(lambda seconds, tried=recipe: fits(tried, seconds), expected, LONGEST_TRIED)
            step.measured(f"{variant.name}: largest batch", seconds=most, predicted_seconds=expected)
        speed = record(variant.name, recipe, BATCH_FRACTION * most, batch_seconds=BATCH_FRACTION * most)
        step.measured(f"{variant.name}: against stock", times=speed / stock)
        del recipe
    free_memory()
    if not step.small:
        recipe = StockRecipe(settings, device)
        most = largest(lambda seconds: fits(recipe, seconds), LONGEST_TRIED, 2 * LONGEST_TRIED)
        step.measured("stock: largest batch", seconds=most)


def main(step: Step) -> None:
    """Run the step; with `--small`, compiled variants run without being compiled, which takes a minute."""
    with torch.compiler.set_stance("force_eager" if step.small else "default"):
        measure(step)
