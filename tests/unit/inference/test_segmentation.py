"""Alignment of long recordings with transcripts, on log-probabilities that are made from a text."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from speechmill.inference.segmentation import _LARGEST_WINDOW, Segmentation, SegmentSettings, Stretch, align

BLANK, SEPARATOR, VOCABULARY = 0, 1, 12
FRAME = 0.02
LENGTHS = SegmentSettings(min_seconds=0.2, max_seconds=20)
ONE, TWO, THREE, FOUR, FIVE = [2, 3, 4], [5, 6], [7, 7, 8], [9, 10, 11, 2], [6, 4, 9]

LogProbs = NDArray[np.float16]


def spoken(words: Sequence[Sequence[int]], pause: int = 30, certain: float = -9.0) -> LogProbs:
    """The log-probabilities of a recording of `words`: a token every 4 frames, and `pause` frames around words."""
    frames = [BLANK] * pause
    for word in words:
        for token in word:
            frames += [token, BLANK, BLANK, BLANK]
        frames += [BLANK] * (pause - 3)
    log_probs = np.full((len(frames), VOCABULARY), certain, np.float16)
    log_probs[np.arange(len(frames)), frames] = 0
    return log_probs


def aligned(
    log_probs: LogProbs,
    words: Sequence[Sequence[int]],
    limits: SegmentSettings = LENGTHS,
    line_ends: Sequence[int] = (),
    levels: NDArray[np.float32] | None = None,
) -> Segmentation:
    return align(log_probs, words, BLANK, SEPARATOR, FRAME, limits, line_ends, levels)


def words_of(stretches: Sequence[Stretch]) -> list[tuple[int, int]]:
    return [(each.first_word, each.end_word) for each in stretches]


def reasons(result: Segmentation) -> set[str]:
    return {each.reason for each in result.left_out}


def in_order(result: Segmentation) -> list[Stretch]:
    return sorted([*result.pieces, *result.left_out], key=lambda each: each[:4])


def test_pieces_end_at_lines() -> None:
    words = [ONE, TWO, THREE, FOUR]
    result = aligned(spoken(words), words, line_ends=[2])
    assert words_of(result.pieces) == [(0, 2), (2, 4)]
    assert [each.score for each in result.pieces] == [0, 0]
    assert reasons(result) == {"pause"}


def test_pieces_end_near_their_tokens() -> None:
    (piece,) = aligned(spoken([ONE]), [ONE]).pieces
    assert piece.start_seconds == pytest.approx(0.6 - 0.1)
    assert piece.end_seconds == pytest.approx(0.6 + 9 * FRAME + 0.2)


def test_piece_ends_where_its_sound_ends() -> None:
    log_probs = spoken([ONE])
    levels = np.zeros(len(log_probs), np.float32)
    levels[30:55] = 1000
    (piece,) = aligned(log_probs, [ONE], levels=levels).pieces
    assert piece.end_seconds == pytest.approx(55 * FRAME + 0.06)


def test_longer_pauses_are_preferred() -> None:
    words = [ONE, TWO, THREE, FOUR]
    log_probs = np.concatenate([spoken(words[:1], 15), spoken(words[1:], 15)])
    limits = SegmentSettings(min_seconds=0.2, max_seconds=2)
    assert words_of(aligned(log_probs, words, limits).pieces) == [(0, 1), (1, 4)]


def test_words_that_are_not_spoken_are_left_out() -> None:
    result = aligned(spoken([ONE, FOUR]), [ONE, TWO, THREE, FOUR], line_ends=[1, 3])
    assert words_of(result.pieces) == [(0, 1), (3, 4)]
    assert words_of([each for each in result.left_out if each.reason == "no_audio"]) == [(1, 3)]


def test_speech_without_text_is_left_out() -> None:
    result = aligned(spoken([ONE, TWO, THREE, FOUR]), [ONE, FOUR], line_ends=[1])
    assert words_of(result.pieces) == [(0, 1), (1, 2)]
    (left_out,) = [each for each in result.left_out if each.reason == "no_text"]
    assert left_out.end_seconds - left_out.start_seconds > 1


def test_other_words_than_spoken_are_left_out() -> None:
    result = aligned(spoken([ONE, TWO, THREE, FOUR]), [ONE, FIVE, FOUR, FOUR], line_ends=[1, 3])
    assert words_of(result.pieces) == [(0, 1), (3, 4)]
    assert "different" in reasons(result)


def test_words_beside_missing_ones_are_left_out_up_to_the_next_pause() -> None:
    result = aligned(spoken([ONE, [*TWO, *THREE], FOUR]), [ONE, FIVE, FIVE, TWO, THREE, FOUR], line_ends=[1, 5])
    assert words_of(result.pieces) == [(0, 1), (5, 6)]
    assert {"no_audio", "no_pause"} <= reasons(result)


def test_another_recording_scores_low() -> None:
    rng = np.random.default_rng(0)
    recording, transcript = (rng.integers(2, VOCABULARY, (400, 4)).tolist() for _ in range(2))
    result = aligned(spoken(recording, 8), transcript)
    kept = sum(each.end_word - each.first_word for each in result.pieces if each.score > -1.5)
    assert kept < 0.02 * len(transcript)


def test_one_wrong_word_lowers_the_score_of_its_piece() -> None:
    right = [ONE, TWO, THREE, FOUR] * 3
    uncertain = spoken(right, certain=-3.0)
    wrong = [*right[:5], FIVE[:2], *right[6:]]
    assert aligned(uncertain, right).pieces[0].score == 0
    assert min(each.score for each in aligned(uncertain, wrong).pieces) < -0.5


@pytest.mark.parametrize("missing", [0, 60, 240])
def test_large_windows_are_divided_at_anchors(missing: int) -> None:
    rng = np.random.default_rng(1)
    recording = rng.integers(2, VOCABULARY, (800, 4)).tolist()
    transcript = [*recording[:500], *recording[500 + missing :]]
    result = aligned(spoken(recording, 8), transcript, SegmentSettings(min_seconds=0.2, max_seconds=600))
    assert sum(each.end_word - each.first_word for each in result.pieces) == len(transcript)
    ends = {each.end_word for each in result.pieces}
    assert (500 in ends) is (missing > 0)


def test_a_long_text_that_repeats_itself_is_aligned() -> None:
    words = [ONE, TWO, THREE, FOUR] * 200
    log_probs = spoken(words, 12)
    assert len(log_probs) * sum(map(len, words)) > _LARGEST_WINDOW
    result = aligned(log_probs, words, line_ends=range(4, 800, 4))
    assert sum(each.end_word - each.first_word for each in result.pieces if each.score == 0) == 800


def test_a_sentence_is_found_in_a_long_recording() -> None:
    rng = np.random.default_rng(2)
    recording = rng.integers(2, VOCABULARY, (2000, 4)).tolist()
    log_probs = spoken(recording, 12)
    result = aligned(log_probs, recording[1500:1512])
    seconds = 1500 * (4 * 4 + 9) * FRAME
    assert words_of(result.pieces)[0][0] == 0 and words_of(result.pieces)[-1][1] == 12
    assert result.pieces[0].start_seconds == pytest.approx(seconds, abs=1)


def test_equal_tokens_in_neighbouring_words() -> None:
    words = [[2, 3], [3, 3], [3, 4]]
    result = aligned(spoken(words), words)
    assert words_of(result.pieces) == [(0, 1), (1, 2), (2, 3)]


def test_vocabulary_without_separator() -> None:
    words = [ONE, TWO, THREE]
    result = align(spoken(words), words, BLANK, None, FRAME, LENGTHS)
    assert sum(each.end_word - each.first_word for each in result.pieces) == 3


def test_word_without_tokens_stays_with_the_word_before() -> None:
    words = [ONE, [], TWO, []]
    result = aligned(spoken([ONE, TWO]), words, line_ends=[2])
    assert words_of(result.pieces) == [(0, 2), (2, 4)]


def test_too_short_and_too_long_stretches_are_left_out() -> None:
    words = [ONE, FOUR * 20]
    result = aligned(spoken(words), words, SegmentSettings(min_seconds=2, max_seconds=5), line_ends=[1])
    assert not result.pieces
    assert {"short", "long"} & reasons(result)


words_strategy = st.lists(st.lists(st.integers(2, VOCABULARY - 1), max_size=4), max_size=12)


@settings(max_examples=40)
@given(
    recording=words_strategy,
    transcript=words_strategy,
    pause=st.integers(4, 30),
    extra=st.integers(0, 40),
    data=st.data(),
)
def test_every_word_and_every_second_is_accounted_for(
    recording: list[list[int]], transcript: list[list[int]], pause: int, extra: int, data: st.DataObject
) -> None:
    rng = np.random.default_rng(extra)
    noise = np.log(rng.dirichlet(np.ones(VOCABULARY), extra)).clip(-20).astype(np.float16)
    log_probs = np.concatenate([spoken(recording, pause), noise])
    line_ends = data.draw(st.sets(st.integers(1, 12)))
    words = data.draw(st.sampled_from([recording, transcript, recording + transcript]))
    levels = rng.choice([0, 1, 1000], len(log_probs), p=[0.7, 0.2, 0.1]).astype(np.float32)
    result = aligned(log_probs, words, line_ends=sorted(line_ends), levels=data.draw(st.sampled_from([None, levels])))
    stretches = in_order(result)
    assert stretches[0].start_seconds == 0 and stretches[0].first_word == 0
    assert stretches[-1].end_seconds == pytest.approx(len(log_probs) * FRAME)
    assert stretches[-1].end_word == len(words)
    for one, following in pairwise(stretches):
        assert one.end_seconds == following.start_seconds
        assert one.end_word == following.first_word
    for piece in result.pieces:
        seconds = round(piece.end_seconds - piece.start_seconds, 6)
        assert LENGTHS.min_seconds <= seconds <= LENGTHS.max_seconds
        assert piece.first_word < piece.end_word and piece.score <= 0
    assert all(each.reason for each in result.left_out)


@pytest.mark.parametrize("frames", [0, 10])
@pytest.mark.parametrize("words", [[], [[]], [ONE]])
def test_empty_recordings_and_texts(frames: int, words: list[list[int]]) -> None:
    result = aligned(spoken([], frames), words)
    assert not result.pieces
    assert sum(each.end_word - each.first_word for each in result.left_out) == len(words)
    assert sum(each.end_seconds - each.start_seconds for each in result.left_out) == pytest.approx(frames * FRAME)
