import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechmill.scoring.significance import holm, paired_difference


def two_systems(improvement: float, seed: int) -> tuple[list[int], list[int], list[int], list[int]]:
    """The errors of two systems on 20 clips of each of 30 speakers, the words, and the speakers."""
    rng = np.random.default_rng(seed)
    difficulty = rng.beta(2, 8, size=30).repeat(20)
    words = rng.integers(3, 12, size=600)
    first, second = rng.binomial(words, difficulty), rng.binomial(words, difficulty * (1 - improvement))
    return first.tolist(), second.tolist(), words.tolist(), np.repeat(np.arange(30), 20).tolist()


def test_clear_difference_is_significant() -> None:
    first, second, words, speakers = two_systems(improvement=0.5, seed=0)
    difference, interval, p_value = paired_difference(first, second, words, speakers)
    assert difference == pytest.approx((sum(second) - sum(first)) / sum(words))
    assert interval is not None
    assert interval[0] < difference < interval[1] < 0
    # Smaller than any share of a thousand samples.
    assert p_value is not None
    assert 0 < p_value < 1e-6


def test_equal_systems_differ_by_a_few_words_at_most() -> None:
    first, _, words, speakers = two_systems(improvement=0, seed=0)
    margin = 1.96 * math.sqrt(2) / (sum(words) + 2)
    difference, interval, p_value = paired_difference(first, first, words, speakers)
    assert (difference, p_value) == (0, 1)
    assert interval == pytest.approx((-margin, margin), rel=1e-4)


def test_equal_clips_give_the_paired_t_test() -> None:
    # Student, The probable error of a mean, Biometrika 6 (1908): the additional hours of sleep of ten patients by two
    # drugs; the paired t-test gives t = 4.0621, p = 0.002833, 95 % interval 0.7 to 2.46 (R, sleep). In tenths of hours,
    # and each patient a speaker with 1000 words.
    first, second = [7, -16, -2, -12, -1, 34, 37, 8, 0, 20], [19, 8, 11, 1, -1, 44, 55, 16, 46, 34]
    difference, interval, p_value = paired_difference(first, second, [1000] * 10, range(10))
    assert difference == pytest.approx(0.0158)
    assert interval == pytest.approx((0.007001, 0.024599), abs=1e-6)
    assert p_value == pytest.approx(0.002833, abs=1e-6)


def test_pairing_removes_speaker_variance() -> None:
    # Speakers differ far more than the systems do, but the second system is better for every speaker.
    first = [10, 40, 70, 90, 20, 60]
    difference, interval, p_value = paired_difference(first, [n - 2 for n in first], [100] * 6, list("abcdef"))
    assert difference == pytest.approx(-0.02)
    assert interval is not None
    assert interval[1] < 0
    assert p_value is not None
    assert p_value < 0.001


def test_one_word_in_each_speaker_is_no_proof() -> None:
    # Equal differences of both speakers leave no variance, but two words are no evidence.
    _, interval, p_value = paired_difference([1, 1], [0, 0], [50, 50], "ab")
    assert interval is not None
    assert interval[0] < 0 < interval[1]
    assert p_value is not None
    assert p_value > 0.05


@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(1, 9), st.sampled_from("abc")),
        min_size=2,
        max_size=12,
    )
)
def test_p_value_agrees_with_the_interval(clips: list[tuple[int, int, int, str]]) -> None:
    first, second, words, speakers = map(list, zip(*clips, strict=True))
    difference, interval, p_value = paired_difference(first, second, words, speakers)
    assert (interval is None) == (p_value is None) == (len(set(speakers)) == 1)
    if interval is not None and p_value is not None:
        assert interval[0] < difference < interval[1]
        assert (p_value < 0.05) == (not interval[0] <= 0 <= interval[1])


def test_swapping_systems_flips_sign() -> None:
    first, second, words, speakers = two_systems(improvement=0.3, seed=1)
    forward, backward = (
        paired_difference(first, second, words, speakers),
        paired_difference(second, first, words, speakers),
    )
    assert forward.difference == -backward.difference
    assert forward.p_value == backward.p_value


def test_p_values_are_corrected_as_by_p_adjust_of_r() -> None:
    # R: p.adjust(c(0.01, 0.04, 0.03, 0.005, 0.9), method = "holm")
    assert holm([0.01, 0.04, 0.03, 0.005, 0.9]) == pytest.approx([0.04, 0.09, 0.09, 0.025, 0.9])
