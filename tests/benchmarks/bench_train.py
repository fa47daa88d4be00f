"""How fast training is on the CPU, against a stock Trainer on the same clips with the same model.

Stock is what transformers' example for CTC sets up (`run_speech_recognition_ctc.py`): arrays of floats that were made
beforehand, clips grouped by length, the model's own loss. Its time for making the arrays is not counted. Where the
example does something wrong or slow, a comment says so, and whether it is mended here.

Processor time on one thread is compared, so that other work on the machine disturbs little.
"""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import torch
from transformers import PrinterCallback, Trainer, TrainingArguments, Wav2Vec2Processor
from transformers.trainer_pt_utils import get_length_grouped_indices

from benchmarks.clock import processor_seconds
from benchmarks.stock import StockCollator, arrays, stored
from benchmarks.table import Row
from material import LAYER_NORM, recording
from speechmill.core.flac import Int16Samples
from speechmill.core.tables import SAMPLE_RATE
from speechmill.model.batching import batch_stats, clips_of
from speechmill.model.models import model_config, new_model
from speechmill.text.vocab import VocabSettings, processor, vocabulary
from speechmill.training.finetune import FinetuneSettings, Materials, train

CLIP_COUNT, ROUNDS, THREADS = 160, 4, 1
# Half of Common Voice's mean, so that a round is short; the spread is Common Voice's.
MEAN_SECONDS, SPREAD, BATCH = 2.5, 0.35, 8
FASTER_IN_FP32, FASTER_BY_DEFAULT = 1.05, 1.25
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


def drawn_clips() -> tuple[list[str], list[Int16Samples]]:
    """Noise of the lengths that speech has, with twelve letters a second."""
    drawn = np.random.default_rng(0)
    seconds = drawn.lognormal(np.log(MEAN_SECONDS) - SPREAD**2 / 2, SPREAD, CLIP_COUNT).clip(1, 8)
    long = recording(60)
    starts = drawn.integers(50 * SAMPLE_RATE, size=CLIP_COUNT)
    texts = ["".join(drawn.choice(list(LETTERS), round(12 * s))) for s in seconds]
    return texts, [long[start : start + round(s * SAMPLE_RATE)] for start, s in zip(starts, seconds, strict=True)]


class StockTrainer(Trainer):
    """The Trainer that groups by length, with the padding that it has on a corpus of full size."""

    def __init__(self, lengths: list[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._lengths = lengths

    def _get_train_sampler(self, train_dataset: datasets.Dataset | None = None) -> Any:
        # Mended: the Trainer sorts 50 batches by length together, but of so few clips no more than a quarter.
        # Mended: it drops the column of lengths before it looks for it here, and so reads every clip to learn them.
        return get_length_grouped_indices(self._lengths, BATCH, mega_batch_mult=50)


def stock(lengths: list[int], data: datasets.Dataset, made: Wav2Vec2Processor, folder: Path) -> None:
    """An epoch of the stock Trainer, in fp32."""
    torch.set_num_threads(THREADS)
    vocab = made.tokenizer.get_vocab()
    model = new_model(model_config(INIT, None, {}, len(vocab)), None, vocab)
    model.freeze_feature_encoder()
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=1,
        per_device_train_batch_size=BATCH,
        # Named: with more than one, loss and gradients would not be divided by their number.
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
        data_collator=StockCollator(made),
        train_dataset=data,
        processing_class=made,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()


def ours(clips: pa.Table, shards: list[Path], made: Wav2Vec2Processor, folder: Path, **finetune: Any) -> None:
    """An epoch of `finetune.train`, with the settings `finetune` and otherwise our defaults."""
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
        }
    )
    steps = batch_stats(clips_of(clips), settings.plan).batches
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
    materials = Materials(clips, shards, made, None, plan, dev=[], dev_shards=[])
    train("made", settings, materials, work, folder / "board", torch.device("cpu"))


def bf16_against_fp32() -> float:
    """How many times faster this processor multiplies matrices in bf16: below 1 where it only imitates that."""
    torch.set_num_threads(THREADS)
    fastest = {}
    for dtype in (torch.float32, torch.bfloat16):
        one, other = torch.randn(2, 1024, 1024).to(dtype)
        fastest[dtype] = min(processor_seconds(lambda a=one, b=other: a @ b) for _ in range(10))
    return fastest[torch.float32] / fastest[torch.bfloat16]


def rows() -> Iterator[Row]:
    """Ours against stock, in rounds that take turns, so that what else the machine does hits all; the best counts."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        texts, recordings = drawn_clips()
        made = processor(vocabulary(texts), VocabSettings(init=INIT), base=None)
        clips, shards = stored(texts, recordings, folder)
        data = arrays(texts, recordings, made, folder / "arrays")
        ways: dict[str, Callable[[Path], None]] = {
            "stock": lambda at: stock(list(map(len, recordings)), data, made, at),
            "fp32": lambda at: ours(clips, shards, made, at, precision="fp32"),
            "defaults": lambda at: ours(clips, shards, made, at),
        }
        best = dict.fromkeys(ways, float("inf"))
        for number in range(ROUNDS):
            for way, epoch in ways.items():
                at = folder / f"{way}-{number}"
                best[way] = min(best[way], processor_seconds(lambda epoch=epoch, at=at: epoch(at)))
    yield Row("train, stock in fp32: audio a second", sum(map(len, recordings)) / SAMPLE_RATE / best["stock"], unit="s")
    yield Row("train, ours in fp32: faster than stock", best["stock"] / best["fp32"], FASTER_IN_FP32)
    bf16 = bf16_against_fp32()
    yield Row("train, this processor's bf16 products: faster than fp32", bf16)
    by_default = FASTER_BY_DEFAULT if bf16 > 1 else None
    yield Row("train, ours by default, in bf16: faster than stock", best["stock"] / best["defaults"], by_default)
