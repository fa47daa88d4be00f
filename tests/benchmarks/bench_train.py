"""The speed of training on the CPU, compared with a stock Trainer on the same clips with the same model.

The stock set-up is the CTC example of transformers (`run_speech_recognition_ctc.py`): float arrays written beforehand,
clips grouped by length, and the loss of the model. The time for writing the arrays does not count. Comments mark where
the example does something wrong or slow that is fixed here.

Processor time on one thread is compared, which other programs affect little.
"""

import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import torch
from transformers import PrinterCallback, Trainer, TrainingArguments, Wav2Vec2Processor
from transformers.trainer_pt_utils import get_length_grouped_indices

from benchmarks.clock import processor_seconds
from benchmarks.stock import StockCollator, feature_dataset, store_clips
from benchmarks.table import Row
from material import LAYER_NORM, recording
from speechmill.core.flac import Int16Samples
from speechmill.core.schemas import SAMPLE_RATE
from speechmill.model.batching import batch_stats, clips_from_table
from speechmill.model.models import model_config, new_model
from speechmill.text.vocab import VocabSettings, processor, vocabulary
from speechmill.training.finetune import FinetuneSettings, TrainingInputs, train

CLIP_COUNT, ROUNDS, THREADS = 160, 4, 1
# Half of the mean length in Common Voice, so that a round is short; the spread is that of Common Voice.
MEAN_SECONDS, SPREAD, BATCH = 2.5, 0.35, 8
# Measured: 1.05 to 1.08, and 1.20 to 1.21 where bf16 products are 2.2 times as fast as those in fp32.
FASTER_IN_FP32, FASTER_BY_DEFAULT = 1.0, 1.15
LETTERS = "абвгдежзийклмнопрстуфхцчшщъыьэюя"
INIT = LAYER_NORM | {
    "conv_dim": [64] * 7,
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 512,
    "num_conv_pos_embeddings": 128,
    "num_conv_pos_embedding_groups": 16,
    "hidden_dropout": 0.1,
    "attention_dropout": 0.1,
    "apply_spec_augment": True,
}


def sample_clips() -> tuple[list[str], list[Int16Samples]]:
    """Return noise with the lengths of speech, and texts of twelve letters per second."""
    rng = np.random.default_rng(0)
    seconds = rng.lognormal(np.log(MEAN_SECONDS) - SPREAD**2 / 2, SPREAD, CLIP_COUNT).clip(1, 8)
    source = recording(60)
    starts = rng.integers(50 * SAMPLE_RATE, size=CLIP_COUNT)
    texts = ["".join(rng.choice(list(LETTERS), round(12 * s))) for s in seconds]
    return texts, [source[start : start + round(s * SAMPLE_RATE)] for start, s in zip(starts, seconds, strict=True)]


class StockTrainer(Trainer):
    """A Trainer that groups clips by length, with the padding that it has on a large corpus."""

    def __init__(self, lengths: list[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._lengths = lengths

    def _get_train_sampler(self, train_dataset: datasets.Dataset | None = None) -> Any:
        # Fixed: the Trainer sorts 50 batches at a time, but at most a quarter of the clips if there are few.
        # Fixed: it removes the column of lengths before it needs it here, and so reads every clip to measure it.
        return get_length_grouped_indices(self._lengths, BATCH, mega_batch_mult=50)


def train_stock(lengths: list[int], data: datasets.Dataset, processor: Wav2Vec2Processor, folder: Path) -> None:
    """Train an epoch with the stock Trainer in fp32."""
    torch.set_num_threads(THREADS)
    vocab = processor.tokenizer.get_vocab()
    model = new_model(model_config(INIT, None, {}, len(vocab)), None, vocab)
    model.freeze_feature_encoder()
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=1,
        per_device_train_batch_size=BATCH,
        # Must be 1: with more, loss and gradients would not be divided by their number.
        gradient_accumulation_steps=1,
        learning_rate=1e-4,
        logging_steps=10,
        save_strategy="epoch",
        use_cpu=True,
        disable_tqdm=True,
        report_to="none",
    )
    trainer = StockTrainer(
        lengths,
        model=model,
        args=arguments,
        data_collator=StockCollator(processor),
        train_dataset=data,
        processing_class=processor,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()


def train_speechmill(
    clips: pa.Table, shards: list[Path], processor: Wav2Vec2Processor, folder: Path, **finetune: Any
) -> None:
    """Train an epoch with `finetune.train`, with the settings `finetune` and otherwise the defaults."""
    settings = FinetuneSettings.model_validate(
        {
            "device": "cpu",
            "gpus": 1,
            "plan": {"epochs": 1, "batch": {"seconds": BATCH * MEAN_SECONDS}, "save_steps": 10_000},
            "model": {"init": INIT},
            "finetune": {"learning_rate": 1e-4, "threads": THREADS, "freeze_feature_encoder": True} | finetune,
            "augment": {},
            "checkpoints": {"dev_clips": 0},
            "text": {},
            "batch_seconds": BATCH * MEAN_SECONDS,
            "metric": "wer",
        }
    )
    steps = batch_stats(clips_from_table(clips), settings.plan).batches
    plan = {
        "batches": steps,
        "total_steps": steps,
        "epochs": 1,
        "checkpoints": [steps],
        "gradient_checkpointing": False,
        "peak_throughput": None,
    }
    work = folder / "work"
    work.mkdir(parents=True)
    inputs = TrainingInputs(clips, shards, processor, None, plan, dev=[], dev_shards=[])
    train("benchmark", settings, inputs, work, folder / "board", torch.device("cpu"))


def bf16_against_fp32() -> float:
    """Return the speed of bf16 relative to fp32 matrix products; below 1 on processors that emulate bf16."""
    torch.set_num_threads(THREADS)
    fastest = {}
    for dtype in (torch.float32, torch.bfloat16):
        one, other = torch.randn(2, 1024, 1024).to(dtype)
        fastest[dtype] = min(processor_seconds(lambda a=one, b=other: a @ b) for _ in range(10))
    return fastest[torch.float32] / fastest[torch.bfloat16]


def rows() -> Iterator[Row]:
    """Yield the speed of both; the best of alternating rounds counts, so that other load affects both."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        texts, recordings = sample_clips()
        letters = processor(vocabulary(texts), VocabSettings(init=INIT), base=None)
        clips, shards = store_clips(texts, recordings, folder)
        data = feature_dataset(texts, recordings, letters, folder / "arrays")
        epochs: dict[str, Callable[[Path], None]] = {
            "stock": lambda output: train_stock(list(map(len, recordings)), data, letters, output),
            "fp32": lambda output: train_speechmill(clips, shards, letters, output, precision="fp32"),
            "defaults": lambda output: train_speechmill(clips, shards, letters, output),
        }
        best = dict.fromkeys(epochs, float("inf"))
        for number in range(ROUNDS):
            for name, epoch in epochs.items():
                best[name] = min(best[name], processor_seconds(partial(epoch, folder / f"{name}-{number}")))
    yield Row(
        "train, stock in fp32: audio per second", sum(map(len, recordings)) / SAMPLE_RATE / best["stock"], unit="s"
    )
    yield Row("train in fp32: faster than stock", best["stock"] / best["fp32"], FASTER_IN_FP32)
    bf16 = bf16_against_fp32()
    yield Row("train, bf16 matrix products of this processor: faster than fp32", bf16)
    by_default = FASTER_BY_DEFAULT if bf16 > 1 else None
    yield Row("train by default, in bf16: faster than stock", best["stock"] / best["defaults"], by_default)
