"""The speed of inference with XLS-R 1B on a GPU, as seconds of audio per second (RTFx).

    PYTHONPATH=workflow:tests python tests/benchmarks/gpu_evaluate.py

It needs only torch and transformers (5.17 or later), no corpus and no weights, which are random. Reading audio, which a
thread does in advance for the next batch, and decoding the ids with the tokenizer are not measured. With `--small` it
runs a small model, also without a GPU.
"""

import argparse
import gc
import sys
import time
from collections.abc import Iterator

import torch
from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

from benchmarks.gpu_train import RATE, SMALL, XLS_R_1B, Batch, batch_of, clip_lengths, synchronise
from benchmarks.table import Row, show
from speechmill.model.ctc import clip_losses

# A published leaderboard lists 231 for mms-1b-all, which has as many parameters.
TARGET_ON_H100 = 2000.0
STOCK_BATCH = 64
# The default of `evaluation.batch_seconds`, and a batch for a GPU with more memory.
BATCH_SECONDS = (120.0, 480.0)
ROUNDS = 2


def in_given_order(lengths: list[int]) -> Iterator[list[int]]:
    """Yield batches of 64 clips in the given order, as the pipeline of transformers does."""
    for start in range(0, len(lengths), STOCK_BATCH):
        yield lengths[start : start + STOCK_BATCH]


def by_length(lengths: list[int], seconds: float) -> Iterator[list[int]]:
    """Yield batches of clips of similar length of up to `seconds`, padding included, longest first."""
    batch: list[int] = []
    for length in sorted(lengths, reverse=True):
        if batch and batch[0] * (len(batch) + 1) > seconds * RATE:
            yield batch
            batch = []
        batch.append(length)
    yield batch


def infer(model: Wav2Vec2ForCTC, batch: Batch, device: torch.device, dtype: torch.dtype) -> None:
    """Process a batch like the stage `log_probs`; ids and losses are copied to the host."""
    inputs = {key: batch[key].to(device, non_blocking=True) for key in ("input_values", "attention_mask")}
    with torch.inference_mode():
        with torch.autocast(device.type, dtype, enabled=dtype is not torch.float32):
            logits = model(**inputs).logits
        frames = model._get_feat_extract_output_lengths(batch["num_samples"])
        clip_losses(logits, frames, batch["labels"]).cpu()
        logits.argmax(-1).cpu()


def rtfx(model: Wav2Vec2ForCTC, batches: list[Batch], device: torch.device, dtype: torch.dtype) -> float:
    """Return seconds of audio per second in the fastest round; one round is added as a warm-up."""
    fastest = float("inf")
    for _ in range(ROUNDS + 1):
        synchronise(device)
        started = time.monotonic()
        for batch in batches:
            infer(model, batch, device, dtype)
        synchronise(device)
        fastest = min(fastest, time.monotonic() - started)
    return sum(int(batch["num_samples"].sum()) for batch in batches) / RATE / fastest


def rows(settings: dict[str, object], audio_seconds: float, device: torch.device) -> Iterator[Row]:
    """Yield RTFx by batch and precision; the target applies only to XLS-R 1B on an H100."""
    on_gpu = device.type == "cuda"
    torch.manual_seed(0)
    with device:
        model = Wav2Vec2ForCTC(Wav2Vec2Config(**settings)).eval().to(device)
    lengths = clip_lengths(audio_seconds)
    batchings = {
        f"{STOCK_BATCH} clips in given order": in_given_order(lengths),
        **{f"by length, {seconds:g} s": by_length(lengths, seconds) for seconds in BATCH_SECONDS},
    }
    best = 0.0
    for name, lengths_by_batch in batchings.items():
        batches = [batch_of(batch) for batch in lengths_by_batch]
        if on_gpu:
            batches = [{key: tensor.pin_memory() for key, tensor in batch.items()} for batch in batches]
        for precision, dtype in {"fp32": torch.float32, "bf16": torch.bfloat16}.items():
            speed = rtfx(model, batches, device, dtype)
            best = max(best, speed)
            yield Row(f"{name}, {precision}: RTFx", speed, unit="s/s")
        gc.collect()
        torch.cuda.empty_cache()
    on_h100 = settings is XLS_R_1B and on_gpu and "H100" in torch.cuda.get_device_name()
    yield Row("at its best: RTFx", best, TARGET_ON_H100 if on_h100 else None, "s/s")


def main() -> None:
    """Print the table; exit with status 1 if the target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a small model, on the CPU where there is no GPU")
    parser.add_argument("--audio-seconds", type=float, help="the amount of audio per pass")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and not args.small:
        parser.error("there is no GPU; use --small to run a small model on the CPU")
    print(f"torch {torch.__version__} on {torch.cuda.get_device_name() if device.type == 'cuda' else 'the CPU'}")
    workload = (SMALL, args.audio_seconds or 60.0) if args.small else (XLS_R_1B, args.audio_seconds or 8000.0)
    passed = show(rows(*workload, device))
    if args.small or device.type == "cpu":
        print("this does not measure XLS-R 1B on a GPU")
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
