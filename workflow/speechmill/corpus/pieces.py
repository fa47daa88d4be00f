"""Pieces of recordings: from a time to another, of all channels or of one."""

import io
import struct
from typing import BinaryIO, NamedTuple

import numpy as np
import soundfile as sf
from numpy.typing import NDArray

_TOLERANCE = 0.05
"""Seconds that a segment may end after its recording, because written times are rounded."""

_LEAD = 1.0
"""Seconds after which a decoder that starts in the middle of a stream (Vorbis, MP3) returns the right samples.

This holds only for a newly opened file and a single read, because soundfile seeks after each.
"""

# The lossless dtype of each subtype; others are read as float32.
_DTYPES = {"PCM_16": "int16", "PCM_24": "int32", "PCM_32": "int32"}


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


def cut(recording: BinaryIO, piece: Piece) -> bytes | None:
    """Return a piece of a newly opened file as a WAV file of the same rate and channels, without loss.

    Only the piece is read, whatever the length of the recording. The samples are those of the decoded recording (for
    MP3, up to the rounding of float32).

    Returns:
        The WAV file; None if the recording has no such piece, and empty bytes if it cannot be decoded.
    """
    try:
        with sf.SoundFile(recording.fileno(), closefd=False) as file:
            rate, frames = file.samplerate, file.frames
            end = frames / rate if piece.end is None else piece.end
            if not 0 <= piece.start < end <= frames / rate + _TOLERANCE:
                return None
            first, last = round(piece.start * rate), min(round(end * rate), frames)
            lead = min(first, round(_LEAD * rate))
            file.seek(first - lead)
            dtype = _DTYPES.get(file.subtype, "float32")
            samples = file.read(lead + last - first, dtype=dtype, always_2d=True)[lead:]
            if piece.channel is not None:
                samples = samples[:, piece.channel : piece.channel + 1]
            return _wav(samples, rate, file.subtype) if 0 < last - first == len(samples) else None
    except sf.LibsndfileError:
        return b""


def _wav(samples: NDArray[np.generic], rate: int, subtype: str) -> bytes:
    if subtype in _DTYPES:
        buffer = io.BytesIO()
        sf.write(buffer, samples, rate, format="WAV", subtype=subtype)
        return buffer.getvalue()
    # libsndfile writes the current time into a WAV file of floats, but the same input must give the same bytes.
    data = samples.astype("<f4").tobytes()
    channels = samples.shape[1]
    form = struct.pack("<IHHIIHH", 16, 3, channels, rate, 4 * channels * rate, 4 * channels, 32)
    chunks = b"WAVEfmt " + form + struct.pack("<4sI", b"data", len(data)) + data
    return struct.pack("<4sI", b"RIFF", len(chunks)) + chunks
