"""Statistical significance of the difference between two error rates on the same clips."""

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

from speechmill.scoring.error_rates import CONFIDENCE, sum_by_group


class PairedDifference(NamedTuple):
    """The difference between two corpus-level error rates: the second minus the first."""

    difference: float
    low: float
    """The lower bound of the 95 % confidence interval; `high` is the upper bound."""
    high: float
    p_value: float
    """Two-sided, against the null hypothesis of no difference."""


def paired_bootstrap(
    first: Sequence[int],
    second: Sequence[int],
    words: Sequence[int],
    groups: Sequence[Hashable],
    seed: int,
    samples: int = 1000,
) -> PairedDifference:
    """Compare the errors of two systems on the same clips, by a paired bootstrap.

    `words` holds the reference length of each clip, in words or, with character errors, in characters. Speakers
    (`groups`) are sampled with replacement, the errors of both systems together. The interval is the percentile
    interval; the p-value is twice the share of samples in which the sign of the difference is reversed, and at least 1
    / samples. Source: Bisani and Ney, Bootstrap estimates for confidence intervals in ASR performance evaluation,
    ICASSP 2004, section 4 (the probability of improvement).
    """
    errors_first, errors_second, group_words = sum_by_group(groups, first, second, words)
    drawn = np.random.default_rng(seed).integers(len(group_words), size=(samples, len(group_words)))
    lengths = np.maximum(group_words[drawn].sum(axis=1), 1.0)
    differences = (errors_second - errors_first)[drawn].sum(axis=1) / lengths
    low, high = np.percentile(differences, [(100 - CONFIDENCE) / 2, (100 + CONFIDENCE) / 2])
    reversed_share = min(np.mean(differences <= 0), np.mean(differences >= 0))
    return PairedDifference(
        float((errors_second.sum() - errors_first.sum()) / max(group_words.sum(), 1.0)),
        float(low),
        float(high),
        float(min(1.0, max(2 * reversed_share, 1 / samples))),
    )
