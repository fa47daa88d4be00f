"""The speed of loading batches, compared with the CTC example of transformers, and the padding of their samplers.

The example (`run_speech_recognition_ctc.py`) stores normalised float arrays with `map`, and a collator pads them; the
time for writing the arrays does not count. Processor time is compared.
"""

import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader
from transformers.trainer_pt_utils import get_length_grouped_indices

from benchmarks.clock import processor_seconds
from benchmarks.stock import ROW_GROUP, StockCollator, feature_dataset, store_clips
from benchmarks.table import Row
from speechmill.config.plan import Batch, PlanConfig
from speechmill.core.flac import Int16Samples
from speechmill.core.schemas import SAMPLE_RATE
from speechmill.demo.layouts.corpus import LANGUAGES, MEN, WOMEN, Clip, Speaker
from speechmill.demo.speak import speak
from speechmill.model.batching import Clips, PlannedBatches, clips_from_table, epoch_batches
from speechmill.model.clip_reader import ClipReader, Collator
from speechmill.text.vocab import VocabSettings, processor, vocabulary

COUNT, ROUNDS, BATCH = 192, 4, 16
FASTER_THAN_STOCK = 3.0
# The mean of Common Voice 8.0 ru is 5.2 s; with this spread, random batches of 16 have as much padding as there.
LENGTHS, MEAN_SECONDS, SPREAD, LONGEST = 40_000, 5.2, 0.35, 12
# About the largest batch of XLS-R 1B in 80 GB.
BATCH_SECONDS = 320.0
FULLER_THAN_LENGTH_GROUPED = 2.0

Batches = list[NDArray[np.int64]]


def synthesise(number: int) -> tuple[str, Int16Samples]:
    """Return the text and samples of a sentence of about 5 s; the speed of FLAC depends on the signal."""
    rng = random.Random(number)
    text = " ".join(rng.choices(LANGUAGES["ru"].words, k=rng.randint(10, 18)))
    variant = (WOMEN + MEN)[number % len(WOMEN + MEN)]
    samples = speak(Clip(Speaker(variant, f"ru+{variant.name}", "", 50, 150), text, 50, 150), SAMPLE_RATE)
    return text, np.asarray(0.9 * 32767 * samples, dtype=np.int16)


def stock_loader(data: datasets.Dataset, batches: Batches, processor: Any) -> DataLoader[Any]:
    """Return a loader of these batches with the collator of the example."""
    return DataLoader(data, batch_sampler=[batch.tolist() for batch in batches], collate_fn=StockCollator(processor))


def identical(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Return whether two batches have bit-identical features and labels."""
    return all(torch.equal(one[key], other[key]) for key in ("input_values", "attention_mask", "labels"))


def loaders() -> tuple[float, float]:
    """Return the speed relative to the example, and the share of bit-identical batches."""
    texts, recordings = map(list, zip(*(synthesise(i) for i in range(COUNT)), strict=True))
    plan = PlanConfig(epochs=1, batch=Batch(clips=BATCH), save_steps=1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clips, shards = store_clips(texts, recordings, folder)
        letters = processor(
            vocabulary(texts), VocabSettings(init={"model_type": "wav2vec2", "feat_extract_norm": "layer"}), base=None
        )
        batches = epoch_batches(clips_from_table(clips), plan, 0)
        stock = stock_loader(feature_dataset(texts, recordings, letters, folder / "arrays"), batches, letters)

        def loader() -> DataLoader[Any]:
            # A new reader in each round, so that no row group is cached.
            sampler = PlannedBatches(clips_from_table(clips), plan, len(batches))
            return DataLoader(ClipReader(clips, shards), batch_sampler=sampler, collate_fn=Collator(letters))

        same = [identical(one, other) for one, other in zip(loader(), stock, strict=True)]
        fastest = {"speechmill": float("inf"), "stock": float("inf")}
        for _ in range(ROUNDS):
            fastest["speechmill"] = min(fastest["speechmill"], processor_seconds(lambda: list(loader())))
            fastest["stock"] = min(fastest["stock"], processor_seconds(lambda: list(stock)))
    return fastest["stock"] / fastest["speechmill"], sum(same) / len(same)


def lengths() -> NDArray[np.int64]:
    """Return clip lengths in samples, log-normal like those of Common Voice."""
    seconds = np.random.default_rng(0).lognormal(np.log(MEAN_SECONDS) - SPREAD**2 / 2, SPREAD, LENGTHS).clip(1, LONGEST)
    return np.asarray(seconds * SAMPLE_RATE, dtype=np.int64)


def padding_and_fill(batches: Batches, samples: NDArray[np.int64]) -> tuple[float, float]:
    """Return the share of padding, and the mean padded size of the batches relative to the largest."""
    padded = np.array([samples[batch].max() * len(batch) for batch in batches])
    return 1 - samples.sum() / padded.sum(), padded.mean() / padded.max()


def samplers() -> dict[str, Batches]:
    """Return the batches of an epoch by sampler, those of transformers first."""
    clips = Clips(lengths(), np.arange(LENGTHS) // ROW_GROUP)
    generator = torch.Generator().manual_seed(0)
    grouped = get_length_grouped_indices(clips.lengths.tolist(), BATCH, generator=generator)

    def planned(**batch: Any) -> Batches:
        return epoch_batches(clips, PlanConfig(epochs=1, batch=Batch(**batch), save_steps=1), 0)

    return {
        "random": list(torch.randperm(LENGTHS, generator=generator).numpy().reshape(-1, BATCH)),
        "length-grouped": list(np.array(grouped).reshape(-1, BATCH)),
        "speechmill, clips": planned(clips=BATCH),
        "speechmill, clips by length": planned(clips=BATCH, by_length=True),
        "speechmill, seconds": planned(seconds=BATCH_SECONDS),
    }


def rows() -> Iterator[Row]:
    """Yield the speed of the loader, then the padding and fill of each sampler."""
    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    faster, same = loaders()
    yield Row("loader: faster per clip than stock", faster, FASTER_THAN_STOCK)
    yield Row("loader: batches bit-identical to stock", 100 * same, 100, "%")
    full = {}
    for name, batches in samplers().items():
        padding, full[name] = padding_and_fill(batches, lengths())
        yield Row(f"batches, {name}: padding", 100 * padding, unit="%")
        yield Row(f"batches, {name}: mean over largest in seconds", 100 * full[name], unit="%")
    fuller = full["speechmill, seconds"] / full["length-grouped"]
    yield Row("batches by seconds: fuller than length-grouped", fuller, FULLER_THAN_LENGTH_GROUPED)
