"""inputs: write what the other steps read, XLS-R 1B with random weights as a base model, and clips of noise."""

import time
from pathlib import Path

import numpy as np
import torch
from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

from gpu.clips import RATE, clip_lengths
from gpu.models import SMALL, XLS_R_1B
from gpu.step import Step
from material import recording, store
from speechmill.core.schemas import CLIPS
from speechmill.core.tables import write_table
from speechmill.text.vocab import VocabSettings, processor, vocabulary

# The texts of both published recipes: letters, and syllables of which there are about 1,200 in Korean texts; and how
# many a speaker says in a second.
_ALPHABETS = {
    "ru": ([chr(ord("а") + i) for i in range(32)], 12),
    "ko": ([chr(ord("가") + 9 * i) for i in range(1200)], 5),
}
_SECONDS, _SMALL_SECONDS = 2100.0, 12.0


def base(step: Step) -> Path:
    """Return the folder of the base model."""
    return step.work / "base"


def clips(step: Step, language: str) -> Path:
    """Return the table of clips with the texts of a language."""
    return step.work / language / "clips.parquet"


def vocab(step: Step, language: str) -> Path:
    """Return the folder of the processor for a language."""
    return step.work / language / "vocab"


def shards(step: Step) -> list[Path]:
    """Return the shards of all clips."""
    return sorted((step.work / "shards").rglob("*.parquet"))


def _write_base(step: Step) -> None:
    torch.manual_seed(0)
    # A billion random numbers take the GPU less than a second, and a CPU half a minute.
    with step.device:
        model = Wav2Vec2Model(Wav2Vec2Config(**(SMALL if step.small else XLS_R_1B)))
    model.save_pretrained(base(step))
    Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(base(step))


def _write_clips(step: Step) -> None:
    lengths = clip_lengths(_SMALL_SECONDS if step.small else _SECONDS)
    noise, rng = recording(60), np.random.default_rng(0)
    starts = [len(noise) - n for n in lengths]
    recordings = [noise[start : start + n] for n, start in zip(lengths, rng.integers(starts), strict=True)]
    rows, _ = store(step.work / "shards", recordings, [""] * len(lengths))
    for language, (letters, per_second) in _ALPHABETS.items():
        texts = ["".join(rng.choice(letters, per_second * n // RATE)) for n in lengths]
        write_table([row | {"text": text} for row, text in zip(rows, texts, strict=True)], CLIPS, clips(step, language))
        made = processor(vocabulary(["".join(letters)]), VocabSettings(init=None), base(step))
        made.save_pretrained(vocab(step, language))


def main(step: Step) -> None:
    """Write them, and record the time that it takes."""
    for name, write in {"base model": _write_base, "clips": _write_clips}.items():
        started = time.monotonic()
        write(step)
        step.measured(name, seconds=time.monotonic() - started)
