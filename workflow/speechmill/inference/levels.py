"""The levels of the frames of a recording, from which the beginning and the end of sounds are found.

A CTC model emits a token within its sound, often in a single frame, so that its frames do not show them.
"""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from speechmill.core.flac import Int16Samples

# Frames whose samples are in memory at the same time: 20 s for frames of 20 ms.
_BLOCK_FRAMES = 1000


def frame_levels(
    read: Callable[[list[tuple[int, int]]], Iterator[Int16Samples]], frames: int, frame_samples: int
) -> NDArray[np.float32]:
    """Return the root mean square of the samples of each frame, shape (frames,); `read` returns the samples of spans.

    Frames after the end of the recording, which some models output, have 0.
    """
    levels = np.zeros(frames, np.float32)
    blocks = [(start, min(start + _BLOCK_FRAMES, frames)) for start in range(0, frames, _BLOCK_FRAMES)]
    spans = [(start * frame_samples, stop * frame_samples) for start, stop in blocks]
    for (start, stop), samples in zip(blocks, read(spans), strict=True):
        padded = np.zeros((stop - start, frame_samples), np.float32)
        padded.flat[: len(samples)] = samples
        levels[start:stop] = np.sqrt(np.square(padded).mean(1))
    return levels


def first_pause(quiet: NDArray[np.bool_]) -> int | None:
    """Return the first of three consecutive quiet frames, of which a single one may be within a sound; None without.

    Args:
        quiet: Which frames are quiet, shape (frames,).
    """
    starts = np.flatnonzero(quiet[:-2] & quiet[1:-1] & quiet[2:])
    return int(starts[0]) if len(starts) else None
