import numpy as np
import pytest

from speechmill.scoring.significance import paired


def two_systems(better_by: float, seed: int) -> tuple[list[int], list[int], list[int], list[int]]:
    """Errors of two systems on 20 clips of each of 30 speakers, the words, and the speakers."""
    drawn = np.random.default_rng(seed)
    difficulty = drawn.beta(2, 8, size=30).repeat(20)
    words = drawn.integers(3, 12, size=600)
    first, second = drawn.binomial(words, difficulty), drawn.binomial(words, difficulty * (1 - better_by))
    return first.tolist(), second.tolist(), words.tolist(), np.repeat(np.arange(30), 20).tolist()


def test_a_clear_difference_is_one() -> None:
    first, second, words, speakers = two_systems(better_by=0.5, seed=0)
    found = paired(first, second, words, speakers, seed=0)
    assert found.difference == pytest.approx((sum(second) - sum(first)) / sum(words))
    assert found.low < found.difference < found.high < 0
    assert found.p_value <= 0.01


def test_a_system_does_not_differ_from_itself() -> None:
    first, _, words, speakers = two_systems(better_by=0, seed=0)
    assert paired(first, first, words, speakers, seed=0) == (0.0, 0.0, 0.0, 1.0)


def test_two_equal_systems_are_told_apart_about_once_in_twenty() -> None:
    found = [paired(*two_systems(better_by=0, seed=seed), seed=seed, samples=400).p_value < 0.05 for seed in range(200)]
    assert 0.01 <= np.mean(found) <= 0.1


def test_pairs_tell_more_than_two_intervals() -> None:
    # Speakers differ far more than the systems do, and yet the second is better with each of them.
    first = [10, 40, 70, 90, 20, 60]
    found = paired(first, [n - 2 for n in first], [100] * 6, list("abcdef"), seed=0)
    assert found.low == found.high == pytest.approx(-0.02)


def test_the_order_of_the_two_turns_the_sign() -> None:
    first, second, words, speakers = two_systems(better_by=0.3, seed=1)
    there, back = paired(first, second, words, speakers, seed=0), paired(second, first, words, speakers, seed=0)
    assert there.difference == -back.difference
    assert there.p_value == back.p_value
