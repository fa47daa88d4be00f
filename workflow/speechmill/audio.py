"""Audio of any kind to 16 kHz mono samples, and what can be measured on them."""

import io
import re
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import numpy as np
import soundfile as sf
import soxr
from numpy.typing import NDArray

from speechmill.command import SpeechmillError
from speechmill.containers import bare_flac, inspect
from speechmill.flac import FloatSamples, Int16Samples, encode_flac
from speechmill.tables import SAMPLE_RATE

Reason = Literal["unreadable", "truncated", "empty"]

# In all channels together, and after resampling: 70 minutes of mono at 16 kHz, 23 at 48 kHz, 12 of stereo. 256 MiB as
# 32-bit floats; with all that is made of them, a job takes little more than 1 GiB whatever a small file expands to.
_MOST_SAMPLES = 1 << 26

# What anyone records speech at lies far within; outside, resampling takes time and memory without end.
_LOWEST_RATE, _HIGHEST_RATE = 1_000, 1_000_000

# A program that has worked for so long on one clip hangs.
_MOST_SECONDS = 120

# Formats without a header, or whose header SoX does not know, for which it needs the file's extension. Not all that
# it knows: it would open what a playlist names.
_SOX_EXTENSIONS = {".al", ".gsm", ".mp3", ".ul", ".vox"}

# Not all that ffmpeg knows: it would open what a playlist or a script names.
_FFMPEG_OPENS = (
    "-protocol_whitelist",
    "file",
    "-format_whitelist",
    "aac,ac3,aiff,amr,ape,asf,au,avi,caf,dts,eac3,flac,flv,matroska,mov,mp3,mpeg,mpegts,nistsphere,ogg,rm,shn,tta,voc,"
    "w64,wav,wv",
)


class UnreadableAudioError(Exception):
    """Bytes that are not whole audio, or hold no samples; the message says why, `reason` says it in one word."""

    def __init__(self, message: str, reason: Reason = "unreadable") -> None:
        super().__init__(message)
        self.reason = reason


def decode_to_16k(encoded: bytes, resampler: str, name: str = "") -> Int16Samples:
    """Decode a file's bytes, mix its channels to one by their mean, and resample to 16 kHz, 16-bit.

    What libsndfile cannot read is given to the `sox` program, then to the `ffmpeg` program, if there is one. The
    content decides what a file is; the extension of its `name` counts only for SoX, where the content says nothing.
    `resampler` is `soxr` (HQ), `sox` (the `rate` effect, at its default, high quality) or `torchaudio`.

    Raises:
        UnreadableAudioError: No decoder can read the file, it holds more than 2**26 samples (in all channels together,
            or at 16 kHz), values that are not finite, or a rate outside 1 kHz to 1 MHz (`unreadable`); it is cut short
            (`truncated`); it holds no samples (`empty`). The same file gives the same message each time.
        SpeechmillError: A program was killed from without, which says nothing of the file.
    """
    samples, rate = _decode(encoded, name)
    if samples.dtype == np.int16:
        return samples
    if not np.isfinite(samples).all():
        raise UnreadableAudioError("the samples are not all finite numbers")
    resampled = samples if rate == SAMPLE_RATE else _RESAMPLERS[resampler](samples, rate)
    if not np.isfinite(resampled).all():
        raise UnreadableAudioError("the samples are too large to be resampled")
    if len(resampled) == 0:
        raise UnreadableAudioError("the file is shorter than a sample at 16 kHz", "empty")
    return _to_int16(resampled)


def stored_flac(samples: Int16Samples, original: bytes) -> bytes:
    """Samples as a 16-bit mono FLAC file at 16 kHz.

    If the file that they were decoded from, `original`, is such a file already, its frames are kept as they are, which
    halves the time that it takes; its tags, pictures and padding are left out.
    """
    if parts := bare_flac(original):
        information, frames = parts
        # RFC 9639, section 8.2: the rate in 20 bits, channels less one in 3, bits less one in 5, samples in 36.
        if int.from_bytes(information[10:18]) == SAMPLE_RATE << 44 | 15 << 36 | len(samples):
            return b"fLaC\x80\0\0\x22" + information + frames
    return encode_flac(samples)


def silence(samples: Int16Samples) -> float:
    """The share of frames of 20 ms whose RMS is below -60 dB of full scale (32768), in one sample or more.

    What is left after the last whole frame does not count, except in a clip that is shorter than one.
    """
    length = min(SAMPLE_RATE // 50, len(samples))
    frames = samples[: len(samples) // length * length].reshape(-1, length)
    energies = np.einsum("ij,ij->i", frames, frames, dtype=np.float32, casting="unsafe")
    return float(np.mean(energies < length * (32768 * 10 ** (-60 / 20)) ** 2))


def clipping(samples: Int16Samples) -> float:
    """The share of samples at full scale, 32767, -32767 or -32768, in one sample or more."""
    return np.count_nonzero((samples == 32767) | (samples <= -32767)) / len(samples)


class _Decoded(NamedTuple):
    samples: NDArray[Any]
    """Mono: 16-bit if that is what a file at 16 kHz holds, else float32."""
    rate: int


class _NotReadError(Exception):
    """A decoder could not read a file: why, and how many samples it found before it gave up."""

    def __init__(self, why: str, found: int | None = None) -> None:
        super().__init__(why)
        self.found = found


def _decode(encoded: bytes, name: str) -> _Decoded:
    if not encoded:
        raise UnreadableAudioError("the file is empty", "empty")
    structure = inspect(encoded)
    if structure.cut_short:
        raise UnreadableAudioError(f"the file is cut short {structure.cut_short}", "truncated")
    if (at := structure.open_size) is not None:
        encoded = encoded[:at] + (len(encoded) - at - 4).to_bytes(4, "little") + encoded[at + 4 :]
    failures: list[str] = []
    found: list[int] = []
    for decoder, decode in _DECODERS.items():
        try:
            if structure.chained and decoder != "ffmpeg":
                raise _NotReadError("reads only the first of the streams that are chained here")
            decoded = decode(encoded, name)
            if len(decoded.samples) < structure.least_samples:
                raise _NotReadError("finds only a part", len(decoded.samples))
        except _NotReadError as error:
            failures.append(f"{decoder}: {error}")
            found += [] if error.found is None else [error.found]
        else:
            return decoded
    if found and max(found) < structure.least_samples:
        raise UnreadableAudioError(
            f"the file is cut short or damaged: {max(found)} of its {structure.least_samples} samples can be read",
            "truncated",
        )
    raise UnreadableAudioError("; ".join(failures))


def _with_libsndfile(encoded: bytes, name: str) -> _Decoded:
    if encoded.startswith((b"fLaC", b"RIFF")):
        decoded = _read(io.BytesIO(encoded))
    else:
        # A file, because libsndfile reads MP3 and Ogg in small bites, and each would be a call back into Python.
        with tempfile.TemporaryFile(buffering=0) as file:
            file.write(encoded)
            file.seek(0)
            decoded = _read(file.fileno())
    if len(decoded.samples) == 0:
        raise UnreadableAudioError("the file holds no samples", "empty")
    return decoded


def _with_sox_program(encoded: bytes, name: str) -> _Decoded:
    extension = Path(name).suffix.lower()
    return _with_program(
        "sox",
        encoded,
        extension if extension in _SOX_EXTENSIONS else "",
        ["-V1", "-D"],
        ["-t", "au", "-e", "floating-point", "-b", "32", "-"],
    )


def _with_ffmpeg(encoded: bytes, name: str) -> _Decoded:
    return _with_program(
        "ffmpeg",
        encoded,
        "",
        # -xerror: a packet that cannot be decoded is an error, and not left out.
        ["-nostdin", "-hide_banner", "-loglevel", "error", "-xerror", *_FFMPEG_OPENS, "-i"],
        ["-map", "0:a:0", "-c:a", "pcm_f32be", "-f", "au", "-"],
    )


def _with_program(program: str, encoded: bytes, extension: str, before: list[str], after: list[str]) -> _Decoded:
    """Let a program turn a temporary file into AU, a format whose header can leave the length open."""
    if shutil.which(program) is None:
        raise _NotReadError(f"{program} is not installed")
    with tempfile.NamedTemporaryFile(suffix=extension) as file, tempfile.TemporaryFile() as complaints:
        file.write(encoded)
        file.flush()
        status, out, is_stopped = _output([program, *before, file.name, *after], complaints)
        complaints.seek(0)
        # The first line says most; without the file's name and ffmpeg's addresses it is the same each time.
        complaint = complaints.readline(1000).decode(errors="replace").strip()
    complaint = complaint.replace(f" `{file.name}'", "").replace(f"{file.name}: ", "")
    complaint = re.sub(r"^(sox FAIL \w+: |\[\S+ @ 0x[0-9a-f]+\] )", "", complaint)
    if is_stopped:
        raise _NotReadError(f"gives more than {_MOST_SAMPLES} samples, or takes longer than {_MOST_SECONDS} seconds")
    if status == -signal.SIGKILL:
        raise SpeechmillError(f"{program} was killed, perhaps for want of memory; run snakemake again")
    # ffmpeg writes what it is unsure of to where its errors go; SoX ends well after some of its errors.
    failed = status != 0 or (program == "sox" and complaint)
    try:
        decoded = _read(io.BytesIO(out))
    except _NotReadError:
        raise _NotReadError(complaint or "no samples") from None
    if failed or len(decoded.samples) == 0:
        raise _NotReadError(complaint or "no samples", len(decoded.samples))
    return decoded


def _output(command: list[str], errors: BinaryIO) -> tuple[int, bytes, bool]:
    """The status and the output of a program, and whether it was stopped because it gave or took too much."""
    most = 4 * _MOST_SAMPLES
    stopped = threading.Event()
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors) as process:
        assert process.stdout is not None

        def stop() -> None:
            stopped.set()
            process.kill()

        timer = threading.Timer(_MOST_SECONDS, stop)
        timer.start()
        try:
            out = process.stdout.read(most + 1)
            if len(out) > most:
                stop()
            return process.wait(), out, stopped.is_set()
        finally:
            timer.cancel()


def _read(file: int | BinaryIO) -> _Decoded:
    try:
        with sf.SoundFile(file, closefd=False) as audio:
            if audio.frames == np.iinfo(np.int64).max:
                raise _NotReadError("the header does not say how many samples there are")
            if not _LOWEST_RATE <= audio.samplerate <= _HIGHEST_RATE:
                raise UnreadableAudioError(f"a sample rate of {audio.samplerate} Hz is none of audio")
            if audio.frames * max(audio.channels, SAMPLE_RATE / audio.samplerate) > _MOST_SAMPLES:
                raise UnreadableAudioError(f"the file holds more than {_MOST_SAMPLES} samples")
            as_stored = (audio.samplerate, audio.channels, audio.subtype) == (SAMPLE_RATE, 1, "PCM_16")
            samples = audio.read(audio.frames, dtype="int16" if as_stored else "float32")
            return _Decoded(_mean_of_channels(samples), audio.samplerate)
    except sf.LibsndfileError as error:
        # Without its prefix, which holds an address in memory.
        raise _NotReadError(error.error_string.rstrip(".")) from error


def _mean_of_channels(samples: NDArray[Any]) -> NDArray[Any]:
    if samples.ndim == 1:
        return samples
    # Channel by channel: a mean over the last axis takes many times as long where that has few elements.
    mono = samples[:, 0].copy()
    for channel in range(1, samples.shape[1]):
        mono += samples[:, channel]
    mono /= samples.shape[1]
    return mono


_DECODERS: dict[str, Callable[[bytes, str], _Decoded]] = {
    "libsndfile": _with_libsndfile,
    "sox": _with_sox_program,
    "ffmpeg": _with_ffmpeg,
}


def _to_int16(samples: FloatSamples) -> Int16Samples:
    scaled = np.clip(samples, -1, np.float32(32767 / 32768))
    scaled *= 32768
    return np.rint(scaled, out=scaled).astype(np.int16)


def _with_soxr(samples: FloatSamples, rate: int) -> FloatSamples:
    return np.asarray(soxr.resample(samples, rate, SAMPLE_RATE, quality="HQ"), dtype=np.float32)


def _with_sox(samples: FloatSamples, rate: int) -> FloatSamples:
    import sox

    transformer = sox.Transformer()
    # Without dither, so that the same input gives the same bytes.
    transformer.set_globals(dither=False, verbosity=1)
    # The same as the `rate` effect, of which pysox warns once a clip that it may not last.
    transformer.set_output_format(rate=SAMPLE_RATE)
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
