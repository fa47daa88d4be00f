"""How fast clips become batches, against the stock way, and what batches waste, against the stock samplers.

Stock is what transformers' example for CTC does (`run_speech_recognition_ctc.py`): `map` stores normalised arrays of
floats, and a collator pads them. Its time for making the arrays is not counted. Processor time is compared.
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
from benchmarks.stock import ROW_GROUP, StockCollator, arrays, stored
from benchmarks.table import Row
from speechmill.config.plan import Batch, PlanConfig
from speechmill.core.flac import Int16Samples
from speechmill.core.tables import SAMPLE_RATE
from speechmill.demo.layouts.corpus import LANGUAGES, MEN, WOMEN, Clip, Speaker
from speechmill.demo.speak import speak
from speechmill.model.batching import Clips, PlannedBatches, clips_of, epoch_batches
from speechmill.model.clip_reader import ClipReader, Collator
from speechmill.text.vocab import VocabSettings, processor, vocabulary

COUNT, ROUNDS, BATCH = 192, 4, 16
FASTER_THAN_STOCK = 3.0
# Of Common Voice 8.0 ru the mean is 5.2 s; the spread is such that random batches of 16 waste what they do there.
LENGTHS, MEAN_SECONDS, SPREAD, LONGEST = 40_000, 5.2, 0.35, 12
# About what 80 GB hold of XLS-R 1B.
BATCH_SECONDS = 320.0
FULLER_THAN_LENGTH_GROUPED = 2.0

Batches = list[NDArray[np.int64]]


def spoken(number: int) -> tuple[str, Int16Samples]:
    """A sentence of about five seconds: FLAC takes its time by what it is given."""
    drawn = random.Random(number)
    text = " ".join(drawn.choices(LANGUAGES["ru"].words, k=drawn.randint(10, 18)))
    variant = (WOMEN + MEN)[number % len(WOMEN + MEN)]
    samples = speak(Clip(Speaker(variant, f"ru+{variant.name}", "", 50, 150), text, 50, 150), SAMPLE_RATE)
    return text, np.asarray(0.9 * 32767 * samples, dtype=np.int16)


def stock_loader(data: datasets.Dataset, batches: Batches, made: Any) -> DataLoader[Any]:
    """The example's collator on these batches."""
    return DataLoader(data, batch_sampler=[batch.tolist() for batch in batches], collate_fn=StockCollator(made))


def identical(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two batches have the same features and labels, to the bit."""
    return all(torch.equal(one[key], other[key]) for key in ("input_values", "attention_mask", "labels"))


def loaders() -> tuple[float, float]:
    """How many times faster a clip is with ours than with the stock way; the share of batches that are identical."""
    texts, recordings = map(list, zip(*(spoken(i) for i in range(COUNT)), strict=True))
    plan = PlanConfig(epochs=1, batch=Batch(clips=BATCH), save_steps=1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clips, shards = stored(texts, recordings, folder)
        made = processor(vocabulary(texts), VocabSettings(init={"feat_extract_norm": "layer"}), base=None)
        batches = epoch_batches(clips_of(clips), plan, 0)
        theirs = stock_loader(arrays(texts, recordings, made, folder / "arrays"), batches, made)

        def ours() -> DataLoader[Any]:
            # Anew each time, so that no row group has been read.
            sampler = PlannedBatches(clips_of(clips), plan, len(batches))
            return DataLoader(ClipReader(clips, shards), batch_sampler=sampler, collate_fn=Collator(made))

        same = [identical(one, other) for one, other in zip(ours(), theirs, strict=True)]
        fastest = {"ours": float("inf"), "theirs": float("inf")}
        for _ in range(ROUNDS):
            fastest["ours"] = min(fastest["ours"], processor_seconds(lambda: list(ours())))
            fastest["theirs"] = min(fastest["theirs"], processor_seconds(lambda: list(theirs)))
    return fastest["theirs"] / fastest["ours"], sum(same) / len(same)


def lengths() -> NDArray[np.int64]:
    """The samples of clips as Common Voice has them, log-normal."""
    seconds = np.random.default_rng(0).lognormal(np.log(MEAN_SECONDS) - SPREAD**2 / 2, SPREAD, LENGTHS).clip(1, LONGEST)
    return np.asarray(seconds * SAMPLE_RATE, dtype=np.int64)


def waste(batches: Batches, samples: NDArray[np.int64]) -> tuple[float, float]:
    """The share of the batches that is padding; their mean padded seconds over those of the largest."""
    padded = np.array([samples[batch].max() * len(batch) for batch in batches])
    return 1 - samples.sum() / padded.sum(), padded.mean() / padded.max()


def samplers() -> dict[str, Batches]:
    """An epoch of each sampler's batches, stock ones first."""
    clips = Clips(lengths(), np.arange(LENGTHS) // ROW_GROUP)
    generator = torch.Generator().manual_seed(0)
    grouped = get_length_grouped_indices(clips.lengths.tolist(), BATCH, generator=generator)

    def ours(**batch: Any) -> Batches:
        return epoch_batches(clips, PlanConfig(epochs=1, batch=Batch(**batch), save_steps=1), 0)

    return {
        "random": list(torch.randperm(LENGTHS, generator=generator).numpy().reshape(-1, BATCH)),
        "length-grouped": list(np.array(grouped).reshape(-1, BATCH)),
        "ours, clips": ours(clips=BATCH),
        "ours, clips by length": ours(clips=BATCH, by_length=True),
        "ours, seconds": ours(seconds=BATCH_SECONDS),
    }


def rows() -> Iterator[Row]:
    """The loaders, then what each sampler's batches waste."""
    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    faster, same = loaders()
    yield Row("loader: faster a clip than stock", faster, FASTER_THAN_STOCK)
    yield Row("loader: batches with the stock features, to the bit", 100 * same, 100, "%")
    full = {}
    for name, batches in samplers().items():
        padding, full[name] = waste(batches, lengths())
        yield Row(f"batches, {name}: padding", 100 * padding, unit="%")
        yield Row(f"batches, {name}: mean over largest in seconds", 100 * full[name], unit="%")
    fuller = full["ours, seconds"] / full["length-grouped"]
    yield Row("batches by seconds: fuller than length-grouped", fuller, FULLER_THAN_LENGTH_GROUPED)
