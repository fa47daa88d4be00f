import random
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interval_simulation import MEAN_RATES, SPEAKERS, coverage
from material import ROOT
from speechmill.scoring.error_rates import rate
from speechmill.scoring.intervals import confidence_interval, t_quantile, t_test, variance, why_no_interval


def random_clips(speakers: int, seed: int) -> tuple[list[int], list[int], list[str]]:
    """The errors, words and speakers of 20 clips of each of `speakers`, who have different error rates."""
    rng = random.Random(seed)
    errors, words, groups = [], [], []
    for speaker in range(speakers):
        difficulty = rng.uniform(0, 0.6)
        for _ in range(20):
            words.append(rng.randint(1, 10))
            errors.append(sum(rng.random() < difficulty for _ in range(words[-1])))
            groups.append(f"speaker {speaker}")
    return errors, words, groups


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.sampled_from("abcd")), min_size=1, max_size=12))
def test_interval_contains_the_rate_or_is_none(clips: list[tuple[int, int, str]]) -> None:
    errors, words, groups = map(list, zip(*clips, strict=True))
    interval = confidence_interval(errors, words, groups)
    assert (interval is None) == (why_no_interval(words, groups) is not None)
    if interval is not None:
        low, high = interval
        assert 0 <= low <= rate(sum(errors), sum(words)) * (1 + 1e-12)
        assert rate(sum(errors), sum(words)) <= high * (1 + 1e-12)
        assert low < high


@pytest.mark.parametrize(
    ("words", "groups", "why"),
    [
        ([3, 4], "aa", "one speaker"),
        ([3], "a", "one clip"),
        ([0, 0], "ab", "the references have no words"),
        ([], "", "the references have no words"),
        ([3, 4, 0, 0, 0], "aabcd", "one speaker with words"),
        ([3, 0, 0], "abc", "one clip with words"),
        ([3, 4], "ab", None),
        ([3, 0, 4], "aab", None),
    ],
)
def test_reason_for_no_interval(words: list[int], groups: str, why: str | None) -> None:
    assert why_no_interval(words, list(groups)) == why
    assert (confidence_interval([1] * len(words), words, list(groups)) is None) == (why is not None)


def test_clips_without_words_do_not_inflate_it() -> None:
    # Ten speakers, of whom two have words; the others' clips are empty and have insertions.
    _, high = confidence_interval([1] * 10, [10, 10, *[0] * 8], range(10)) or (0, 99)
    assert high <= 1


def test_errors_of_one_speaker_are_correlated() -> None:
    errors, words, groups = random_clips(10, seed=1)
    assert variance(errors, words, groups) > 2 * variance(errors, words, range(len(words)))


def test_interval_narrows_with_more_speakers() -> None:
    intervals = [confidence_interval(*random_clips(speakers, seed=3)) or (0, 0) for speakers in (2, 3, 10, 40, 160)]
    widths = [high - low for low, high in intervals]
    assert all(wider > narrower for wider, narrower in pairwise(widths))


def test_interval_of_single_words_is_wilson() -> None:
    # 81 of 263: Newcombe, Two-sided confidence intervals for the single proportion, Statistics in Medicine 17 (1998),
    # table I: 0.2553 to 0.3662. With 262 degrees of freedom, the interval by t is slightly wider.
    low, high = confidence_interval([1] * 81 + [0] * 182, [1] * 263, range(263)) or (0, 0)
    assert (low, high) == pytest.approx((0.2553, 0.3662), abs=0.001)
    assert low < 0.2553
    assert high > 0.3662


def test_equal_rates_have_an_interval_for_words() -> None:
    # Speakers with exactly equal rates show no variance; then each word counts: Wilson's interval of 20 of 200 is
    # 0.0659 to 0.1494, from (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n).
    assert confidence_interval([10, 10], [100, 100], "ab") == pytest.approx((0.0657, 0.1494), abs=2e-4)


def test_no_errors_have_an_upper_end() -> None:
    # Clopper and Pearson for 0 of 1000: 1 - 0.025^(1/1000) = 0.003682; it is wider for few speakers.
    highs = []
    for speakers in (1000, 30, 10, 3, 2):
        low, high = confidence_interval([0] * 1000, [1] * 1000, [i % speakers for i in range(1000)]) or (9, 0)
        assert low == 0
        highs.append(high)
    assert highs[0] == pytest.approx(0.003682, rel=0.01)
    assert highs == sorted(highs)
    assert highs[2] == pytest.approx(1 - 0.025 ** (2.2622**2 / 1.96**2 / 1000), rel=1e-3)
    assert highs[-1] < 0.2


def test_only_errors_have_a_lower_end() -> None:
    low, high = confidence_interval([10] * 10, [10] * 10, range(10)) or (1, 0)
    no_errors = confidence_interval([0] * 10, [10] * 10, range(10)) or (1, 0)
    assert (1 - high, 1 - low) == pytest.approx(no_errors)


def test_first_error_does_not_lower_the_upper_end() -> None:
    for speakers in (2, 3, 10, 30):
        none, one = (confidence_interval([0] * (speakers - 1) + [n], [100] * speakers, range(speakers)) for n in (0, 1))
        assert none is not None
        assert one is not None
        # The exact interval for no errors is up to a fifth wider than Wilson's.
        assert one[1] > 0.8 * none[1]


def test_rates_above_1_have_no_upper_limit() -> None:
    # Two speakers with 1.1 and 0.9: 1 ± 12.706 · 0.1.
    assert confidence_interval([110, 90], [100, 100], "ab") == pytest.approx((0, 2.2706), abs=1e-4)
    low, high = confidence_interval([110, 130, 150, 120], [100] * 4, "abcd") or (0, 0)
    assert 1 < low < 1.275 < high


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    # Abramowitz and Stegun, Handbook of Mathematical Functions, table 26.10, Q = 0.975.
    [(1, 12.706), (2, 4.303), (5, 2.571), (9, 2.262), (29, 2.045), (120, 1.980), (10**6, 1.960)],
)
def test_t_quantile_and_p_value(freedom: int, quantile: float) -> None:
    assert t_quantile(freedom) == pytest.approx(quantile, abs=5e-4)
    assert t_test(t_quantile(freedom), freedom) == pytest.approx(0.05)


def documented_coverage() -> dict[tuple[int, float], list[float]]:
    """The percentages of the table in docs/numbers.md, by number of speakers and mean error rate."""
    text = (ROOT / "docs" / "numbers.md").read_text(encoding="utf-8")
    rows = [re.findall(r"[\d.]+", line) for line in text.splitlines() if re.match(r"\| \d+ \| \d+ % \|", line)]
    return {(int(row[0]), int(row[1]) / 100): [float(cell) for cell in row[2:]] for row in rows}


def test_documented_coverage_is_near_95_percent() -> None:
    documented = documented_coverage()
    assert set(documented) == {(speakers, mean_rate) for speakers in SPEAKERS for mean_rate in MEAN_RATES}
    for (speakers, _), (scores, differences, false_alarms) in documented.items():
        highest = 99 if speakers < 10 else 97
        assert 93 <= scores <= highest
        assert 93 <= differences <= highest
        assert false_alarms <= 7


@pytest.mark.parametrize("mean_rate", MEAN_RATES)
@pytest.mark.parametrize("speakers", SPEAKERS)
def test_coverage_is_the_documented_one(speakers: int, mean_rate: float) -> None:
    # Three standard errors of a percentage of 250 samples are 4.1 points at 95.
    found = coverage(speakers, mean_rate, samples=250, seed=1)
    assert found == pytest.approx(documented_coverage()[speakers, mean_rate], abs=4.1)
