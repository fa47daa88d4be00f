"""Statistical significance of the difference between two error rates on the same clips."""

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

from speechmill.scoring.intervals import (
    Z,
    degrees_of_freedom,
    sum_by_group,
    t_quantile,
    t_test,
    variance,
    why_no_interval,
)


class PairedDifference(NamedTuple):
    """The difference between two corpus-level error rates: the second minus the first."""

    difference: float
    interval: tuple[float, float] | None
    """The 95 % confidence interval, or None if `why_no_interval` has a reason."""
    p_value: float | None
    """Two-sided, against the null hypothesis of no difference; below 0.05 if and only if the interval excludes 0."""


def paired_difference(
    first: Sequence[int], second: Sequence[int], words: Sequence[int], groups: Sequence[Hashable]
) -> PairedDifference:
    """Compare the errors of two systems on the same clips, by a paired t-test over speakers.

    The statistic is the difference divided by its standard error between speakers, see `intervals.variance`. The
    standard error is too small, or 0, if few or no words differ. The interval is therefore at least that of Bonett and
    Price for two systems that agree on every word: 0 ± z √2 / (W + 2), where W is the number of words or, with
    character errors, of characters.

    Sources: Gillick and Cox, Some statistical issues in the comparison of speech recognition algorithms, ICASSP 1989
    (the matched-pairs test, there over segments); Bonett and Price, Adjusted Wald confidence interval for a difference
    of binomial proportions based on paired data, Journal of Educational and Behavioral Statistics 37 (2012).

    Args:
        first: The word or character errors of the first system on each clip.
        second: The errors of the second system.
        words: The reference length of each clip, in words or characters; at least one is not empty.
        groups: The speaker of each clip, or the clip itself if its speaker is unknown.
    """
    differences = [b - a for a, b in zip(first, second, strict=True)]
    total = sum(words)
    difference = sum(differences) / total
    if why_no_interval(words, groups):
        return PairedDifference(difference, None, None)
    (group_words,) = sum_by_group(groups, words)
    freedom = degrees_of_freedom(group_words)
    error, least_error = math.sqrt(variance(differences, words, groups)), math.sqrt(2) / (total + 2)
    margin = max(t_quantile(freedom) * error, Z * least_error)
    p_value = max(
        t_test(difference / error, freedom) if error else 0.0,
        math.erfc(abs(difference) / least_error / math.sqrt(2)),
    )
    return PairedDifference(difference, (difference - margin, difference + margin), p_value)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number, so that the chance of any false difference is at most the level.

    The i-th smallest of m is multiplied by m - i + 1, and is at least the corrected one before it, at most 1.

    Source: Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6 (1979).
    """
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = largest
    return corrected
