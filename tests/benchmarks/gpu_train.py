"""Training of XLS-R 1B with the stock recipe and with that of speechmill, one after the other on one GPU.

    PYTHONPATH=workflow:tests python tests/benchmarks/gpu_train.py

It needs only torch and transformers (5.17 or later), no corpus and no weights, which are random. Reading audio is not
measured: both recipes get batches in memory. With `--small` it runs a small model, also without a GPU, where the
compiled variant is skipped because compilation would dominate.
"""

import argparse
import gc
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from transformers import Wav2Vec2Config, Wav2Vec2ForCTC
from transformers.trainer_pt_utils import get_length_grouped_indices

from benchmarks.table import Row, show
from speechmill.model.attention_masks import attention_masks_on_device
from speechmill.model.ctc import IGNORED_LABEL, clip_losses
from speechmill.model.positional_convolution import convolve_input_gradients
from speechmill.model.spec_augment import spec_augment_on_device

RATE = 16_000
# Clips of Common Voice 8.0 ru have a mean of 5.23 s, and few are above 10 s.
MEAN, SPREAD, SHORTEST, LONGEST = 5.23, 0.35, 1.5, 15.0
LETTERS_PER_SECOND = 12
# The peak throughput on an H100 is 2,630 audio-seconds per second; half of that is the target.
TARGET_ON_H100, TARGET_AGAINST_STOCK = 1310.0, 3.0
# Less than the largest batch that fits, since varying shapes fragment the memory.
BATCH_FRACTION = 0.8

# facebook/wav2vec2-xls-r-1b, except for the size of its head.
XLS_R_1B = {
    "hidden_size": 1280,
    "num_hidden_layers": 48,
    "num_attention_heads": 16,
    "intermediate_size": 5120,
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
    "conv_bias": True,
    "vocab_size": 40,
    "pad_token_id": 0,
    "ctc_loss_reduction": "mean",
    "layerdrop": 0.1,
    "hidden_dropout": 0.1,
    "attention_dropout": 0.1,
    "feat_proj_dropout": 0.1,
    "activation_dropout": 0.0,
    "mask_time_prob": 0.075,
}
SMALL = XLS_R_1B | {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "conv_dim": [8] * 7,
    "num_conv_pos_embeddings": 16,
}

Batch = dict[str, torch.Tensor]


class Figures(NamedTuple):
    """The measurements of a recipe; memory and batch size are zero on a CPU."""

    audio_seconds_per_second: float
    peak_gib: float
    largest_seconds: float


@dataclass(frozen=True)
class Workload:
    """The amount of audio, the batch size where the largest is not searched for, and the size of matrix products."""

    audio_seconds: float
    batch_seconds: float
    matrix: int


def clip_lengths(seconds: float) -> list[int]:
    """Return the lengths in samples of clips with a total of `seconds`."""
    rng = np.random.default_rng(0)
    lengths: list[int] = []
    while sum(lengths) < seconds * RATE:
        length = rng.lognormal(np.log(MEAN) - SPREAD**2 / 2, SPREAD)
        lengths.append(round(RATE * min(max(length, SHORTEST), LONGEST)))
    return lengths


def batch_of(lengths: list[int]) -> Batch:
    """Return a padded batch of noise with random labels, in host memory."""
    generator = torch.Generator().manual_seed(len(lengths))
    samples = torch.tensor(lengths)
    mask = torch.arange(max(lengths)) < samples[:, None]
    texts = (samples * LETTERS_PER_SECOND / RATE).long()
    labels = torch.randint(3, 40, (len(lengths), int(texts.max())), generator=generator)
    labels[torch.arange(labels.shape[1]) >= texts[:, None]] = IGNORED_LABEL
    noise = torch.randn(mask.shape, generator=generator) * mask
    return {"input_values": noise, "attention_mask": mask.int(), "labels": labels, "num_samples": samples}


class StockRecipe:
    """The recipe of published models: fp16, 8 clips per batch, gradient checkpointing, defaults of transformers.

    The defaults are SDPA, SpecAugment masks made on the CPU, and layerdrop.
    """

    def __init__(self, settings: dict[str, object], device: torch.device) -> None:
        self._device = device
        with device:
            # The embedding of masked frames is created on the CPU.
            self._model = Wav2Vec2ForCTC(Wav2Vec2Config(**settings)).train().to(device)
        self._model.freeze_feature_encoder()
        self._model.gradient_checkpointing_enable()
        self._optimizer = torch.optim.AdamW(self._model.parameters(), lr=1e-6)
        # A CPU does not train in fp16.
        self._fp16 = device.type == "cuda"
        self.reset()

    def reset(self) -> None:
        """Discard the state of a failed step."""
        self._optimizer.zero_grad()
        # With a higher initial scale, gradients overflow at first, and skipped steps take less time.
        self._scaler = torch.amp.GradScaler(self._device.type, init_scale=256.0, enabled=self._fp16)

    def batches(self, lengths: list[int], seconds: float) -> Iterator[list[int]]:
        """Yield batches of 8 clips of similar length."""
        order = get_length_grouped_indices(lengths, 8)
        for start in range(0, len(order), 8):
            yield [lengths[i] for i in order[start : start + 8]]

    def step(self, batch: Batch) -> None:
        """Run one optimizer step."""
        inputs = {key: tensor.to(self._device) for key, tensor in batch.items() if key != "num_samples"}
        with torch.autocast(self._device.type, torch.float16, enabled=self._fp16):
            loss = self._model(**inputs).loss
        self._scaler.scale(loss).backward()
        # The Trainer checks the loss for NaN, which synchronises with the device.
        loss.isnan().item()
        self._scaler.unscale_(self._optimizer)
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad()


class SpeechmillRecipe:
    """The recipe of speechmill: bf16, batches by padded seconds, no gradient checkpointing, masks on the device.

    Without `convolved`, cuDNN computes the gradient of the convolution over positions.
    """

    def __init__(
        self, settings: dict[str, object], device: torch.device, compiled: bool, convolved: bool = True
    ) -> None:
        self._device = device
        with device:
            self._model = Wav2Vec2ForCTC(Wav2Vec2Config(**settings | {"layerdrop": 0.0})).train().to(device)
        self._model.freeze_feature_encoder()
        spec_augment_on_device(self._model)
        attention_masks_on_device(self._model)
        if convolved:
            convolve_input_gradients(self._model)
        if compiled:
            # Like `speechmill.model.training_setup`, which needs more than torch and transformers.
            torch._dynamo.config.recompile_limit = 32
            for layer in self._model.wav2vec2.encoder.layers:
                layer.compile(dynamic=True)
        self._optimizer = torch.optim.AdamW(self._model.parameters(), lr=1e-6, fused=True)

    def reset(self) -> None:
        """Discard the state of a failed step."""
        self._optimizer.zero_grad()

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
        inputs = {key: batch[key].to(self._device, non_blocking=True) for key in ("input_values", "attention_mask")}
        with torch.autocast(self._device.type, torch.bfloat16):
            logits = self._model(**inputs).logits
        # Lengths and labels stay on the host.
        frames = self._model._get_feat_extract_output_lengths(batch["num_samples"])
        clip_losses(logits, frames, batch["labels"]).mean().backward()
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad()


def largest(fits: Callable[[float], bool], start: float) -> float:
    """Return the most seconds that fit, within 5 %, by doubling and bisection from `start`; 0 if nothing fits."""
    low, high = 0.0, start
    while fits(high):
        low, high = high, 2 * high
    while high - low > 0.05 * high and high > 1.0:
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def measure(recipe: StockRecipe | SpeechmillRecipe, workload: Workload, device: torch.device) -> Figures:
    """Return the speed of a recipe with batches that leave some memory free, its peak memory and its largest batch."""
    on_gpu = device.type == "cuda"

    def fits(seconds: float) -> bool:
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
        gc.collect()
        torch.cuda.empty_cache()
        return fit

    most = largest(fits, workload.batch_seconds) if on_gpu else 0.0
    lengths = clip_lengths(workload.audio_seconds)
    batches = [batch_of(batch) for batch in recipe.batches(lengths, BATCH_FRACTION * most or workload.batch_seconds)]
    if on_gpu:
        batches = [{key: tensor.pin_memory() for key, tensor in batch.items()} for batch in batches]
        torch.cuda.reset_peak_memory_stats()
    # The first pass is a warm-up: kernel selection, compilation and memory allocation.
    for _ in range(2):
        synchronise(device)
        started = time.monotonic()
        for batch in batches:
            recipe.step(batch)
        synchronise(device)
        elapsed = time.monotonic() - started
    peak = torch.cuda.max_memory_allocated() / 2**30 if on_gpu else 0.0
    return Figures(sum(lengths) / RATE / elapsed, peak, most)


def synchronise(device: torch.device) -> None:
    """Wait for all queued work of the device."""
    if device.type == "cuda":
        torch.cuda.synchronize()


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


def flop_per_audio_second(config: Wav2Vec2Config, seconds: float) -> float:
    """Return the FLOP of a step per second of audio, for clips of `seconds` and a frozen feature encoder.

    A backward pass costs twice its forward pass; recomputation does not count.
    """
    rate, width, convolutions = float(RATE), 1, 0.0
    for dim, kernel, stride in zip(config.conv_dim, config.conv_kernel, config.conv_stride, strict=True):
        rate /= stride
        convolutions += 2 * rate * kernel * width * dim
        width = dim
    hidden = config.hidden_size
    layer = 8 * hidden**2 + 4 * hidden * config.intermediate_size + 4 * hidden * rate * seconds
    positions = 2 * hidden**2 / config.num_conv_pos_embedding_groups * config.num_conv_pos_embeddings
    ends = 2 * hidden * (width + config.vocab_size)
    return convolutions + 3 * rate * (config.num_hidden_layers * layer + positions + ends)


def rows(
    settings: dict[str, object], workload: Workload, device: torch.device, usual_gradient: bool = False
) -> Iterator[Row]:
    """Yield all measurements; targets apply only to XLS-R 1B on a GPU.

    With `usual_gradient`, speechmill's recipe is also measured without its gradient of the convolution over positions.
    """
    on_gpu = device.type == "cuda"
    real = settings is XLS_R_1B and on_gpu
    peak = matrix_peak(workload.matrix, device)
    yield Row("bf16 matrix products", peak / 1e12, unit="TFLOP/s")
    needed = flop_per_audio_second(Wav2Vec2Config(**settings), MEAN)
    yield Row("a step, per second of audio", needed / 1e9, unit="GFLOP")
    recipes: dict[str, Callable[[], StockRecipe | SpeechmillRecipe]] = {
        "stock": lambda: StockRecipe(settings, device),
        "speechmill": lambda: SpeechmillRecipe(settings, device, compiled=False),
    }
    if usual_gradient:
        recipes["speechmill, gradient by cuDNN"] = lambda: SpeechmillRecipe(settings, device, False, convolved=False)
    if on_gpu:
        recipes["speechmill, compiled"] = lambda: SpeechmillRecipe(settings, device, compiled=True)
    speeds: dict[str, float] = {}
    for name, recipe in recipes.items():
        torch.manual_seed(0)
        figures = measure(recipe(), workload, device)
        # Frees the memory for the next model.
        gc.collect()
        torch.cuda.empty_cache()
        speeds[name] = figures.audio_seconds_per_second
        yield Row(f"{name}: audio-seconds per second", speeds[name], unit="s/s")
        yield Row(f"{name}: MFU at the measured matrix peak", 100 * speeds[name] * needed / peak, unit="%")
        if on_gpu:
            yield Row(f"{name}: peak memory", figures.peak_gib, unit="GiB")
            yield Row(f"{name}: largest batch, padding included", figures.largest_seconds, unit="s")
    best = max(speed for name, speed in speeds.items() if name != "stock")
    on_h100 = real and "H100" in torch.cuda.get_device_name()
    yield Row("speechmill at its best: audio-seconds per second", best, TARGET_ON_H100 if on_h100 else None, "s/s")
    yield Row(
        "speechmill at its best: faster than stock", best / speeds["stock"], TARGET_AGAINST_STOCK if real else None
    )


def main() -> None:
    """Print the table; exit with status 1 if a figure misses its target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a small model, on the CPU where there is no GPU")
    parser.add_argument(
        "--usual-gradient", action="store_true", help="also without our gradient of the convolution over positions"
    )
    parser.add_argument("--audio-seconds", type=float, help="the amount of audio per pass")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and not args.small:
        parser.error("there is no GPU; use --small to run a small model on the CPU")
    workload = (
        Workload(args.audio_seconds or 60.0, 20.0, 256)
        if args.small
        else Workload(args.audio_seconds or 4000.0, 80.0, 8192)
    )
    print(f"torch {torch.__version__} on {torch.cuda.get_device_name() if device.type == 'cuda' else 'the CPU'}")
    passed = show(rows(SMALL if args.small else XLS_R_1B, workload, device, args.usual_gradient))
    if args.small or device.type == "cpu":
        print("this does not measure XLS-R 1B on a GPU")
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
