"""Pieces of recordings: from a time to another, of all channels or of one."""

import struct
import tempfile
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from speechmill.core.flac import FloatSamples
from speechmill.corpus.audio import Stream, UnreadableAudioError, check_finite, decode, mean_of_channels
from speechmill.corpus.encoded import Encoded

_MAX_OVERSHOOT = 0.5
"""Seconds that a piece may end after its recording, as `--max-overshoot` of Kaldi's extract-segments."""

_MAX_HOURS = 24
"""Length of a recording, which bounds the temporary file; a piece may be as long as any other clip."""

_BLOCK_SAMPLES = 1 << 20
"""Samples, over all channels, that are in memory at a time."""

_MAX_BYTES_IN_MEMORY = 1 << 24
"""Size of a piece above which it is written to the disk."""


class Piece(NamedTuple):
    """A part of a recording, from `start` to `end` in seconds; an `end` of None is the end of the recording.

    `channel` counts from 0; None stands for the mean of all channels.
    """

    start: float = 0.0
    end: float | None = None
    channel: int | None = None

    def __str__(self) -> str:
        times = f"{self.start} s – {'end' if self.end is None else f'{self.end} s'}"
        return f"[{times}]" if self.channel is None else f"[{times}, channel {self.channel}]"


def cut(
    recording: Encoded, name: str, pieces: Iterable[Piece], work: Path
) -> Iterator[IO[bytes] | UnreadableAudioError]:
    """Yield each of the pieces as a mono WAV file at the rate of the recording, or the error that says why not.

    The recording is decoded once, as `decode_to_16k` does it, into a temporary file in `work` with the size of its
    samples as 32-bit floats. The samples of a piece are those of that range of the decoded recording.

    A piece that ends up to 0.5 s after the recording is shortened, as Kaldi does it. A WAV file has 16-bit samples if
    they are exact, otherwise 32-bit floats. It has to be read before the next one is requested.

    Raises:
        UnreadableAudioError: The recording cannot be decoded.
    """
    decoded = decode(recording, name, partial(_Decoded, work), _MAX_HOURS).samples
    for piece in pieces:
        with tempfile.SpooledTemporaryFile(_MAX_BYTES_IN_MEMORY, dir=str(work)) as wav:
            try:
                decoded.write(piece, wav)
            except UnreadableAudioError as error:
                yield error
            else:
                wav.seek(0)
                yield wav


class _Decoded:
    """A decoded recording in an unnamed file: 32-bit floats, the channels of each sample beside each other."""

    def __init__(self, work: Path, stream: Stream) -> None:
        self._file = tempfile.TemporaryFile(dir=work)  # noqa: SIM115  # it is deleted with this object
        for block in check_finite(stream.blocks(), "some samples are not finite numbers"):
            self._file.write(block.data)
        self._rate, self._channels, self._num_samples = stream.rate, stream.channels, stream.samples_read

    def write(self, piece: Piece, wav: IO[bytes]) -> None:
        """Write the WAV file of a piece; raise an UnreadableAudioError if the recording has no such piece."""
        first, last = self._range(piece)
        # libsndfile would write the current time into a WAV file of floats, but the same input must give the same
        # bytes.
        dtype = np.dtype("<i2" if all(map(_is_16_bit, self._blocks(piece, first, last))) else "<f4")
        wav.write(_wav_header(dtype, self._rate, last - first))
        for block in self._blocks(piece, first, last):
            wav.write((block * 32768 if dtype == "<i2" else block).astype(dtype).data)

    def _range(self, piece: Piece) -> tuple[int, int]:
        """Return the numbers of the first sample of a piece, and of the first after it."""
        length = self._num_samples / self._rate
        end = length if piece.end is None else piece.end
        if piece.channel is not None and not 0 <= piece.channel < self._channels:
            raise UnreadableAudioError(
                f"there is no channel {piece.channel}, because the recording has {self._channels}, counted from 0",
                "outside",
            )
        if not piece.start < length:
            raise UnreadableAudioError(
                f"begins at {_seconds(piece.start)}, the recording ends at {_seconds(length)}", "outside"
            )
        if not 0 <= piece.start < end:
            raise UnreadableAudioError(f"begins at {_seconds(piece.start)} and ends at {_seconds(end)}", "outside")
        if not end <= length + _MAX_OVERSHOOT:
            raise UnreadableAudioError(f"ends at {_seconds(end)}, the recording ends at {_seconds(length)}", "outside")
        first, last = round(piece.start * self._rate), min(round(end * self._rate), self._num_samples)
        if first >= last:
            raise UnreadableAudioError("the piece has no samples", "empty")
        return first, last

    def _blocks(self, piece: Piece, first: int, last: int) -> Iterator[FloatSamples]:
        """Yield the samples of a piece, mixed to one channel, in blocks of shape (samples,)."""
        self._file.seek(4 * self._channels * first)
        block_size = max(1, _BLOCK_SAMPLES // self._channels)
        for start in range(first, last, block_size):
            count = min(block_size, last - start) * self._channels
            samples = np.frombuffer(self._file.read(4 * count), np.float32).reshape(-1, self._channels)
            yield mean_of_channels(samples) if piece.channel is None else samples[:, piece.channel].copy()


def _is_16_bit(samples: FloatSamples) -> bool:
    scaled = samples * 32768
    return bool(np.all((scaled == np.rint(scaled)) & (scaled >= -32768) & (scaled <= 32767)))


def _wav_header(dtype: np.dtype[np.generic], rate: int, num_samples: int) -> bytes:
    """Return the start of a mono WAV file; format 1 are integers, 3 are floats."""
    size = num_samples * dtype.itemsize
    if size > 0xFFFFFFFF - 36:
        raise UnreadableAudioError("the piece is larger than a WAV file can be, 4 GiB")
    width = dtype.itemsize
    form = struct.pack("<HHIIHH", 1 if dtype.kind == "i" else 3, 1, rate, width * rate, width, 8 * width)
    return struct.pack("<4sI8sI16s4sI", b"RIFF", size + 36, b"WAVEfmt ", 16, form, b"data", size)


def _seconds(seconds: float) -> str:
    return f"{round(seconds, 3):.12g} s"
