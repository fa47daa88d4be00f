"""Confidence intervals of corpus-level error rates, for errors that are correlated within speakers.

The unit is the speaker, not the clip or the word: errors of one speaker are correlated, and speakers differ. Let
speaker i have x_i errors in w_i words, n speakers have words, W = Σ w_i, p_i = w_i / W, and R = Σ x_i / W. Intervals
use Student's t distribution with n - 1 degrees of freedom, so they are wide for few speakers.
"""

import math
from collections.abc import Hashable, Sequence
from functools import cache
from statistics import NormalDist

import numpy as np
from mpmath import betainc, findroot
from numpy.typing import NDArray

CONFIDENCE = 95
"""The confidence level of all intervals, in percent."""

TAIL = (100 - CONFIDENCE) / 200
"""The probability beyond each end of an interval."""

Z = NormalDist().inv_cdf(1 - TAIL)
"""The quantile of the normal distribution for the confidence level."""


def why_no_interval(words: Sequence[int], groups: Sequence[Hashable]) -> str | None:
    """Return why a set of clips has no confidence interval, or None if it has one.

    An interval requires at least two groups with words: nothing else shows how much speakers differ.

    Args:
        words: The reference length of each clip.
        groups: The speaker of each clip, or the clip itself if its speaker is unknown.
    """
    with_words = [group for group, length in zip(groups, words, strict=True) if length]
    if not with_words:
        return "the references have no words"
    if len(set(with_words)) > 1:
        return None
    unit = "one clip" if len(with_words) == 1 else "one speaker"
    return unit if len(set(groups)) == 1 else f"{unit} with words"


def confidence_interval(
    errors: Sequence[int], words: Sequence[int], groups: Sequence[Hashable]
) -> tuple[float, float] | None:
    """Return the 95 % confidence interval of the corpus-level error rate, or None if `why_no_interval` has a reason.

    It is the Wilson interval with the effective number of words that gives the variance between speakers, and with t
    in place of the normal quantile; the effective number is at most the actual one. Its ends lie between 0 and 1. Only
    if a speaker has a rate above 1, which insertions can cause, it is the symmetric interval, cut off at 0. If there
    are no errors, or only errors, it is the interval of Clopper and Pearson, with the number of words reduced for few
    speakers as by Korn and Graubard.

    Sources: Dean and Pagano, Evaluating confidence interval methods for binomial proportions in clustered surveys,
    Journal of Survey Statistics and Methodology 3 (2015); Korn and Graubard, Confidence intervals for proportions with
    small expected number of positive counts estimated from survey data, Survey Methodology 24 (1998); the documentation
    of SAS, PROC SURVEYFREQ, confidence limits for proportions.

    Args:
        errors: The errors of each clip.
        words: The reference length of each clip, in words or characters.
        groups: The speaker of each clip, or the clip itself if its speaker is unknown.
    """
    if why_no_interval(words, groups):
        return None
    total, rate = sum(words), sum(errors) / sum(words)
    group_errors, group_words = sum_by_group(groups, errors, words)
    quantile = t_quantile(degrees_of_freedom(group_words))
    if rate == 0 or (group_errors == group_words).all():
        margin = 1 - TAIL ** (quantile**2 / Z**2 / total)
        return (0.0, margin) if rate == 0 else (1 - margin, 1.0)
    error = math.sqrt(variance(errors, words, groups))
    if rate >= 1 or (group_errors > group_words)[group_words > 0].any():
        half = max(quantile * error, Z * math.sqrt(rate / total))
        return max(0.0, rate - half), rate + half
    # The quantile squared, divided by the effective number of words.
    width = max((quantile * error) ** 2 / (rate * (1 - rate)), Z**2 / total)
    centre, half = rate + width / 2, math.sqrt(width * rate * (1 - rate) + width**2 / 4)
    return max(0.0, centre - half) / (1 + width), (centre + half) / (1 + width)


def variance(errors: Sequence[int], words: Sequence[int], groups: Sequence[Hashable]) -> float:
    """Return the variance of the corpus-level rate between samples of speakers.

    B = Σ p_i (x_i / w_i - R)² is the variance of the speakers' rates. The variance of R is B / (m - 1), where m is the
    effective number of speakers. If speakers differ, it is Kish's 1 / Σ p_i², since those with many words dominate. If
    their rates differ only by chance, words count and not speakers, and it is n. In between, 1 / (m - 1) is the mean of
    both, weighted with B and with the contribution of chance to B, which the clips of each speaker show.

    Sources: Kish, Survey Sampling (1965), sections 8.2 and 11.7; Cochran, Sampling Techniques (1977), section 9A.

    Args:
        errors: The errors of each clip, or the differences of two systems' errors.
        words: The reference length of each clip; at least two groups have words.
        groups: The speaker of each clip, or the clip itself if its speaker is unknown.
    """
    members, number = _number_groups(groups)
    lengths, counts = np.asarray(words, dtype=float), np.asarray(errors, dtype=float)
    group_counts, group_words = (_sum(members, each, number) for each in (counts, lengths))
    total = lengths.sum()
    # A speaker without words counts as one with a single word.
    divisors = np.maximum(group_words, 1.0)
    between = float(((group_counts - counts.sum() / total * group_words) ** 2 / divisors).sum() / total)
    if between == 0:
        return 0.0
    freedom = degrees_of_freedom(group_words)
    within = ((counts - (group_counts / divisors)[members] * lengths) ** 2).sum() / total**2
    chance = float(freedom * within / (freedom * within + between))
    concentration = float(((group_words / total) ** 2).sum())
    return between * ((1 - chance) * concentration / (1 - concentration) + chance / freedom)


def degrees_of_freedom(group_words: NDArray[np.float64]) -> int:
    """Return the degrees of freedom of the variance between speakers, given the words of each."""
    return int(np.count_nonzero(group_words)) - 1


def t_test(statistic: float, freedom: int) -> float:
    """Return the two-sided p-value of a statistic with Student's t distribution.

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.1.
    """
    return float(betainc(freedom / 2, 0.5, 0, freedom / (freedom + statistic**2), regularized=True))


@cache
def t_quantile(freedom: int) -> float:
    """Return the quantile of Student's t distribution for the confidence level."""
    # The tangent is the quantile for one degree of freedom, the largest.
    bounds = Z, math.tan(math.pi * (0.5 - TAIL)) + 1
    return float(findroot(lambda statistic: t_test(statistic, freedom) - 2 * TAIL, bounds, solver="anderson"))


def sum_by_group(groups: Sequence[Hashable], *columns: Sequence[int]) -> list[NDArray[np.float64]]:
    """Return the sums of each column by group, with the groups in order of first appearance."""
    members, number = _number_groups(groups)
    return [_sum(members, np.asarray(column, dtype=float), number) for column in columns]


def _sum(members: NDArray[np.int64], values: NDArray[np.float64], number: int) -> NDArray[np.float64]:
    return np.bincount(members, values, minlength=number).astype(float)


def _number_groups(groups: Sequence[Hashable]) -> tuple[NDArray[np.int64], int]:
    """Return the index of each clip's group, in order of first appearance, and the number of groups."""
    number: dict[Hashable, int] = {}
    members = np.array([number.setdefault(group, len(number)) for group in groups], dtype=np.int64)
    return members, len(number)
