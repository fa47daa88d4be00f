import io
import subprocess

import numpy as np
import pytest
import soundfile as sf
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from speechmill.core.flac import Int16Samples
from speechmill.core.schemas import SAMPLE_RATE
from speechmill.inference.voice_activity import WINDOW, speech_pieces, speech_probabilities


def spoken(text: str) -> Int16Samples:
    wav = subprocess.run(["espeak-ng", "--stdout", text], check=True, capture_output=True).stdout
    samples, rate = sf.read(io.BytesIO(wav))
    return (soxr.resample(samples, rate, SAMPLE_RATE) * 32767).astype(np.int16)


def pause(seconds: float) -> Int16Samples:
    return np.random.default_rng(0).normal(0, 30, round(seconds * SAMPLE_RATE)).astype(np.int16)


def probabilities(*parts: tuple[float, float]) -> NDArray[np.float32]:
    """Return constant probabilities for (seconds, probability) in turn."""
    return np.concatenate([np.full(round(seconds * SAMPLE_RATE / WINDOW), p, np.float32) for seconds, p in parts])


def in_seconds(given: NDArray[np.float32], min_seconds: float, max_seconds: float) -> list[list[float]]:
    pieces = speech_pieces(given, len(given) * WINDOW, min_seconds, max_seconds)
    return [[sample / SAMPLE_RATE for sample in piece] for piece in pieces]


def test_speech_is_found_between_noise() -> None:
    first, second = spoken("one two three four"), spoken("five six seven")
    samples = np.concatenate([pause(3), first, pause(2), second, pause(3)])
    second_start = 5 * SAMPLE_RATE + len(first)
    expected = [(3 * SAMPLE_RATE, 3 * SAMPLE_RATE + len(first)), (second_start, second_start + len(second))]
    pieces = speech_pieces(speech_probabilities([samples]), len(samples), 0.5, 20)
    assert len(pieces) == 2
    # The recordings themselves begin and end with silence.
    assert np.abs(np.subtract(pieces, expected)).max() < 0.4 * SAMPLE_RATE


@pytest.mark.parametrize("samples", [np.zeros(SAMPLE_RATE, np.int16), pause(1.0)], ids=["silence", "noise"])
def test_silence_and_noise_are_no_speech(samples: Int16Samples) -> None:
    assert speech_pieces(speech_probabilities([samples]), len(samples), 0.5, 20) == []


def test_blocks_do_not_change_probabilities() -> None:
    samples = spoken("one two three four")[: 40 * WINDOW + 100]
    blocks = [samples[: 3 * WINDOW], samples[3 * WINDOW : 30 * WINDOW], samples[30 * WINDOW :]]
    whole = speech_probabilities([samples])
    assert len(whole) == 41
    assert speech_probabilities(blocks).tolist() == whole.tolist()


def test_pieces_have_margins() -> None:
    found = in_seconds(probabilities((2, 0), (3, 1), (2, 0), (4, 1), (2, 0)), 1, 20)
    assert np.allclose(found, [[1.85, 5.15], [6.85, 11.15]], atol=0.04)


def test_short_pauses_do_not_separate_pieces() -> None:
    assert len(in_seconds(probabilities((1, 0), (3, 1), (0.2, 0), (3, 1), (1, 0)), 1, 20)) == 1


def test_long_speech_is_cut_in_its_pauses() -> None:
    found = in_seconds(probabilities((4, 1), (0.2, 0.1), (5, 1), (0.2, 0.1), (3, 1)), 1, 6)
    assert np.allclose(found, [[0, 4.1], [4.1, 9.3], [9.3, 12.4]], atol=0.04)


def test_short_speech_gets_more_of_the_pauses_around_it() -> None:
    found = in_seconds(probabilities((5, 0), (0.5, 1), (5, 0)), 2, 20)
    assert np.allclose(found, [[4.25, 6.25]], atol=0.04)


def test_short_speech_joins_its_neighbour() -> None:
    found = in_seconds(probabilities((2, 1), (0.5, 0), (0.3, 1), (0.5, 0), (2, 1)), 2, 20)
    assert np.allclose(found, [[0, 5.3]], atol=0.04)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 60), st.sampled_from([0.0, 0.4, 0.6, 1.0])), min_size=2, max_size=12))
def test_pieces_are_in_order_and_within_the_limits(parts: list[tuple[int, float]]) -> None:
    given = np.concatenate([np.full(windows, p, np.float32) for windows, p in parts])
    num_samples = max(SAMPLE_RATE, len(given) * WINDOW - 100)
    pieces = speech_pieces(given, num_samples, 0.5, 1.0)
    edges = [edge for piece in pieces for edge in piece]
    assert edges == sorted(edges)
    assert all(0 <= edge <= num_samples for edge in edges)
    assert all(0.5 <= (end - start) / SAMPLE_RATE <= 1.0 for start, end in pieces)
