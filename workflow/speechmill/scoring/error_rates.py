"""Word and character error rates: pure functions of texts and counts."""

from collections.abc import Sequence
from typing import NamedTuple

import jiwer

from speechmill.config.evaluation import ErrorRate

RATE_NAMES: dict[ErrorRate, str] = {"wer": "word error rate", "cer": "character error rate"}
"""The error rates."""


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
