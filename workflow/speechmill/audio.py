"""Audio of any kind to 16 kHz mono samples, and samples to FLAC and back."""

import io
import tempfile
from collections.abc import Callable

import numpy as np
import soundfile as sf
import soxr
from numpy.typing import NDArray

from speechmill.tables import SAMPLE_RATE

FloatSamples = NDArray[np.float32]
"""Samples from -1 to 1, shape (samples,)."""

Int16Samples = NDArray[np.int16]
"""16-bit samples, shape (samples,)."""

# Above this level FLAC takes longer and hardly less space.
_FLAC_LEVEL = 0.6


class UnreadableAudioError(Exception):
    """Bytes that are not audio, or hold no samples; the message says why."""


def decode_to_16k(encoded: bytes, resampler: str) -> Int16Samples:
    """Decode a file's bytes, mix its channels to one by their mean, and resample to 16 kHz, 16-bit.

    `resampler` is `soxr` (HQ), `sox` (the `rate` effect, at its default, high quality) or `torchaudio`.
    Raises UnreadableAudioError.
    """
    try:
        samples, rate = sf.read(io.BytesIO(encoded), dtype="float32", always_2d=True)
    except sf.LibsndfileError as error:
        # Without its prefix, which holds an address in memory: the same file gives the same reason.
        raise UnreadableAudioError(error.error_string) from error
    except RuntimeError as error:
        raise UnreadableAudioError(str(error)) from error
    if len(samples) == 0:
        raise UnreadableAudioError("the file holds no samples")
    if not np.isfinite(samples).all():
        raise UnreadableAudioError("the samples are not all finite numbers")
    if (missing := _missing_from_wav(encoded)) > 0:
        raise UnreadableAudioError(f"the file is cut short by {missing} bytes")
    mono = np.ascontiguousarray(samples.mean(axis=1, dtype=np.float32))
    resampled = _to_int16(mono if rate == SAMPLE_RATE else _RESAMPLERS[resampler](mono, rate))
    if len(resampled) == 0:
        raise UnreadableAudioError("the file is shorter than a sample at 16 kHz")
    return resampled


def encode_flac(samples: Int16Samples) -> bytes:
    """Samples as a 16-bit mono FLAC file at 16 kHz."""
    buffer = io.BytesIO()
    sf.write(buffer, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16", compression_level=_FLAC_LEVEL)
    return buffer.getvalue()


def decode_flac(encoded: bytes) -> Int16Samples:
    """The samples of a FLAC file that `encode_flac` made."""
    samples, _ = sf.read(io.BytesIO(encoded), dtype="int16")
    return np.asarray(samples, dtype=np.int16)


def _missing_from_wav(encoded: bytes) -> int:
    """The bytes that a WAV file's header promises beyond its end; libsndfile reads such a file without a word."""
    at = 12
    while encoded[:4] == b"RIFF" and at + 8 <= len(encoded):
        size = int.from_bytes(encoded[at + 4 : at + 8], "little")
        if encoded[at : at + 4] == b"data":
            # A program that wrote to a pipe promised the most that fits, give or take a header.
            return at + 8 + size - len(encoded) if size < 0x7FFFF000 else 0
        at += 8 + size + size % 2
    return 0


def _to_int16(samples: FloatSamples) -> Int16Samples:
    return np.asarray(np.clip(np.rint(samples * 32768.0), -32768, 32767), dtype=np.int16)


def _with_soxr(samples: FloatSamples, rate: int) -> FloatSamples:
    return np.asarray(soxr.resample(samples, rate, SAMPLE_RATE, quality="HQ"), dtype=np.float32)


def _with_sox(samples: FloatSamples, rate: int) -> FloatSamples:
    import sox

    transformer = sox.Transformer()
    # Without dither, so that the same input gives the same bytes.
    transformer.set_globals(dither=False, verbosity=1)
    transformer.rate(SAMPLE_RATE)
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        sf.write(file.name, samples, rate, subtype="FLOAT")
        out = transformer.build_array(input_filepath=file.name)
    return np.asarray(out, dtype=np.float32) / (32768.0 if out.dtype == np.int16 else 1.0)


def _with_torchaudio(samples: FloatSamples, rate: int) -> FloatSamples:
    import torch
    import torchaudio.functional

    # A wider filter than the default, which comes only to 34 dB of SoX.
    resampled = torchaudio.functional.resample(
        torch.from_numpy(samples),
        rate,
        SAMPLE_RATE,
        lowpass_filter_width=64,
        rolloff=0.9475937167399596,
        resampling_method="sinc_interp_kaiser",
        beta=14.769656459379492,
    )
    return np.asarray(resampled.numpy(), dtype=np.float32)


_RESAMPLERS: dict[str, Callable[[FloatSamples, int], FloatSamples]] = {
    "soxr": _with_soxr,
    "sox": _with_sox,
    "torchaudio": _with_torchaudio,
}
