"""Word and character error rates: pure functions of texts and counts."""

import math
import re
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rapidfuzz import process
from rapidfuzz.distance import Levenshtein, Postfix, Prefix

CONFIDENCE = 95
"""In how many of a hundred repetitions an interval is to hold the truth."""

_OUTSIDE = (100 - CONFIDENCE) / 200


class Counts(NamedTuple):
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
    """The counts of each pair. An empty reference is allowed: all of its hypothesis are insertions.

    They are those of `jiwer.process_words` and `jiwer.process_characters` for the pair, several times as fast: words
    are told apart and aligned only from the first to the last that differ.
    Raises ValueError where the two differ in number.
    """
    # As jiwer: what surrounds a text is none of its characters.
    stripped, found = ([text.strip() for text in each] for each in (references, hypotheses))
    if len(stripped) != len(found):
        raise ValueError(f"{len(stripped)} references and {len(found)} hypotheses: one list is shorter")
    character_errors = _compared(stripped, found, Levenshtein.distance)
    said, heard = _spaced(stripped), _spaced(found)
    starts, ends = (_compared(said, heard, end.similarity) for end in (Prefix, Postfix))
    counts = map(_count, said, heard, starts, ends, character_errors, map(len, stripped))
    # What Counts._make does, in half the time.
    return list(map(partial(tuple.__new__, Counts), counts))


def _compared(references: Sequence[str], hypotheses: Sequence[str], scorer: Callable[..., int]) -> list[int]:
    compared: list[int] = process.cpdist(references, hypotheses, scorer=scorer, dtype=np.int32).tolist()
    return compared


def _count(
    reference: str, hypothesis: str, same_start: int, same_end: int, character_errors: int, characters: int
) -> tuple[int, ...]:
    """The counts of texts whose words one space parts, the same in so many characters at the start and at the end."""
    words = reference.count(" ") + 1 if reference else 0
    if not character_errors or reference == hypothesis:
        return (words, 0, 0, 0, character_errors, characters)
    if not (reference and hypothesis):
        insertions = hypothesis.count(" ") + 1 if hypothesis else 0
        return (0, 0, words, insertions, character_errors, characters)
    # What is the same at both ends is left out, cut at a space.
    start = reference.rfind(" ", 0, same_start) + 1
    end = reference.find(" ", len(reference) - min(same_end, len(reference) - start, len(hypothesis) - start))
    if end < 0:
        end = len(reference)
    hypothesis_end = end + len(hypothesis) - len(reference)
    if reference.find(" ", start, end) < 0 and hypothesis.find(" ", start, hypothesis_end) < 0:
        return (words - 1, 1, 0, 0, character_errors, characters)
    differing, instead = reference[start:end].split(" "), hypothesis[start:hypothesis_end].split(" ")
    edits = Levenshtein.editops(differing, instead).as_list()
    kinds = [kind for kind, _, _ in edits]
    substitutions, deletions, insertions = map(kinds.count, ("replace", "delete", "insert"))
    hits = words - substitutions - deletions
    return (hits, substitutions, deletions, insertions, character_errors, characters)


_SPACES = re.compile(r"\s\s+")


def _spaced(stripped: list[str]) -> list[str]:
    """What jiwer takes for words, namely what spaces part, with one space between them."""
    # Of printable characters the space alone is white.
    if all(map(str.isprintable, stripped)) and "  " not in "".join(stripped):
        return stripped
    return [" ".join(word for word in _SPACES.sub(" ", text).strip().split(" ") if word) for text in stripped]


def rate(errors: float, length: float) -> float:
    """Errors over the length of the reference: of a whole set, as a corpus-level WER or CER has it.

    Of a reference without any words it is infinite if there are errors, and 0 if there are none.
    """
    if length == 0:
        return float("inf") if errors else 0.0
    return errors / length


def percent(fraction: float) -> float:
    """A fraction as a percentage of two decimals."""
    return round(100 * fraction, 2)


def bootstrap_interval(
    errors: Sequence[int], words: Sequence[int], groups: Sequence[Hashable], seed: int, samples: int = 1000
) -> tuple[float, float]:
    """The 95 % interval of the corpus-level error rate, by the expanded percentile bootstrap over groups of clips.

    `groups` gives each clip's speaker where it is known; clips of one speaker err alike, so speakers are drawn, not
    clips. Few groups make plain percentiles too narrow, so wider ones are taken. Sources: Bisani and Ney, Bootstrap
    estimates for confidence intervals in ASR performance evaluation, ICASSP 2004; Hesterberg, What teachers should know
    about the bootstrap, The American Statistician 69 (2015), section 5.3.
    """
    group_errors, group_words = grouped(groups, errors, words)
    number = len(group_words)
    drawn = np.random.default_rng(seed).integers(number, size=(samples, number))
    totals = group_words[drawn].sum(axis=1)
    rates = group_errors[drawn].sum(axis=1) / np.maximum(totals, 1.0)
    outside = 100 * _tail(number)
    low, high = np.percentile(rates, [outside, 100 - outside])
    return float(low), float(high)


def _tail(groups: int) -> float:
    """The share of draws to leave out on each side: `_OUTSIDE` for many groups, less for few."""
    if groups < 2:
        return _OUTSIDE
    normal, freedom = NormalDist(), groups - 1
    z = normal.inv_cdf(1 - _OUTSIDE)
    # Student's quantile. Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.5.
    t = z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    return normal.cdf(-math.sqrt(groups / freedom) * t)


def grouped(groups: Sequence[Hashable], *columns: Sequence[int]) -> list[NDArray[np.float64]]:
    """The sum of each column over the clips of each group, groups in the order in which they first come."""
    number: dict[Hashable, int] = {}
    members = np.array([number.setdefault(group, len(number)) for group in groups], dtype=np.int64)
    return [np.bincount(members, weights=np.asarray(column, dtype=float)).astype(float) for column in columns]
