"""Word and character error rates: pure functions of texts and counts."""

import math
from collections.abc import Hashable, Sequence
from statistics import NormalDist
from typing import NamedTuple

import jiwer
import numpy as np
from numpy.typing import NDArray

from speechmill.config.evaluation import ErrorRate

CONFIDENCE = 95
"""The confidence level of all intervals, in percent."""

RATE_NAMES: dict[ErrorRate, str] = {"wer": "word error rate", "cer": "character error rate"}
"""The error rates."""

_TAIL = (100 - CONFIDENCE) / 200


class Counts(NamedTuple):
    """The word-level edit operations and the character-level edit distance of one hypothesis."""

    hits: int
    substitutions: int
    deletions: int
    insertions: int
    character_errors: int
    characters: int

    @property
    def errors(self) -> int:
        """The number of word errors."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def words(self) -> int:
        """The number of words in the reference."""
        return self.hits + self.substitutions + self.deletions


def count(references: Sequence[str], hypotheses: Sequence[str]) -> list[Counts]:
    """Return the errors of each hypothesis, as jiwer counts them.

    With an empty reference, every word of the hypothesis is an insertion.

    Raises:
        ValueError: The two sequences differ in length.
    """
    return [_count(*pair) for pair in zip(references, hypotheses, strict=True)]


def _count(reference: str, hypothesis: str) -> Counts:
    words, characters = jiwer.process_words(reference, hypothesis), jiwer.process_characters(reference, hypothesis)
    return Counts(
        words.hits,
        words.substitutions,
        words.deletions,
        words.insertions,
        character_errors=characters.substitutions + characters.deletions + characters.insertions,
        characters=characters.hits + characters.substitutions + characters.deletions,
    )


def rate(errors: float, length: float) -> float:
    """Return errors divided by reference length: the corpus-level WER or CER if both are sums over a set.

    For an empty reference, return infinity if there are errors and 0 if there are none.
    """
    if length == 0:
        return float("inf") if errors else 0.0
    return errors / length


def both_rates(first: ErrorRate) -> tuple[ErrorRate, ErrorRate]:
    """Return the names of both error rates, in the order in which they are shown or decide."""
    return ("wer", "cer") if first == "wer" else ("cer", "wer")


def percent(fraction: float) -> float:
    """Return a fraction as a percentage, rounded to two decimals."""
    return round(100 * fraction, 2)


def bootstrap_interval(
    errors: Sequence[int], words: Sequence[int], groups: Sequence[Hashable], seed: int, samples: int = 1000
) -> tuple[float, float]:
    """Return the 95 % confidence interval of the corpus-level error rate, by a bootstrap over groups of clips.

    `groups` holds the speaker of each clip where it is known. Errors of one speaker are correlated, so speakers are
    resampled, not clips. With few groups plain percentile intervals are too narrow; the expanded percentile interval
    corrects for that. Sources: Bisani and Ney, Bootstrap estimates for confidence intervals in ASR performance
    evaluation, ICASSP 2004; Hesterberg, What teachers should know about the bootstrap, The American Statistician 69
    (2015), section 5.3.
    """
    group_errors, group_words = sum_by_group(groups, errors, words)
    number = len(group_words)
    drawn = np.random.default_rng(seed).integers(number, size=(samples, number))
    totals = group_words[drawn].sum(axis=1)
    rates = group_errors[drawn].sum(axis=1) / np.maximum(totals, 1.0)
    tail = 100 * _expanded_tail(number)
    low, high = np.percentile(rates, [tail, 100 - tail])
    return float(low), float(high)


def _expanded_tail(groups: int) -> float:
    """Return the share of samples beyond each end of the interval: `_TAIL` for many groups, less for few."""
    if groups < 2:
        return _TAIL
    normal, freedom = NormalDist(), groups - 1
    z = normal.inv_cdf(1 - _TAIL)
    # Student's quantile. Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.5.
    t = z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    return normal.cdf(-math.sqrt(groups / freedom) * t)


def sum_by_group(groups: Sequence[Hashable], *columns: Sequence[int]) -> list[NDArray[np.float64]]:
    """Return the sums of each column by group, with the groups in order of first appearance."""
    number: dict[Hashable, int] = {}
    members = np.array([number.setdefault(group, len(number)) for group in groups], dtype=np.int64)
    return [np.bincount(members, weights=np.asarray(column, dtype=float)).astype(float) for column in columns]
