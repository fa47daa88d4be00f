"""Whether two error rates on the same clips differ by more than chance."""

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

from speechmill.scoring.error_rates import CONFIDENCE, grouped


class Paired(NamedTuple):
    """The difference of two corpus-level error rates: the second less the first."""

    difference: float
    low: float
    """The lower end of its 95 % interval."""
    high: float
    p_value: float
    """How often chance alone would make a difference as large, two-sided."""


def paired(
    first: Sequence[int],
    second: Sequence[int],
    words: Sequence[int],
    groups: Sequence[Hashable],
    seed: int,
    samples: int = 1000,
) -> Paired:
    """Compare the errors that two systems made on the same clips, of which `words` gives the words.

    Speakers (`groups`) are drawn with replacement, both systems' errors together; the interval is that of the
    percentiles, and the p-value twice the share of draws on the far side of no difference. Source: Bisani and Ney,
    Bootstrap estimates for confidence intervals in ASR performance evaluation, ICASSP 2004, section 4 (the probability
    of improvement). A p-value never falls below 1 / samples.
    """
    errors_first, errors_second, group_words = grouped(groups, first, second, words)
    drawn = np.random.default_rng(seed).integers(len(group_words), size=(samples, len(group_words)))
    lengths = np.maximum(group_words[drawn].sum(axis=1), 1.0)
    differences = (errors_second - errors_first)[drawn].sum(axis=1) / lengths
    low, high = np.percentile(differences, [(100 - CONFIDENCE) / 2, (100 + CONFIDENCE) / 2])
    beyond = min(np.mean(differences <= 0), np.mean(differences >= 0))
    return Paired(
        float((errors_second.sum() - errors_first.sum()) / max(group_words.sum(), 1.0)),
        float(low),
        float(high),
        float(min(1.0, max(2 * beyond, 1 / samples))),
    )
