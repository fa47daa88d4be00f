"""The times of words, from the frames of their tokens and the levels of the recording."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from speechmill.inference.levels import first_pause
from speechmill.model.word_times import WordSpan

# The longest time in seconds from the last token of a word to its end, if a pause follows and if none does. Models emit
# a token when its sound begins, so that much of the last sound comes after its token.
_MAX_TAIL, _TAIL_WITHOUT_PAUSE = 0.6, 0.2

# The longest time in seconds from the first token of a word to its start: models may emit it in the pause before.
_MAX_EARLY = 0.1


def word_bounds(
    spans: Sequence[WordSpan | None], levels: NDArray[np.float32], frame_seconds: float
) -> list[tuple[float, float]]:
    """Return the start and the end of each word in seconds, in order and without overlap.

    A word ends where its sound does, if that is before the next word; if it goes on, as between words without a pause,
    at the next word, but at most 0.2 s after its last token. It starts with its first token, or where the sound begins
    if that is later. A word without a span gets an equal share of the time between those before and after it.

    On the sentences of the demo, with pauses of 0.1 to 1.2 s between them, the frames of the tokens alone are 29 ms
    (median) from the start of the first word, and 64 ms from the end of the last one; the result, 13 ms from both.

    Args:
        spans: The frames of each word, as `word_spans` returns them.
        levels: The level of each frame, as `frame_levels` returns them.
        frame_seconds: The time between two frames.
    """
    bounds: list[tuple[float, float] | None] = []
    known = [span for span in spans if span is not None]
    limits = [*(span.start for span in known[1:]), len(levels)]
    ends = (_end(span, limit, levels, frame_seconds) for span, limit in zip(known, limits, strict=False))
    previous = 0
    for span in spans:
        if span is None:
            bounds.append(None)
        else:
            start, previous = _start(span, previous, levels, frame_seconds), next(ends)
            bounds.append((start * frame_seconds, previous * frame_seconds))
    return _without_gaps(bounds, len(levels) * frame_seconds)


def _start(span: WordSpan, previous: int, levels: NDArray[np.float32], frame_seconds: float) -> int:
    """Return the first frame of a word that is not quiet; the word before it ends at the frame `previous`."""
    latest = min(span.stop - 1, span.start + round(_MAX_EARLY / frame_seconds))
    quiet = _is_quiet(levels, previous, latest, span)
    return next((frame for frame in range(span.start, latest) if not quiet[frame - previous]), latest)


def _end(span: WordSpan, limit: int, levels: NDArray[np.float32], frame_seconds: float) -> int:
    """Return the frame after the last one of a word; the next word starts at the frame `limit`."""
    quiet = _is_quiet(levels, span.stop, min(limit, span.stop + round(_MAX_TAIL / frame_seconds)), span)
    pause = first_pause(quiet)
    if pause is not None:
        return span.stop + pause
    return min(limit, span.stop + round(_TAIL_WITHOUT_PAUSE / frame_seconds))


def _is_quiet(levels: NDArray[np.float32], start: int, stop: int, span: WordSpan) -> NDArray[np.bool_]:
    """Return which frames are quiet, compared with the word of `span`, shape (stop - start,).

    They have a hundredth of its amplitude, or about that of the quietest frame, if that has a quarter of it.
    """
    loudest = float(levels[span.start : span.stop].max())
    around = levels[start:stop]
    quietest = float(around.min()) if len(around) else 0.0
    return around <= max(loudest / 100, min(2 * quietest, loudest / 4))


def _without_gaps(bounds: Sequence[tuple[float, float] | None], seconds: float) -> list[tuple[float, float]]:
    """Return the bounds, in which words without any share the time between their neighbours."""
    complete: list[tuple[float, float]] = []
    for i, each in enumerate(bounds):
        if each is not None:
            complete.append(each)
            continue
        start = complete[-1][1] if complete else 0.0
        number, end = next(
            ((j - i, later[0]) for j, later in enumerate(bounds[i:], i) if later), (len(bounds) - i, seconds)
        )
        complete.append((start, start + (end - start) / number))
    return complete
