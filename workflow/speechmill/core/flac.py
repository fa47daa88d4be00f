"""Encoding and decoding of the FLAC files in shards."""

import io
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import soundfile as sf
from numpy.typing import NDArray

from speechmill.core.schemas import SAMPLE_RATE

FloatSamples = NDArray[np.float32]
"""Samples between -1 and 1, shape (samples,)."""

Int16Samples = NDArray[np.int16]
"""16-bit samples, shape (samples,)."""

FULL_SCALE = np.float32(32768)
"""The 16-bit sample that stands for 1."""

# Higher levels take longer and save hardly any space; lower ones take 2 % more space and save only 2 % of the time.
_FLAC_LEVEL = 0.6


def to_floats(samples: Int16Samples) -> FloatSamples:
    """Return 16-bit samples as floats between -1 and 1."""
    floats: FloatSamples = samples.astype(np.float32) / FULL_SCALE
    return floats


def encode_flac(samples: Int16Samples) -> bytes:
    """Return samples at 16 kHz as the bytes of a 16-bit mono FLAC file."""
    buffer = io.BytesIO()
    sf.write(buffer, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16", compression_level=_FLAC_LEVEL)
    return buffer.getvalue()


def decode_flac(encoded: bytes) -> Int16Samples:
    """Return the samples of a FLAC file from a shard."""
    samples, _ = sf.read(io.BytesIO(encoded), dtype="int16")
    return np.asarray(samples, dtype=np.int16)


def decode_spans(encoded: Any, spans: Iterable[tuple[int, int]]) -> Iterator[Int16Samples]:
    """Yield the samples of each (start, stop) span of the open audio file `encoded`.

    Spans are decoded one at a time, so that a long file is never in memory completely.
    """
    with sf.SoundFile(encoded) as file:
        for start, stop in spans:
            file.seek(start)
            yield np.asarray(file.read(stop - start, dtype="int16"), dtype=np.int16)
