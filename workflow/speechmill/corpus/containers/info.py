"""What the container of an audio file states and holds."""

import math
from dataclasses import dataclass
from mmap import mmap

Content = bytes | mmap
"""The bytes of a file, in memory or mapped."""

MAX_MISSING_SECONDS = 0.1
"""A file that lacks no more than this of the length that its header states is kept, and counted as shortened.

Recorders that write the header before they stop lose a buffer or two of 20 to 50 ms, and a tenth of a second at the end
is less than a syllable. The limit is absolute: a hundredth of the length would reject these buffers in a clip of two
seconds, and keep one of a minute that lacks a word.
"""


@dataclass(frozen=True)
class ContainerInfo:
    """Properties of a file that are known before decoding; the default values stand for what is unknown.

    Numbers of samples are per channel.

    Attributes:
        fault: Why the file is rejected before it is decoded.
        truncated: How the file is truncated, as in "by 12 bytes", if more is missing than `MAX_MISSING_SECONDS`.
        incomplete: How the file is truncated, if only a decoder can show how much is missing.
        rate: The sampling rate in Hz, or that at which the samples are counted.
        fixed_rate: Whether a decoder must find this rate; MP3, Opus, MP4 and WebM leave it open.
        channels: The number of channels.
        subtype: The encoding of the samples, as libsndfile names it.
        min_samples: The least number of samples that a decoder must find.
        max_samples: The largest number of samples that a decoder can find.
        missing_samples: The samples that the header states and the file lacks.
        ffmpeg_only: Why no other decoder reads the file correctly.
        correction: An offset in the file, and the bytes that replace a wrong size there.
    """

    fault: str | None = None
    truncated: str | None = None
    incomplete: str | None = None
    rate: int | None = None
    fixed_rate: bool = True
    channels: int | None = None
    subtype: str | None = None
    min_samples: int = 0
    max_samples: float = math.inf
    missing_samples: int = 0
    ffmpeg_only: str | None = None
    correction: tuple[int, bytes] | None = None


def by_bytes(missing: int) -> str:
    """Return how a file is truncated."""
    return f"by {missing} byte{'s' * (missing != 1)}"
