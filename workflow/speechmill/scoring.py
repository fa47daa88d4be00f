"""Word and character error rates: pure functions of texts and counts."""

import math
import re
from collections.abc import Hashable, Iterable, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rapidfuzz import process
from rapidfuzz.distance import Levenshtein


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

    They are those of `jiwer.process_words` and `jiwer.process_characters` for the pair, some times as fast: all
    distances are computed in one call, and words are aligned only where the distance leaves open which errors it is
    made of.
    Raises ValueError where the two differ in number.
    """
    if not references and not hypotheses:
        return []
    if len(references) != len(hypotheses):
        raise ValueError(f"{len(references)} references and {len(hypotheses)} hypotheses: one list is shorter")
    both = _as_letters([*references, *hypotheses])
    words, found = both[: len(references)], both[len(references) :]
    lengths, found_lengths = (np.fromiter(map(len, each), dtype=np.int64, count=len(each)) for each in (words, found))
    distances = process.cpdist(words, found, scorer=Levenshtein.distance, dtype=np.int32).astype(np.int64)
    deletions, insertions = np.maximum(lengths - found_lengths, 0), np.maximum(found_lengths - lengths, 0)
    substitutions = distances - deletions - insertions
    # Of two substitutions an alignment may make a deletion and an insertion.
    for i in np.flatnonzero(substitutions > 1):
        kinds = [edit.tag for edit in Levenshtein.editops(words[i], found[i])]
        substitutions[i], deletions[i], insertions[i] = map(kinds.count, ("replace", "delete", "insert"))
    # As jiwer: what surrounds a text is none of its characters.
    stripped, stripped_found = ([text.strip() for text in each] for each in (references, hypotheses))
    character_errors = process.cpdist(stripped, stripped_found, scorer=Levenshtein.distance, dtype=np.int32)
    columns = (lengths - substitutions - deletions, substitutions, deletions, insertions, character_errors)
    return list(map(Counts, *(column.tolist() for column in columns), map(len, stripped)))


_SPACES = re.compile(r"\s\s+")

# No word of its own, since spaces beside it go with it.
_END = "\n"


def _as_letters(texts: Iterable[str]) -> list[str]:
    """Each text with a character a word, the same for the same word, so that words are compared as strings are.

    Words are what jiwer takes for them: what spaces part. All texts are split and put together in one go.
    """
    # Of printable characters the space alone is white.
    plain = [text if text.isprintable() else _SPACES.sub(" ", text).strip() for text in texts]
    words = f" {_END} ".join(plain).split(" ")
    letters = {word: chr(i if i < 0xD800 else i + 0x800) for i, word in enumerate(dict.fromkeys(words), ord(_END) + 1)}
    letters |= {_END: _END, "": ""}
    return "".join(map(letters.__getitem__, words)).split(_END)


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
    """The share of draws to leave out on each side: 2.5 % for many groups, less for few."""
    if groups < 2:
        return 0.025
    normal, freedom = NormalDist(), groups - 1
    z = normal.inv_cdf(0.975)
    # Student's quantile. Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.5.
    t = z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    return normal.cdf(-math.sqrt(groups / freedom) * t)


def grouped(groups: Sequence[Hashable], *columns: Sequence[int]) -> list[NDArray[np.float64]]:
    """The sum of each column over the clips of each group, groups in the order in which they first come."""
    number: dict[Hashable, int] = {}
    members = np.array([number.setdefault(group, len(number)) for group in groups], dtype=np.int64)
    return [np.bincount(members, weights=np.asarray(column, dtype=float)).astype(float) for column in columns]
