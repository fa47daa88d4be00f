"""The word times of `speechmill.transcribe`, compared with the true boundaries of the demo's clips.

Clips of the demo's test set are joined with pauses, so that it is known where the first word of each starts, and where
its last word ends. Run `make demo` first. The folder of its results is `results`, or the environment variable
`SPEECHMILL_RESULTS`.
"""

import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
import soundfile as sf
from numpy.typing import NDArray

from benchmarks.table import Row
from speechmill.core.flac import Int16Samples, decode_flac
from speechmill.core.schemas import SAMPLE_RATE
from speechmill.transcribe import Word, transcribe

RESULTS = Path(os.environ.get("SPEECHMILL_RESULTS", "results"))
CLIPS, SHORTEST_PAUSE, LONGEST_PAUSE = 120, 0.1, 1.2

# Samples of more than this share of the highest one are sound; espeak-ng adds silence around a sentence.
SOUND = 0.02

# A word further from its true place is another one.
TOLERANCE = 0.35

TARGET_SECONDS = 0.04


class Clip(NamedTuple):
    """The words of a clip and where its sound is, in seconds."""

    words: list[str]
    start: float
    end: float


def joined_clips() -> tuple[Int16Samples, list[Clip]]:
    """Return clips in a random order with pauses before them, and their places."""
    rng = np.random.default_rng(0)
    rows = pq.read_table(RESULTS / "data/demo_ru/test/shard-00000.parquet", columns=["audio", "sentence"]).to_pylist()
    parts: list[Int16Samples] = []
    clips: list[Clip] = []
    position = 0
    for row in rng.permutation(np.array(rows, dtype=object))[:CLIPS]:
        pause = np.zeros(int(rng.uniform(SHORTEST_PAUSE, LONGEST_PAUSE) * SAMPLE_RATE), np.int16)
        samples = decode_flac(row["audio"]["bytes"])
        sound = np.flatnonzero(np.abs(samples.astype(np.int32)) > SOUND * np.abs(samples.astype(np.int32)).max())
        start = position + len(pause)
        bounds = (start + sound[[0, -1]]) / SAMPLE_RATE
        clips.append(Clip(re.findall(r"\w+", row["sentence"].lower()), float(bounds[0]), float(bounds[1])))
        parts += [pause, samples]
        position = start + len(samples)
    return np.concatenate(parts), clips


def distances(words: list[Word], clips: list[Clip], first: bool) -> NDArray[np.float64]:
    """Return the distances of the first or last words of clips from their true start or end, in seconds."""
    found = []
    for clip in clips:
        text, time = (clip.words[0], clip.start) if first else (clip.words[-1], clip.end)
        near = [abs((word.start if first else word.end) - time) for word in words if word.text == text]
        if min(near, default=TOLERANCE) < TOLERANCE:
            found.append(min(near))
    return np.array(found)


def rows() -> Iterator[Row]:
    """Yield the shares of clips that were found, and the median distances of the boundaries."""
    samples, clips = joined_clips()
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        sf.write(file.name, samples, SAMPLE_RATE)
        words = transcribe(file.name, RESULTS / "runs/demo_ru/model", device="cpu").words
    for name, first in (("starts", True), ("ends", False)):
        found = distances(words, clips, first)
        median = float(np.median(found))
        yield Row(f"transcribe, {name} of sentences that were found", 100 * len(found) / len(clips), 95.0, "%")
        yield Row(f"transcribe, {name} of sentences: 40 ms over the median distance", TARGET_SECONDS / median, 1.0)
