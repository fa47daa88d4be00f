"""Audio of any kind to 16 kHz mono samples, and what can be measured on them."""

import io
import itertools
import re
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import soundfile as sf
import soxr
from numpy.typing import NDArray

from speechmill.core.command import SpeechmillError
from speechmill.core.flac import FloatSamples, Int16Samples, encode_flac
from speechmill.core.tables import SAMPLE_RATE
from speechmill.corpus.containers import bare_flac, inspect

Reason = Literal["unreadable", "truncated", "empty"]

# 660 MiB as 16-bit samples at 16 kHz. All that comes before is made block by block, so that a job takes little more
# than that whatever a small file expands to.
_MOST_HOURS = 6

# In all channels together, 4 MiB as 32-bit floats: nearly every clip is one block.
_BLOCK = 1 << 20

# What `sox` and `torchaudio` resample as a whole: 70 minutes at 16 kHz, 23 at 48 kHz, 256 MiB as 32-bit floats.
_MOST_AT_ONCE = 1 << 26

# What anyone records speech at lies far within; outside, resampling takes time and memory without end.
_LOWEST_RATE, _HIGHEST_RATE = 1_000, 1_000_000

# A program that has worked for so long on one clip hangs; a long one is given another second for each 100 kB.
_MOST_SECONDS = 120
_BYTES_A_SECOND = 100_000

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
    `resampler` is `soxr` (HQ), `sox` (the `rate` effect, at its default, high quality) or `torchaudio`. Beside the
    samples, a block is held in memory, and with `sox` and `torchaudio` the whole before it is resampled.

    Raises:
        UnreadableAudioError: No decoder can read the file, it holds more than six hours (with `sox` and `torchaudio`,
            more than 2**26 samples of a rate other than 16 kHz), values that are not finite, or a rate outside 1 kHz
            to 1 MHz (`unreadable`); it is cut short (`truncated`); it holds no samples (`empty`). The same file gives
            the same message each time.
        SpeechmillError: A program was killed from without, which says nothing of the file.
    """
    if not encoded:
        raise UnreadableAudioError("the file is empty", "empty")
    structure = inspect(encoded)
    if structure.cut_short:
        raise UnreadableAudioError(f"the file is cut short {structure.cut_short}", "truncated")
    if (at := structure.open_size) is not None:
        encoded = encoded[:at] + (len(encoded) - at - 4).to_bytes(4, "little") + encoded[at + 4 :]
    failures: list[str] = []
    found: list[int] = []
    for decoder, opened in _DECODERS.items():
        try:
            if structure.chained and decoder != "ffmpeg":
                raise _NotReadError("reads only the first of the streams that are chained here")
            with opened(encoded, name) as stream:
                samples = _heard(stream, resampler)
            if stream.found == 0:
                raise UnreadableAudioError("the file holds no samples", "empty")
            if stream.found < structure.least_samples:
                raise _NotReadError("finds only a part", stream.found)
        except _NotReadError as error:
            failures.append(f"{decoder}: {error}")
            found += [] if error.found is None else [error.found]
        else:
            if len(samples) == 0:
                raise UnreadableAudioError("the file is shorter than a sample at 16 kHz", "empty")
            return samples
    if found and max(found) < structure.least_samples:
        raise UnreadableAudioError(
            f"the file is cut short or damaged: {max(found)} of its {structure.least_samples} samples can be read",
            "truncated",
        )
    raise UnreadableAudioError("; ".join(failures))


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
    blocks = (samples[i : i + _BLOCK] for i in range(0, len(samples), _BLOCK))
    return sum(np.count_nonzero((block == 32767) | (block <= -32767)) for block in blocks) / len(samples)


class _NotReadError(Exception):
    """A decoder could not read a file: why, and how many samples it found before it gave up."""

    def __init__(self, why: str, found: int | None = None) -> None:
        super().__init__(why)
        self.found = found


class _Stream:
    """An open file that is read once, from its start to its end."""

    def __init__(self, file: int | BinaryIO) -> None:
        try:
            audio = sf.SoundFile(file, closefd=False)
        except sf.LibsndfileError as error:
            raise _failed(error) from error
        if not _LOWEST_RATE <= audio.samplerate <= _HIGHEST_RATE:
            raise UnreadableAudioError(f"a sample rate of {audio.samplerate} Hz is none of audio")
        # It would go to where it is after each read, from where an MP3 decodes a hair differently.
        audio.seekable = lambda: False
        self._audio = audio
        self.rate: int = audio.samplerate
        self.frames: int = audio.frames
        """What the header promises."""
        self.found = 0
        """Samples a channel that were read."""
        self.as_stored = (audio.samplerate, audio.channels, audio.subtype) == (SAMPLE_RATE, 1, "PCM_16")
        """Whether blocks are 16-bit, as the file holds them at 16 kHz, and not float32."""

    def blocks(self) -> Iterator[NDArray[Any]]:
        """The samples, mixed to one channel."""
        dtype = "int16" if self.as_stored else "float32"
        block = max(1, _BLOCK // self._audio.channels)
        with self._audio:
            while (asked := min(block, self.frames - self.found)) > 0:
                try:
                    samples = self._audio.read(asked, dtype=dtype)
                except sf.LibsndfileError as error:
                    raise _failed(error) from error
                self.found += len(samples)
                yield _mean_of_channels(samples)
                if len(samples) < asked:
                    return


def _failed(error: sf.LibsndfileError) -> _NotReadError:
    # Without its prefix, which holds an address in memory.
    return _NotReadError(error.error_string.rstrip("."))


@contextmanager
def _with_libsndfile(encoded: bytes, name: str) -> Iterator[_Stream]:
    if encoded.startswith((b"fLaC", b"RIFF")):
        yield _of_known_length(_Stream(io.BytesIO(encoded)))
    else:
        # A file, because libsndfile reads MP3 and Ogg in small bites, and each would be a call back into Python.
        with tempfile.TemporaryFile(buffering=0) as file:
            file.write(encoded)
            file.seek(0)
            yield _of_known_length(_Stream(file.fileno()))


def _of_known_length(stream: _Stream) -> _Stream:
    if stream.frames == np.iinfo(np.int64).max:
        raise _NotReadError("the header does not say how many samples there are")
    if stream.frames > _MOST_HOURS * 3600 * stream.rate:
        raise _too_long()
    return stream


def _with_sox_program(encoded: bytes, name: str) -> AbstractContextManager[_Stream]:
    extension = Path(name).suffix.lower()
    return _with_program(
        "sox",
        encoded,
        extension if extension in _SOX_EXTENSIONS else "",
        ["-V1", "-D"],
        ["-t", "au", "-e", "floating-point", "-b", "32", "-"],
    )


def _with_ffmpeg(encoded: bytes, name: str) -> AbstractContextManager[_Stream]:
    return _with_program(
        "ffmpeg",
        encoded,
        "",
        # -xerror: a packet that cannot be decoded is an error, and not left out.
        ["-nostdin", "-hide_banner", "-loglevel", "error", "-xerror", *_FFMPEG_OPENS, "-i"],
        ["-map", "0:a:0", "-c:a", "pcm_f32be", "-f", "au", "-"],
    )


@contextmanager
def _with_program(
    program: str, encoded: bytes, extension: str, before: list[str], after: list[str]
) -> Iterator[_Stream]:
    """What a program makes of a temporary file, as it makes it: AU, which libsndfile reads from a pipe."""
    if shutil.which(program) is None:
        raise _NotReadError(f"{program} is not installed")
    seconds = _MOST_SECONDS + len(encoded) // _BYTES_A_SECOND
    with tempfile.NamedTemporaryFile(suffix=extension) as file, tempfile.TemporaryFile() as complaints:
        file.write(encoded)
        file.flush()
        stream = None
        with _running([program, *before, file.name, *after], complaints, seconds) as process:
            assert process.stdout is not None
            try:
                stream = _Stream(process.stdout.fileno())
            except _NotReadError:
                process.stdout.close()
            else:
                yield stream
                # More than its header promised: one that cannot write to its end fails.
                while process.stdout.read(1 << 16):
                    pass
            status = process.wait()
        complaints.seek(0)
        # The first line says most; without the file's name and ffmpeg's addresses it is the same each time.
        complaint = complaints.readline(1000).decode(errors="replace").strip()
    complaint = complaint.replace(f" `{file.name}'", "").replace(f"{file.name}: ", "")
    complaint = re.sub(r"^(sox FAIL \w+: |(\[\S+ @ 0x[0-9a-f]+\] )+)", "", complaint)
    if status == -signal.SIGKILL:
        raise SpeechmillError(f"{program} was killed, perhaps for want of memory; run snakemake again")
    # ffmpeg writes what it is unsure of to where its errors go; SoX ends well after some of its errors.
    failed = status != 0 or (program == "sox" and complaint)
    if stream is None:
        raise _NotReadError(complaint or "no samples")
    if failed or stream.found == 0:
        raise _NotReadError(complaint or "no samples", stream.found)


@contextmanager
def _running(command: list[str], errors: BinaryIO, seconds: float) -> Iterator[subprocess.Popen[bytes]]:
    """A program, stopped at the end of the block, and with a _NotReadError after `seconds`."""
    stopped = threading.Event()
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors) as process:

        def stop() -> None:
            stopped.set()
            process.kill()

        timer = threading.Timer(seconds, stop)
        timer.start()
        try:
            yield process
        finally:
            timer.cancel()
            process.kill()
    if stopped.is_set():
        raise _NotReadError(f"takes longer than {seconds} seconds")


def _heard(stream: _Stream, resampler: str) -> Int16Samples:
    blocks = stream.blocks()
    if not stream.as_stored:
        blocks = _finite(blocks, "the samples are not all finite numbers")
        if stream.rate != SAMPLE_RATE:
            resampled = _RESAMPLERS[resampler](blocks, stream.rate)
            blocks = _finite(resampled, "the samples are too large to be resampled")
        blocks = map(_to_int16, blocks)
    return _joined(blocks, np.dtype(np.int16), _MOST_HOURS * 3600 * SAMPLE_RATE, _too_long())


def _finite(blocks: Iterable[FloatSamples], why: str) -> Iterator[FloatSamples]:
    for block in blocks:
        if not np.isfinite(block).all():
            raise UnreadableAudioError(why)
        yield block


def _joined(blocks: Iterable[NDArray[Any]], dtype: np.dtype[Any], most: float, error: Exception) -> NDArray[Any]:
    """Blocks end to end. Raises `error` where they have more than `most` samples."""
    # It grows where it is; a list of blocks would take the memory twice when they are joined.
    joined = bytearray()
    for block in blocks:
        joined += block.data
        if len(joined) > most * dtype.itemsize:
            raise error
    return np.frombuffer(joined, dtype)


def _too_long() -> UnreadableAudioError:
    return UnreadableAudioError(f"the file holds more than {_MOST_HOURS} hours")


def _mean_of_channels(samples: NDArray[Any]) -> NDArray[Any]:
    if samples.ndim == 1:
        return samples
    # Channel by channel: a mean over the last axis takes many times as long where that has few elements.
    mono = samples[:, 0].copy()
    for channel in range(1, samples.shape[1]):
        mono += samples[:, channel]
    mono /= samples.shape[1]
    return mono


_DECODERS: dict[str, Callable[[bytes, str], AbstractContextManager[_Stream]]] = {
    "libsndfile": _with_libsndfile,
    "sox": _with_sox_program,
    "ffmpeg": _with_ffmpeg,
}


def _to_int16(samples: FloatSamples) -> Int16Samples:
    scaled = np.clip(samples, -1, np.float32(32767 / 32768))
    scaled *= 32768
    return np.rint(scaled, out=scaled).astype(np.int16)


def _with_soxr(blocks: Iterator[FloatSamples], rate: int) -> Iterator[FloatSamples]:
    ahead = list(itertools.islice(blocks, 2))
    if len(ahead) == 1:
        # The same to the bit, and a clip is prepared in a sixteenth less time.
        yield soxr.resample(ahead[0], rate, SAMPLE_RATE, quality="HQ")
        return
    stream = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")
    for block in itertools.chain(ahead, blocks):
        yield stream.resample_chunk(block)
    yield stream.resample_chunk(np.empty(0, dtype=np.float32), last=True)


def _at_once(
    resampler: str, resample: Callable[[FloatSamples, int], FloatSamples], blocks: Iterator[FloatSamples], rate: int
) -> Iterator[FloatSamples]:
    """Blocks resampled as a whole, because the resampler knows no other way."""
    most = _MOST_AT_ONCE * min(1, rate / SAMPLE_RATE)
    error = UnreadableAudioError(f"the file is too long for {resampler}; the dataset's `resampler` may be soxr")
    samples = _joined(blocks, np.dtype(np.float32), most, error)
    if len(samples):
        yield resample(samples, rate)


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


_RESAMPLERS: dict[str, Callable[[Iterator[FloatSamples], int], Iterator[FloatSamples]]] = {
    "soxr": _with_soxr,
    "sox": partial(_at_once, "sox", _with_sox),
    "torchaudio": partial(_at_once, "torchaudio", _with_torchaudio),
}
