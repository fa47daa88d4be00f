"""Word and character error rates: pure functions of texts and counts."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import jiwer
import numpy as np


@dataclass(frozen=True)
class Counts:
    """The alignment of one hypothesis with its reference, in words, and the edit distance in characters."""

    hits: int
    substitutions: int
    deletions: int
    insertions: int
    character_errors: int
    characters: int

    @property
    def errors(self) -> int:
        """Words that are wrong, missing or too many."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def words(self) -> int:
        """Words of the reference."""
        return self.hits + self.substitutions + self.deletions


def count(references: Sequence[str], hypotheses: Sequence[str]) -> list[Counts]:
    """The counts of each pair. An empty reference is allowed: all of its hypothesis are insertions."""
    counts = []
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        words = jiwer.process_words(reference, hypothesis)
        characters = jiwer.process_characters(reference, hypothesis)
        counts.append(
            Counts(
                words.hits,
                words.substitutions,
                words.deletions,
                words.insertions,
                characters.substitutions + characters.deletions + characters.insertions,
                characters.hits + characters.substitutions + characters.deletions,
            )
        )
    return counts


def rate(errors: float, length: float) -> float:
    """Errors over the length of the reference: of a whole set, as a corpus-level WER or CER has it.

    Of a reference without any words it is infinite if there are errors, and 0 if there are none.
    """
    if length == 0:
        return float("inf") if errors else 0.0
    return errors / length


def bootstrap_interval(
    errors: Sequence[int], words: Sequence[int], groups: Sequence[Hashable], seed: int, samples: int = 1000
) -> tuple[float, float]:
    """The 95 % interval of the corpus-level error rate, by the percentile bootstrap over groups of clips.

    `groups` gives each clip's speaker where it is known; clips of one speaker err alike, so speakers are drawn, not
    clips. Source: Bisani and Ney, Bootstrap estimates for confidence intervals in ASR performance evaluation,
    ICASSP 2004.
    """
    number: dict[Hashable, int] = {}
    members = np.array([number.setdefault(group, len(number)) for group in groups])
    group_errors, group_words = (np.bincount(members, weights=np.asarray(x, dtype=float)) for x in (errors, words))
    drawn = np.random.default_rng(seed).integers(len(number), size=(samples, len(number)))
    totals = group_words[drawn].sum(axis=1)
    rates = group_errors[drawn].sum(axis=1) / np.maximum(totals, 1.0)
    low, high = np.percentile(rates, [2.5, 97.5])
    return float(low), float(high)
