"""Decoding of audio files, resampling to 16 kHz mono, and the shares of silence and clipping in the samples."""

import io
import itertools
import math
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
from typing import Any, BinaryIO, Generic, Literal, NamedTuple, TypeVar

import numpy as np
import soundfile as sf
import soxr
from numpy.typing import NDArray

from speechmill.core.command import SpeechmillError
from speechmill.core.flac import FloatSamples, Int16Samples, encode_flac
from speechmill.core.schemas import SAMPLE_RATE
from speechmill.corpus.containers import MAX_MISSING_SECONDS, ContainerInfo, inspect_container, split_flac
from speechmill.corpus.encoded import Encoded, mapped, num_bytes

Reason = Literal["missing", "unreadable", "truncated", "empty", "outside"]

# 660 MiB as 16-bit samples at 16 kHz. Everything before that is processed in blocks, so that a job needs little more
# memory than this, even if a small file expands to a very long recording.
_MAX_HOURS = 6

# 2.6 GiB on the disk.
_MAX_FILE_HOURS = 24

# Over all channels, 4 MiB as 32-bit floats: nearly every clip is a single block.
_BLOCK_SAMPLES = 1 << 20

# libsndfile gives at least this number of samples if a header leaves the length open: 2**61 divided by the channels.
_UNKNOWN_LENGTH = 1 << 48

# The resamplers `sox` and `torchaudio` need all samples at once: 70 minutes at 16 kHz, 23 at 48 kHz, 256 MiB as
# 32-bit floats.
_MAX_UNBLOCKED_SAMPLES = 1 << 26

# Speech is recorded well within this range of rates, in Hz. Outside it, resampling takes unlimited time and memory.
_MIN_RATE, _MAX_RATE = 1_000, 1_000_000

# A decoder program that runs for longer than this on one clip hangs; it gets another second for each 100 kB of input.
_TIMEOUT_SECONDS = 120
_BYTES_PER_EXTRA_SECOND = 100_000

# Formats without a header. SoX needs their extension, and also that of MP3, which it does not always recognise. It
# knows more formats, but among them are playlists, whose entries it would open.
_HEADERLESS_EXTENSIONS = {".al", ".gsm", ".ul", ".vox"}
_SOX_EXTENSIONS = {*_HEADERLESS_EXTENSIONS, ".mp3"}

# ffmpeg knows more formats, but among them are playlists and scripts, whose entries it would open.
_FFMPEG_ALLOWED_FORMATS = (
    "-protocol_whitelist",
    "file",
    "-format_whitelist",
    "aac,ac3,aiff,amr,ape,asf,au,avi,caf,dts,eac3,flac,flv,matroska,mov,mp3,mpeg,mpegts,nistsphere,ogg,rm,shn,tta,voc,"
    "w64,wav,wv",
)


Samples = TypeVar("Samples")


class UnreadableAudioError(Exception):
    """Bytes that are not a complete audio file with samples; the message gives the details, `reason` the category."""

    def __init__(self, message: str, reason: Reason = "unreadable") -> None:
        super().__init__(message)
        self.reason = reason


class Decoded(NamedTuple, Generic[Samples]):
    """The samples of a file, and how many seconds it lacks of the length that its header states."""

    samples: Samples
    missing_seconds: float


def decode_to_16k(encoded: Encoded, resampler: str, name: str = "") -> Decoded[Int16Samples]:
    """Return the samples of an audio file, mixed to mono (mean of the channels) and resampled to 16 kHz, 16 bits.

    Beside the returned samples, one block is held in memory, or all samples with the resamplers `sox` and `torchaudio`.

    Args:
        encoded: The file.
        resampler: `soxr` (quality HQ), `sox` (the `rate` effect with its default, high quality) or `torchaudio`.
        name: The name of the file; see `decode`.

    Raises:
        UnreadableAudioError: As for `decode`. For the resamplers `sox` and `torchaudio`, files are also too long if
            they have more than 2**26 samples at a rate other than 16 kHz.
        SpeechmillError: As for `decode`.
    """
    decoded = decode(encoded, name, partial(_to_16k, resampler=resampler), _MAX_HOURS)
    if len(decoded.samples) == 0:
        raise UnreadableAudioError("the file is shorter than one sample at 16 kHz", "empty")
    return decoded


def decode_to_file(encoded: Encoded, name: str, file: BinaryIO) -> Decoded[int]:
    """Write the samples that `decode_to_16k` returns with the resampler `soxr` to `file`; return their number.

    They are 16-bit integers in the byte order of this machine. One block is held in memory at a time.

    Args:
        encoded: The file.
        name: The name of the file; see `decode`.
        file: An empty file that is open for writing.

    Raises:
        UnreadableAudioError, SpeechmillError: As for `decode`; files are too long if they are longer than a day.
        OSError: The samples cannot be written, such as on a full disk.
    """

    def write(stream: Stream) -> int:
        # A decoder that failed may have written a part.
        file.seek(0)
        file.truncate()
        num_samples = 0
        for block in _blocks_at_16k(stream, "soxr"):
            num_samples += len(block)
            if num_samples > _MAX_FILE_HOURS * 3600 * SAMPLE_RATE:
                raise too_long(_MAX_FILE_HOURS)
            file.write(block.data)
        return num_samples

    decoded = decode(encoded, name, write, _MAX_FILE_HOURS)
    if decoded.samples == 0:
        raise UnreadableAudioError("the file is shorter than one sample at 16 kHz", "empty")
    return decoded


def decode(encoded: Encoded, name: str, collect: "Callable[[Stream], Samples]", max_hours: float) -> Decoded[Samples]:
    """Return the samples of an audio file, as `collect` returns them.

    A file is decoded with libsndfile, then with `ffmpeg`, then with `sox`, if these programs are installed, until one
    of them finds what the container states and holds: the rate, the channels, the type and the number of the samples.
    If none finds all samples, and the best lacks no more than `MAX_MISSING_SECONDS`, its samples are returned. The
    format is detected from the content; SoX uses the extension of `name` for formats without a header.

    Args:
        encoded: The file.
        name: The name of the file.
        collect: Reads the stream of a decoder to its end. It is called for each decoder that opens the file.
        max_hours: The greatest length.

    Raises:
        UnreadableAudioError: With the reason `unreadable`, if no decoder can read the file, it is longer than
            `max_hours`, a sample is not finite, or the rate is outside 1 kHz to 1 MHz; with `truncated`, if the file
            lacks more than `MAX_MISSING_SECONDS` of what it states; with `empty`, if it has no samples. The same file
            always gives the same message.
        SpeechmillError: A decoder program was killed by the system, which is not the fault of the file.
    """
    if num_bytes(encoded) == 0:
        raise UnreadableAudioError("the file is empty", "empty")
    with mapped(encoded) as content:
        container = inspect_container(content)
    if container.truncated:
        raise UnreadableAudioError(f"the file is truncated {container.truncated}", "truncated")
    if container.fault:
        raise UnreadableAudioError(container.fault)
    if container.max_samples == 0:
        raise UnreadableAudioError("the file has no samples", "empty")
    with _corrected(encoded, container.correction) as corrected:
        return _decode(corrected, name, collect, max_hours, container)


def _decode(
    encoded: Encoded,
    name: str,
    collect: "Callable[[Stream], Samples]",
    max_hours: float,
    container: ContainerInfo,
) -> Decoded[Samples]:
    failures: list[str] = []
    found_seconds: list[float] = []
    shortened: Decoded[Samples] | None = None
    empty = False
    for decoder in _decoder_order(container, name):
        stream = samples = None
        try:
            if container.ffmpeg_only and decoder != "ffmpeg":
                raise _DecoderError(container.ffmpeg_only)
            with _DECODERS[decoder](encoded, name) as stream:
                _check_format(container, stream)
                stream.limit(max_hours)
                samples = collect(stream)
            empty |= stream.samples_read == 0
            _check_count(container, stream)
        except _DecoderError as error:
            failures.append(f"{decoder}: {error}")
            if samples is None or stream is None:
                continue
            found_seconds.append(stream.samples_read / stream.rate)
            missing = _missing_seconds(container, stream)
            if stream.samples_read and 0 < missing <= (shortened.missing_seconds if shortened else MAX_MISSING_SECONDS):
                shortened = Decoded(samples, missing)
        else:
            return Decoded(samples, _missing_seconds(container, stream))
    if shortened is not None:
        return shortened
    if container.incomplete:
        raise UnreadableAudioError(f"the file is truncated {container.incomplete}", "truncated")
    if found_seconds and container.rate and max(found_seconds) < container.min_samples / container.rate:
        raise UnreadableAudioError(
            f"the file is truncated or damaged: only {max(found_seconds):.2f} s of its"
            f" {container.min_samples / container.rate:.2f} s can be read",
            "truncated",
        )
    if empty:
        raise UnreadableAudioError("the file has no samples", "empty")
    raise UnreadableAudioError("; ".join(failures))


def _decoder_order(container: ContainerInfo, name: str) -> list[str]:
    """Return the names of the decoders that are asked, one after the other.

    SoX is the last: it keeps the encoder's delay of MP3, and takes floats and 64-bit integers in some containers for
    other numbers. For files without a header, however, it uses the extension, where ffmpeg would guess a format.
    """
    if container == ContainerInfo() and Path(name).suffix.lower() in _HEADERLESS_EXTENSIONS:
        return ["libsndfile", "sox"]
    if container.subtype in ("FLOAT", "DOUBLE", "PCM_64"):
        return ["libsndfile", "ffmpeg"]
    return ["libsndfile", "ffmpeg", "sox"]


def _check_format(container: ContainerInfo, stream: "Stream") -> None:
    """Raise a _DecoderError if a decoder takes a file for something else than its container states."""
    # Creative Voice files give the rate as the length of a sample, which decoders round differently.
    if container.fixed_rate and container.rate and abs(container.rate - stream.rate) > 1:
        raise _DecoderError(f"finds a sample rate of {stream.rate} Hz instead of {container.rate} Hz")
    if container.channels not in (None, stream.channels):
        raise _DecoderError(f"finds {stream.channels} channels instead of {container.channels}")
    if None not in (container.subtype, stream.subtype) and container.subtype != stream.subtype:
        raise _DecoderError(f"finds samples of the type {stream.subtype} instead of {container.subtype}")


def _check_count(container: ContainerInfo, stream: "Stream") -> None:
    """Raise a _DecoderError if a decoder found fewer or more samples than the file holds."""
    if stream.samples_read == 0:
        raise _DecoderError("no samples")
    if _lacking(container, stream) > 0:
        raise _DecoderError("reads only a part of the file")
    if _found(container, stream) > container.max_samples:
        raise _DecoderError(f"finds {stream.samples_read} samples, more than the file holds")


def _found(container: ContainerInfo, stream: "Stream") -> float:
    """Return the number of samples that a decoder found, at the rate at which the container counts them."""
    if container.fixed_rate or container.rate is None:
        return stream.samples_read
    return stream.samples_read * container.rate / stream.rate


def _lacking(container: ContainerInfo, stream: "Stream") -> float:
    """Return the number of samples that a decoder must find and did not find."""
    # At another rate, the first and the last sample may be rounded.
    rounding = 0.0 if container.fixed_rate else 2 * (container.rate or 0) / stream.rate
    return max(container.min_samples - _found(container, stream) - rounding, 0)


def _missing_seconds(container: ContainerInfo, stream: "Stream") -> float:
    return (container.missing_samples + _lacking(container, stream)) / (container.rate or stream.rate)


@contextmanager
def _corrected(encoded: Encoded, correction: tuple[int, bytes] | None) -> Iterator[Encoded]:
    """Yield a file in which the bytes at an offset are replaced."""
    if correction is None:
        yield encoded
        return
    offset, replacement = correction
    if isinstance(encoded, bytes):
        yield encoded[:offset] + replacement + encoded[offset + len(replacement) :]
        return
    with tempfile.NamedTemporaryFile() as file:
        with encoded.open("rb") as original:
            shutil.copyfileobj(original, file, 1 << 20)
        file.seek(offset)
        file.write(replacement)
        file.flush()
        yield Path(file.name)


def encode_clip(samples: Int16Samples, original: Encoded) -> bytes:
    """Return samples as a 16-bit mono FLAC file at 16 kHz.

    If `original`, the file that they were decoded from, is already in that format and in memory, its frames are
    copied, which takes half the time; its tags, pictures and padding are dropped.
    """
    if isinstance(original, bytes) and (parts := split_flac(original)):
        stream_info, frames = parts
        # RFC 9639, section 8.2: rate in 20 bits, channels minus one in 3, bits minus one in 5, samples in 36.
        if int.from_bytes(stream_info[10:18]) == SAMPLE_RATE << 44 | 15 << 36 | len(samples):
            return b"fLaC\x80\0\0\x22" + stream_info + frames
    return encode_flac(samples)


def silent_share(samples: Int16Samples) -> float:
    """Return the share of 20 ms frames with an RMS below -60 dB of full scale (32768).

    The incomplete frame at the end is ignored, unless the clip is shorter than one frame. `samples` is not empty.
    """
    length = min(SAMPLE_RATE // 50, len(samples))
    frames = samples[: len(samples) // length * length].reshape(-1, length)
    energies = np.einsum("ij,ij->i", frames, frames, dtype=np.float32, casting="unsafe")
    return float(np.mean(energies < length * (32768 * 10 ** (-60 / 20)) ** 2))


def clipped_share(samples: Int16Samples) -> float:
    """Return the share of samples at full scale (32767, -32767 or -32768); `samples` is not empty."""
    blocks = (samples[i : i + _BLOCK_SAMPLES] for i in range(0, len(samples), _BLOCK_SAMPLES))
    return sum(np.count_nonzero((block == 32767) | (block <= -32767)) for block in blocks) / len(samples)


class _DecoderError(Exception):
    """A decoder failed on a file, or did not find what the file holds."""


class Stream:
    """An open file that is read once, from start to end.

    Attributes:
        rate: Sampling rate in Hz.
        channels: Number of channels.
        subtype: The encoding of the samples in the file; None if a decoder program has converted them.
        num_samples: Samples per channel according to the header, and at least 2**48 if it does not give them.
        samples_read: Samples per channel read so far.
        is_target_format: Whether the file is 16-bit mono at 16 kHz.
    """

    def __init__(self, file: int | BinaryIO) -> None:
        try:
            audio = sf.SoundFile(file, closefd=False)
        except sf.LibsndfileError as error:
            raise _libsndfile_failure(error) from error
        if not _MIN_RATE <= audio.samplerate <= _MAX_RATE:
            raise UnreadableAudioError(f"the sample rate of {audio.samplerate} Hz is outside 1 kHz to 1 MHz")
        # soundfile seeks after each read of a seekable file, and MP3 decodes slightly differently after a seek.
        audio.seekable = lambda: False
        self._audio = audio
        self.rate: int = audio.samplerate
        self.channels: int = audio.channels
        self.subtype: str | None = audio.subtype
        self.num_samples: int = audio.frames
        self.samples_read = 0
        self.is_target_format = (audio.samplerate, audio.channels, audio.subtype) == (SAMPLE_RATE, 1, "PCM_16")
        self._max_samples = math.inf

    def limit(self, max_hours: float) -> None:
        """Make longer streams an error: at once if the header gives the length, otherwise when they are read."""
        self._max_samples = max_hours * 3600 * self.rate
        if self._max_samples < self.num_samples < _UNKNOWN_LENGTH:
            raise too_long(max_hours)

    def blocks(self, dtype: Literal["int16", "float32"] = "float32") -> Iterator[NDArray[Any]]:
        """Yield the samples in blocks of shape (samples, channels)."""
        block_size = max(1, _BLOCK_SAMPLES // self.channels)
        with self._audio:
            while (requested := min(block_size, self.num_samples - self.samples_read)) > 0:
                try:
                    samples = self._audio.read(requested, dtype=dtype, always_2d=True)
                except sf.LibsndfileError as error:
                    raise _libsndfile_failure(error) from error
                self.samples_read += len(samples)
                yield samples
                if len(samples) < requested:
                    return


def _libsndfile_failure(error: sf.LibsndfileError) -> _DecoderError:
    # The full message has a prefix with a memory address, which differs from run to run.
    return _DecoderError(error.error_string.rstrip("."))


@contextmanager
def _with_libsndfile(encoded: Encoded, name: str) -> Iterator[Stream]:
    if isinstance(encoded, Path):
        with encoded.open("rb") as opened:
            yield _of_known_length(Stream(opened.fileno()))
    elif encoded.startswith((b"fLaC", b"RIFF")):
        yield _of_known_length(Stream(io.BytesIO(encoded)))
    else:
        # libsndfile reads MP3 and Ogg in small pieces. From BytesIO, each piece would be a call into Python.
        with tempfile.TemporaryFile(buffering=0) as file:
            file.write(encoded)
            file.seek(0)
            yield _of_known_length(Stream(file.fileno()))


def _of_known_length(stream: Stream) -> Stream:
    if stream.num_samples >= _UNKNOWN_LENGTH:
        raise _DecoderError("the header does not give the number of samples")
    return stream


def _with_sox_program(encoded: Encoded, name: str) -> AbstractContextManager[Stream]:
    extension = Path(name).suffix.lower()
    return _with_program(
        "sox",
        encoded,
        extension if extension in _SOX_EXTENSIONS else "",
        ["-V1", "-D"],
        ["-t", "au", "-e", "floating-point", "-b", "32", "-"],
    )


def _with_ffmpeg(encoded: Encoded, name: str) -> AbstractContextManager[Stream]:
    return _with_program(
        "ffmpeg",
        encoded,
        "",
        # With -xerror, a packet that cannot be decoded is an error; otherwise ffmpeg would skip it.
        ["-nostdin", "-hide_banner", "-loglevel", "error", "-xerror", *_FFMPEG_ALLOWED_FORMATS, "-i"],
        ["-map", "0:a:0", "-c:a", "pcm_f32be", "-f", "au", "-"],
    )


@contextmanager
def _with_program(
    program: str, encoded: Encoded, extension: str, input_options: list[str], output_options: list[str]
) -> Iterator[Stream]:
    """Yield the output of a decoder program as a stream while it runs; AU can be read from a pipe."""
    if shutil.which(program) is None:
        raise _DecoderError(f"{program} is not installed")
    timeout = _TIMEOUT_SECONDS + num_bytes(encoded) // _BYTES_PER_EXTRA_SECOND
    with _named(encoded, extension) as file, tempfile.TemporaryFile() as errors:
        stream = None
        with _running([program, *input_options, file, *output_options], errors, timeout) as process:
            assert process.stdout is not None
            try:
                stream = Stream(process.stdout.fileno())
                stream.subtype = None
            except _DecoderError:
                process.stdout.close()
            else:
                yield stream
                # The program may write more than its header promised, and fails if it cannot write everything.
                while process.stdout.read(1 << 16):
                    pass
            status = process.wait()
        errors.seek(0)
        message = errors.readline(1000).decode(errors="replace").strip()
    # Without file names and memory addresses, the message is the same in every run.
    message = message.replace(f" `{file}'", "").replace(f"{file}: ", "")
    message = re.sub(r"^(sox FAIL \w+: |(\[\S+ @ 0x[0-9a-f]+\] )+)", "", message)
    if "matches no streams" in message:
        message = "there is no audio in it"
    if status == -signal.SIGKILL:
        raise SpeechmillError(f"{program} was killed, perhaps because memory ran out; run snakemake again")
    # ffmpeg also writes warnings to stderr; SoX exits with status 0 after some errors.
    failed = status != 0 or (program == "sox" and message)
    if failed or stream is None:
        raise _DecoderError(message or "no samples")


@contextmanager
def _named(encoded: Encoded, extension: str) -> Iterator[str]:
    """Yield the path of a file with these bytes and this extension."""
    if isinstance(encoded, Path):
        with tempfile.TemporaryDirectory() as folder:
            link = Path(folder, f"recording{extension}")
            link.symlink_to(encoded.resolve())
            yield str(link)
    else:
        with tempfile.NamedTemporaryFile(suffix=extension) as file:
            file.write(encoded)
            file.flush()
            yield file.name


@contextmanager
def _running(command: list[str], errors: BinaryIO, timeout: float) -> Iterator[subprocess.Popen[bytes]]:
    """Yield a running program, which is killed when the block ends, or with a _DecoderError after `timeout` seconds."""
    timed_out = threading.Event()
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors) as process:

        def stop() -> None:
            timed_out.set()
            process.kill()

        timer = threading.Timer(timeout, stop)
        timer.start()
        try:
            yield process
        finally:
            timer.cancel()
            process.kill()
    if timed_out.is_set():
        raise _DecoderError(f"takes longer than {timeout} seconds")


def _to_16k(stream: Stream, resampler: str) -> Int16Samples:
    blocks = _blocks_at_16k(stream, resampler)
    return _concatenate(blocks, np.dtype(np.int16), _MAX_HOURS * 3600 * SAMPLE_RATE, too_long(_MAX_HOURS))


def _blocks_at_16k(stream: Stream, resampler: str) -> Iterator[Int16Samples]:
    dtype: Literal["int16", "float32"] = "int16" if stream.is_target_format else "float32"
    blocks: Iterator[NDArray[Any]] = map(mean_of_channels, stream.blocks(dtype))
    if not stream.is_target_format:
        blocks = check_finite(blocks, "some samples are not finite numbers")
        if stream.rate != SAMPLE_RATE:
            resampled = _RESAMPLERS[resampler](blocks, stream.rate)
            blocks = check_finite(resampled, "the samples are too large to be resampled")
        blocks = map(_to_int16, blocks)
    return blocks


def check_finite(blocks: Iterable[FloatSamples], message: str) -> Iterator[FloatSamples]:
    """Yield the blocks.

    Raises:
        UnreadableAudioError: A sample is infinite or not a number; with this message.
    """
    for block in blocks:
        if not np.isfinite(block).all():
            raise UnreadableAudioError(message)
        yield block


def _concatenate(
    blocks: Iterable[NDArray[Any]], dtype: np.dtype[Any], max_samples: float, error: Exception
) -> NDArray[Any]:
    """Return the blocks as one array; raise `error` if they have more than `max_samples` samples."""
    # A bytearray grows in place; np.concatenate would hold the samples twice.
    buffer = bytearray()
    for block in blocks:
        buffer += block.data
        if len(buffer) > max_samples * dtype.itemsize:
            raise error
    return np.frombuffer(buffer, dtype)


def too_long(max_hours: float) -> UnreadableAudioError:
    """Return the error for a file that is longer than that."""
    return UnreadableAudioError(f"the file is longer than {max_hours} hours")


def mean_of_channels(samples: NDArray[Any]) -> NDArray[Any]:
    """Return samples of shape (samples, channels) as one channel, shape (samples,)."""
    if samples.shape[1] == 1:
        return samples[:, 0]
    # Channel by channel, because np.mean is many times slower over a last axis with few elements.
    mono = samples[:, 0].copy()
    for channel in range(1, samples.shape[1]):
        mono += samples[:, channel]
    mono /= samples.shape[1]
    return mono


_DECODERS: dict[str, Callable[[Encoded, str], AbstractContextManager[Stream]]] = {
    "libsndfile": _with_libsndfile,
    "sox": _with_sox_program,
    "ffmpeg": _with_ffmpeg,
}


def _to_int16(samples: FloatSamples) -> Int16Samples:
    scaled = np.clip(samples, -1, np.float32(32767 / 32768))
    scaled *= 32768
    return np.rint(scaled, out=scaled).astype(np.int16)


def _with_soxr(blocks: Iterator[FloatSamples], rate: int) -> Iterator[FloatSamples]:
    first_two = list(itertools.islice(blocks, 2))
    if len(first_two) == 1:
        # Bit-identical to the stream below; it saves a sixteenth of the time per clip.
        yield soxr.resample(first_two[0], rate, SAMPLE_RATE, quality="HQ")
        return
    stream = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")
    for block in itertools.chain(first_two, blocks):
        yield stream.resample_chunk(block)
    yield stream.resample_chunk(np.empty(0, dtype=np.float32), last=True)


def _unblocked(
    resampler: str, resample: Callable[[FloatSamples, int], FloatSamples], blocks: Iterator[FloatSamples], rate: int
) -> Iterator[FloatSamples]:
    """Yield the resampled blocks as a single block, for a resampler that cannot process a stream."""
    max_samples = _MAX_UNBLOCKED_SAMPLES * min(1, rate / SAMPLE_RATE)
    error = UnreadableAudioError(f"the file is too long for {resampler}; set the dataset's `resampler` to soxr")
    samples = _concatenate(blocks, np.dtype(np.float32), max_samples, error)
    if len(samples):
        yield resample(samples, rate)


def _with_sox(samples: FloatSamples, rate: int) -> FloatSamples:
    import sox

    transformer = sox.Transformer()
    # Without dither, so that the same input gives the same bytes.
    transformer.set_globals(dither=False, verbosity=1)
    # Equivalent to the `rate` effect, for which pysox prints a warning about the clip's duration.
    transformer.set_output_format(rate=SAMPLE_RATE)
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        sf.write(file.name, samples, rate, subtype="FLOAT")
        resampled = transformer.build_array(input_filepath=file.name)
    return np.asarray(resampled, dtype=np.float32) / (32768.0 if resampled.dtype == np.int16 else 1.0)


def _with_torchaudio(samples: FloatSamples, rate: int) -> FloatSamples:
    import torch
    import torchaudio.functional

    # A wider filter than the default, which agrees with SoX only to 34 dB.
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
    "sox": partial(_unblocked, "sox", _with_sox),
    "torchaudio": partial(_unblocked, "torchaudio", _with_torchaudio),
}
