"""Mean and spread of a score over several runs."""

import statistics
from collections.abc import Sequence
from typing import NamedTuple


class Spread(NamedTuple):
    """Mean and spread of a rate or loss over several runs."""

    mean: float
    deviation: float | None
    """The standard deviation of a sample, with n - 1 in the denominator; None for one run."""
    low: float
    high: float
    runs: int


def spread(values: Sequence[float]) -> Spread | None:
    """Return mean, standard deviation, minimum, maximum and number of the values; None if there are none."""
    if not values:
        return None
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return Spread(statistics.fmean(values), deviation, min(values), max(values), len(values))
