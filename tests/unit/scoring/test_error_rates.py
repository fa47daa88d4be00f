import random
from collections.abc import Sequence

import jiwer
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechmill.scoring.error_rates import Counts, count, rate

WORDS = st.lists(st.sampled_from(["раз", "два", "три", "a", "ab", "ёж", "한"]), max_size=8).map(" ".join)


@given(st.lists(st.tuples(WORDS.filter(bool), WORDS), min_size=1, max_size=8))
def test_corpus_rates_equal_jiwer(pairs: list[tuple[str, str]]) -> None:
    references, hypotheses = ([pair[i] for pair in pairs] for i in (0, 1))
    counts = count(references, hypotheses)
    assert rate(sum(c.errors for c in counts), sum(c.words for c in counts)) == jiwer.wer(references, hypotheses)
    assert rate(sum(c.character_errors for c in counts), sum(c.characters for c in counts)) == pytest.approx(
        jiwer.cer(references, hypotheses)
    )


# White space that jiwer treats as a word separator, and white space that it does not.
UNUSUAL_WHITE_SPACE = st.text("аб \t\n\u00a0\u2003", max_size=12)


@given(st.lists(st.tuples(UNUSUAL_WHITE_SPACE, UNUSUAL_WHITE_SPACE), min_size=1, max_size=8))
def test_counts_with_unusual_white_space(pairs: list[tuple[str, str]]) -> None:
    references, hypotheses = ([pair[i] for pair in pairs] for i in (0, 1))
    counts = count(references, hypotheses)
    words, characters = jiwer.process_words(references, hypotheses), jiwer.process_characters(references, hypotheses)
    for kind in ("hits", "substitutions", "deletions", "insertions"):
        assert sum(getattr(each, kind) for each in counts) == getattr(words, kind)
    assert sum(each.characters for each in counts) == sum(map(len, characters.references))
    assert sum(each.character_errors for each in counts) == (
        characters.substitutions + characters.deletions + characters.insertions
    )


def test_counts_are_minimal_edit_distances() -> None:
    rng = random.Random(0)
    words = ["".join(rng.choices("абвгё한 ", k=rng.randint(1, 5))) for _ in range(60)]
    references, hypotheses = (
        [" ".join(rng.choices(words, k=rng.randint(0, 9))) for _ in range(1000)] for _ in ("references", "hypotheses")
    )
    assert any(not reference for reference in references)
    for reference, hypothesis, counts in zip(references, hypotheses, count(references, hypotheses), strict=True):
        assert counts.errors == edit_distance(reference.split(), hypothesis.split())
        assert counts.character_errors == edit_distance(reference.strip(), hypothesis.strip())
        assert (counts.words, counts.characters) == (len(reference.split()), len(reference.strip()))


def edit_distance(first: Sequence[str], second: Sequence[str]) -> int:
    """The Levenshtein distance by dynamic programming. Source: Wagner and Fischer, 1974."""
    row = list(range(len(second) + 1))
    for i, left in enumerate(first, start=1):
        previous, row = row, [i]
        for j, right in enumerate(second):
            row.append(min(previous[j] + (left != right), previous[j + 1] + 1, row[j] + 1))
    return row[-1]


@given(WORDS, WORDS)
def test_counts_add_up_to_word_totals(reference: str, hypothesis: str) -> None:
    (counts,) = count([reference], [hypothesis])
    assert counts.words == len(reference.split())
    assert counts.hits + counts.substitutions + counts.insertions == len(hypothesis.split())
    assert counts.characters == len(reference)


@given(WORDS)
def test_perfect_hypothesis_has_no_errors(text: str) -> None:
    (counts,) = count([text], [text])
    assert counts.errors == counts.character_errors == 0


def test_textbook_example() -> None:
    # Jurafsky and Martin, Speech and Language Processing (3rd ed. draft), section "Evaluating automatic speech
    # recognition": 6 substitutions, 3 insertions and 1 deletion over 13 words, a WER of 76.9 %.
    reference = "i *** ** um the phone is i left the portable **** phone upstairs last night"
    hypothesis = "i got it to the fullest i love to portable form of stores last night"
    reference = " ".join(word for word in reference.split() if "*" not in word)
    (counts,) = count([reference], [hypothesis])
    assert (counts.substitutions, counts.insertions, counts.deletions) == (6, 3, 1)
    assert counts.words == 13
    assert round(100 * rate(counts.errors, counts.words), 1) == 76.9


def test_textbook_edit_distance() -> None:
    # The textbook example of the Levenshtein distance: from kitten to sitting it takes three edits.
    (counts,) = count(["kitten"], ["sitting"])
    assert (counts.character_errors, counts.characters) == (3, 6)


def test_empty_reference_counts_insertions() -> None:
    assert count([""], ["раз два"]) == [Counts(0, 0, 0, insertions=2, character_errors=7, characters=0)]


def test_empty_hypothesis_counts_deletions() -> None:
    assert count(["раз два"], [""]) == [Counts(0, 0, deletions=2, insertions=0, character_errors=7, characters=7)]


def test_empty_reference_and_hypothesis_match() -> None:
    assert count([""], [""]) == [Counts(0, 0, 0, 0, 0, 0)]


def test_rate_of_empty_reference() -> None:
    assert rate(1, 0) == float("inf")
    assert rate(0, 0) == 0.0


def test_unequal_lengths_are_rejected() -> None:
    with pytest.raises(ValueError, match="shorter"):
        count(["раз", "два"], ["раз"])
