"""Where there is speech in a recording of any length, and its division into pieces at pauses.

silero-vad gives the probability of speech in each window of 512 samples (32 ms). Its weights are in its package. The
functions here know recordings only as these probabilities, so that memory use does not depend on their length.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from speechmill.core.flac import Int16Samples, to_floats
from speechmill.core.schemas import SAMPLE_RATE

WINDOW = 512
"""Samples of a window."""

Span = tuple[int, int]
"""The first sample of a part of a recording, and the first one after it."""

# A shorter pause does not end a piece, unless the piece would be too long otherwise.
_PAUSE_MS = 300

# Sounds of speech that are shorter are noise.
_SHORTEST_SPEECH_MS = 100

# What a piece has before the first and after the last window with speech, where the next piece is not closer.
_MARGIN_MS = 150

# Windows whose mean probability decides where long speech is cut: a quarter of a second.
_CUT_WINDOWS = 8


@cache
def _silero() -> Any:
    import silero_vad

    return silero_vad.load_silero_vad()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Use one thread of torch in the block: the model is so small that several would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        # The import of silero_vad sets the number to 1, too.
        torch.set_num_threads(threads)


def speech_probabilities(blocks: Iterable[Int16Samples]) -> NDArray[np.float32]:
    """Return the probability of speech in each window of a recording at 16 kHz, shape (windows,).

    `blocks` are its consecutive samples; the length of each, except the last one, is a multiple of WINDOW. The last
    window is completed with zeros.
    """
    probabilities: list[float] = []
    with _one_thread(), torch.inference_mode():
        model = _silero()
        # The model keeps its state, that of a recurrent network, from one window to the next.
        model.reset_states()
        for block in blocks:
            padded = np.zeros(-(-len(block) // WINDOW) * WINDOW, np.float32)
            padded[: len(block)] = to_floats(block)
            windows = torch.from_numpy(padded).reshape(-1, WINDOW)
            probabilities += [float(model(window, SAMPLE_RATE)) for window in windows]
    return np.array(probabilities, np.float32)


def speech_pieces(
    probabilities: NDArray[np.float32], num_samples: int, min_seconds: float, max_seconds: float
) -> list[Span]:
    """Return the parts of a recording with speech, in order and without overlap.

    Each is between `min_seconds` and `max_seconds` long, in a recording that is at least `min_seconds` long. Speech is
    divided at pauses. Shorter speech gets more of the pauses around it, or is joined with its neighbour. Longer speech
    is cut, again and again, where the probability of speech is lowest.

    Args:
        probabilities: The probability of speech in each window, shape (windows,).
        num_samples: The length of the recording in samples.
        min_seconds: The shortest piece.
        max_seconds: The longest piece, at least twice `min_seconds`.
    """
    from silero_vad import get_speech_timestamps_from_probs

    spoken = get_speech_timestamps_from_probs(
        probabilities.tolist(),
        sampling_rate=SAMPLE_RATE,
        min_speech_duration_ms=_SHORTEST_SPEECH_MS,
        min_silence_duration_ms=_PAUSE_MS,
        speech_pad_ms=_MARGIN_MS,
        audio_length_samples=num_samples,
    )
    shortest, longest = (round(seconds * SAMPLE_RATE) for seconds in (min_seconds, max_seconds))
    widened: list[Span] = []
    for each in spoken:
        start, end = _widened(int(each["start"]), int(each["end"]), shortest, num_samples)
        if widened and start < widened[-1][1]:
            start, end = widened[-1][0], max(end, widened.pop()[1])
        widened.append((start, end))
    # The mean over the windows on both sides of the start of each window.
    means = np.convolve(probabilities, np.full(_CUT_WINDOWS, 1 / _CUT_WINDOWS), "same")
    return [piece for span in widened for piece in _cut(span, means, shortest, longest)]


def _widened(start: int, end: int, shortest: int, num_samples: int) -> Span:
    """Return a span of at least `shortest` samples around another, as far as the recording is that long."""
    lacking = max(0, shortest - (end - start))
    start = max(0, min(start - lacking // 2, num_samples - shortest))
    return start, min(num_samples, max(end, start + shortest))


def _cut(span: Span, means: NDArray[np.float64], shortest: int, longest: int) -> list[Span]:
    """Return the parts of a span, none longer than `longest` and, if the span is not, none shorter than `shortest`.

    `means` is the mean probability of speech around the start of each window.
    """
    pieces: list[Span] = []
    start, end = span
    while end - start > longest:
        earliest, latest = start + shortest, min(start + longest, end - shortest)
        first = earliest // WINDOW
        candidates = means[first : -(-latest // WINDOW) + 1]
        # In a pause the means are all but equal; the cut is in its middle.
        lowest = np.flatnonzero(candidates <= candidates.min() + 1e-3)
        cut = min(max(earliest, (first + int(lowest[len(lowest) // 2])) * WINDOW), latest)
        pieces.append((start, cut))
        start = cut
    return [*pieces, (start, end)]
