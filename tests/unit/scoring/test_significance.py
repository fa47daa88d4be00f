import numpy as np
import pytest

from speechmill.scoring.significance import paired_bootstrap


def two_systems(improvement: float, seed: int) -> tuple[list[int], list[int], list[int], list[int]]:
    """The errors of two systems on 20 clips of each of 30 speakers, the words, and the speakers."""
    rng = np.random.default_rng(seed)
    difficulty = rng.beta(2, 8, size=30).repeat(20)
    words = rng.integers(3, 12, size=600)
    first, second = rng.binomial(words, difficulty), rng.binomial(words, difficulty * (1 - improvement))
    return first.tolist(), second.tolist(), words.tolist(), np.repeat(np.arange(30), 20).tolist()


def test_clear_difference_is_significant() -> None:
    first, second, words, speakers = two_systems(improvement=0.5, seed=0)
    result = paired_bootstrap(first, second, words, speakers, seed=0)
    assert result.difference == pytest.approx((sum(second) - sum(first)) / sum(words))
    assert result.low < result.difference < result.high < 0
    assert result.p_value <= 0.01


def test_system_does_not_differ_from_itself() -> None:
    first, _, words, speakers = two_systems(improvement=0, seed=0)
    assert paired_bootstrap(first, first, words, speakers, seed=0) == (0.0, 0.0, 0.0, 1.0)


def test_false_positive_rate_is_about_5_percent() -> None:
    significant = [
        paired_bootstrap(*two_systems(improvement=0, seed=seed), seed=seed, samples=400).p_value < 0.05
        for seed in range(200)
    ]
    assert 0.01 <= np.mean(significant) <= 0.1


def test_pairing_removes_speaker_variance() -> None:
    # Speakers differ far more than the systems do, but the second system is better for every speaker.
    first = [10, 40, 70, 90, 20, 60]
    result = paired_bootstrap(first, [n - 2 for n in first], [100] * 6, list("abcdef"), seed=0)
    assert result.low == result.high == pytest.approx(-0.02)


def test_swapping_systems_flips_sign() -> None:
    first, second, words, speakers = two_systems(improvement=0.3, seed=1)
    forward, backward = (
        paired_bootstrap(first, second, words, speakers, seed=0),
        paired_bootstrap(second, first, words, speakers, seed=0),
    )
    assert forward.difference == -backward.difference
    assert forward.p_value == backward.p_value
