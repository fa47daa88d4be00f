"""Simulated errors of speakers who differ, and the coverage of the confidence intervals on them.

`PYTHONPATH=workflow:tests python -m interval_simulation` prints the table of docs/numbers.md, in several minutes.

Each speaker has 5 to 40 clips of 1 + Poisson(6) words. Speakers' error rates have a beta distribution with shape 2 and
the given mean, so their standard deviation is about two thirds of it. The rate of a second system is multiplied by
1 - improvement and, by speaker, by a log-normal factor with mean 1 and standard deviation 0.3. Given the rates, the
errors of a clip are binomial.
"""

import sys
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from speechmill.scoring.intervals import confidence_interval
from speechmill.scoring.significance import paired_difference

SPEAKERS = (2, 3, 6, 10, 30)
MEAN_RATES = (0.05, 0.2)
IMPROVEMENT = 0.25


class Sample(NamedTuple):
    """The errors of two systems on the clips of a test set."""

    first: list[int]
    second: list[int]
    words: list[int]
    speakers: list[int]


class Coverage(NamedTuple):
    """Percentages of samples: intervals that contain the true value, and true nulls with a p-value below 0.05."""

    scores: float
    differences: float
    false_alarms: float


def draw(rng: np.random.Generator, speakers: int, mean_rate: float, improvement: float) -> Sample:
    clips = rng.integers(5, 41, size=speakers)
    rates = rng.beta(2, 2 / mean_rate - 2, size=speakers)
    factors = rng.lognormal(-(0.3**2) / 2, 0.3, size=speakers) * (1 - improvement)
    words = 1 + rng.poisson(6, size=clips.sum())
    first = rng.binomial(words, rates.repeat(clips))
    second = rng.binomial(words, np.minimum(rates * factors, 1).repeat(clips))
    return Sample(first.tolist(), second.tolist(), words.tolist(), np.arange(speakers).repeat(clips).tolist())


def coverage(speakers: int, mean_rate: float, samples: int, seed: int) -> Coverage:
    rng = np.random.default_rng(seed)
    covered = np.zeros(3)
    for _ in range(samples):
        improved, equal = (draw(rng, speakers, mean_rate, improvement) for improvement in (IMPROVEMENT, 0))
        score = confidence_interval(improved.first, improved.words, improved.speakers)
        difference, null = paired_difference(*improved), paired_difference(*equal)
        assert score is not None
        assert difference.interval is not None
        assert null.p_value is not None
        covered += (
            score[0] <= mean_rate <= score[1],
            difference.interval[0] <= -IMPROVEMENT * mean_rate <= difference.interval[1],
            null.p_value < 0.05,
        )
    return Coverage(*(100 * covered / samples).tolist())


def table(samples: int) -> Iterator[str]:
    yield "| speakers | mean WER | coverage of scores | coverage of differences | false alarms |"
    yield "|--:|--:|--:|--:|--:|"
    for speakers in SPEAKERS:
        for mean_rate in MEAN_RATES:
            cells = " | ".join(f"{value:.1f} %" for value in coverage(speakers, mean_rate, samples, seed=0))
            yield f"| {speakers} | {100 * mean_rate:.0f} % | {cells} |"


if __name__ == "__main__":
    for line in table(int(sys.argv[1]) if len(sys.argv) > 1 else 5000):
        print(line, flush=True)
