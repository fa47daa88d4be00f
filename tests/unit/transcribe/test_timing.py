import numpy as np
import pytest

from speechmill.model.word_times import WordSpan
from speechmill.transcribe.timing import word_bounds

FRAME = 0.02


def levels(frames: int, *loud: tuple[int, int]) -> np.ndarray:
    values = np.full(frames, 1.0, np.float32)
    for start, stop in loud:
        values[start:stop] = 1000.0
    return values


def in_frames(bounds: list[tuple[float, float]]) -> list[tuple[int, int]]:
    return [(round(start / FRAME), round(end / FRAME)) for start, end in bounds]


def test_word_is_as_long_as_its_sound() -> None:
    # Its tokens are emitted from the pause before it until early in its sound.
    assert in_frames(word_bounds([WordSpan(9, 16, 1.0)], levels(60, (11, 30)), FRAME)) == [(11, 30)]


def test_word_ends_at_the_next_one_without_a_pause() -> None:
    spans = [WordSpan(5, 10, 1.0), WordSpan(14, 20, 1.0)]
    assert in_frames(word_bounds(spans, levels(40, (5, 25)), FRAME)) == [(5, 14), (14, 25)]


def test_word_in_a_sound_that_goes_on_ends_soon() -> None:
    # 0.2 s after its last token.
    assert in_frames(word_bounds([WordSpan(5, 10, 1.0)], levels(100, (0, 100)), FRAME)) == [(5, 20)]


def test_word_without_frames_is_between_its_neighbours() -> None:
    spans = [None, WordSpan(10, 20, 1.0), None, None, WordSpan(40, 50, 1.0), None]
    bounds = word_bounds(spans, levels(60, (10, 20), (40, 50)), FRAME)
    assert in_frames(bounds) == [(0, 10), (10, 20), (20, 30), (30, 40), (40, 50), (50, 60)]


def test_no_words_have_no_bounds() -> None:
    assert word_bounds([], levels(5), FRAME) == []
    assert word_bounds([None], levels(5), FRAME) == [(0.0, pytest.approx(0.1))]
