import random

import jiwer
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechmill.scoring.error_rates import Counts, bootstrap_interval, count, rate

WORDS = st.lists(st.sampled_from(["раз", "два", "три", "a", "ab", "ёж", "한"]), max_size=8).map(" ".join)


@given(st.lists(st.tuples(WORDS.filter(bool), WORDS), min_size=1, max_size=8))
def test_rates_are_those_of_jiwer_over_the_whole_corpus(pairs: list[tuple[str, str]]) -> None:
    references, hypotheses = ([pair[i] for pair in pairs] for i in (0, 1))
    counts = count(references, hypotheses)
    assert rate(sum(c.errors for c in counts), sum(c.words for c in counts)) == jiwer.wer(references, hypotheses)
    assert rate(sum(c.character_errors for c in counts), sum(c.characters for c in counts)) == pytest.approx(
        jiwer.cer(references, hypotheses)
    )


# With what jiwer takes for white space and what it does not.
AWKWARD = st.text("аб \t\n\u00a0\u2003", max_size=12)


@given(st.lists(st.tuples(AWKWARD, AWKWARD), min_size=1, max_size=8))
def test_counts_are_those_of_jiwer_pair_by_pair_whatever_the_space_between_words(pairs: list[tuple[str, str]]) -> None:
    references, hypotheses = ([pair[i] for pair in pairs] for i in (0, 1))
    assert count(references, hypotheses) == [jiwer_counts(*pair) for pair in pairs]


def test_counts_are_those_of_jiwer_on_ten_thousand_random_pairs() -> None:
    drawn = random.Random(0)
    words = ["".join(drawn.choices("абвгё한 ", k=drawn.randint(1, 5))) for _ in range(60)]
    pairs = [[" ".join(drawn.choices(words, k=drawn.randint(0, 9))) for _ in range(2)] for _ in range(10_000)]
    assert any(not reference for reference, _ in pairs)
    counts = count([reference for reference, _ in pairs], [hypothesis for _, hypothesis in pairs])
    assert counts == [jiwer_counts(*pair) for pair in pairs]


def jiwer_counts(reference: str, hypothesis: str) -> Counts:
    words, characters = jiwer.process_words(reference, hypothesis), jiwer.process_characters(reference, hypothesis)
    errors = characters.substitutions + characters.deletions + characters.insertions
    length = characters.hits + characters.substitutions + characters.deletions
    return Counts(words.hits, words.substitutions, words.deletions, words.insertions, errors, length)


@given(WORDS, WORDS)
def test_counts_add_up_to_the_words_of_both_sides(reference: str, hypothesis: str) -> None:
    (counts,) = count([reference], [hypothesis])
    assert counts.words == len(reference.split())
    assert counts.hits + counts.substitutions + counts.insertions == len(hypothesis.split())
    assert counts.characters == len(reference)


@given(WORDS)
def test_a_perfect_hypothesis_has_no_errors(text: str) -> None:
    (counts,) = count([text], [text])
    assert counts.errors == counts.character_errors == 0


def test_known_example() -> None:
    # Jurafsky and Martin, Speech and Language Processing (3rd ed. draft), section "Evaluating automatic speech
    # recognition": 6 substitutions, 3 insertions and 1 deletion over 13 words, a WER of 76.9 %.
    reference = "i *** ** um the phone is i left the portable **** phone upstairs last night"
    hypothesis = "i got it to the fullest i love to portable form of stores last night"
    reference = " ".join(word for word in reference.split() if "*" not in word)
    (counts,) = count([reference], [hypothesis])
    assert (counts.substitutions, counts.insertions, counts.deletions) == (6, 3, 1)
    assert counts.words == 13
    assert round(100 * rate(counts.errors, counts.words), 1) == 76.9


def test_known_edit_distance() -> None:
    # Levenshtein's distance of the textbooks: kitten to sitting takes three edits (Wagner and Fischer, 1974).
    (counts,) = count(["kitten"], ["sitting"])
    assert (counts.character_errors, counts.characters) == (3, 6)


def test_an_empty_reference_makes_its_hypothesis_insertions() -> None:
    assert count([""], ["раз два"]) == [Counts(0, 0, 0, insertions=2, character_errors=7, characters=0)]


def test_an_empty_hypothesis_makes_its_reference_deletions() -> None:
    assert count(["раз два"], [""]) == [Counts(0, 0, deletions=2, insertions=0, character_errors=7, characters=7)]


def test_nothing_said_and_nothing_heard_is_right() -> None:
    assert count([""], [""]) == [Counts(0, 0, 0, 0, 0, 0)]


def test_a_rate_over_no_words_is_infinite_if_there_are_errors_and_nothing_otherwise() -> None:
    assert rate(1, 0) == float("inf")
    assert rate(0, 0) == 0.0


def test_texts_without_partners_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        count(["раз", "два"], ["раз"])


def drawn_clips(speakers: int, seed: int) -> tuple[list[int], list[int], list[str]]:
    """Errors, words and speaker of 20 clips of each of `speakers`, who differ in how well they are understood."""
    drawn = random.Random(seed)
    errors, words, groups = [], [], []
    for speaker in range(speakers):
        difficulty = drawn.uniform(0, 0.6)
        for _ in range(20):
            words.append(drawn.randint(1, 10))
            errors.append(sum(drawn.random() < difficulty for _ in range(words[-1])))
            groups.append(f"speaker {speaker}")
    return errors, words, groups


@given(st.integers(0, 10**6))
def test_the_interval_holds_the_rate_itself(seed: int) -> None:
    errors, words, groups = drawn_clips(10, seed)
    low, high = bootstrap_interval(errors, words, groups, seed=0)
    assert 0 <= low <= rate(sum(errors), sum(words)) <= high


def test_the_interval_is_the_same_each_time_and_another_with_another_seed() -> None:
    clips = drawn_clips(10, seed=1)
    assert bootstrap_interval(*clips, seed=0) == bootstrap_interval(*clips, seed=0)
    assert bootstrap_interval(*clips, seed=0) != bootstrap_interval(*clips, seed=1)


def test_clips_of_one_speaker_are_drawn_together() -> None:
    errors, words, groups = drawn_clips(10, seed=1)
    low, high = bootstrap_interval(errors, words, groups, seed=0)
    low_alone, high_alone = bootstrap_interval(errors, words, range(len(words)), seed=0)
    assert high - low > 1.5 * (high_alone - low_alone)


def test_one_speaker_alone_says_nothing_of_others() -> None:
    # There is only one corpus to draw, so the interval has no width.
    assert bootstrap_interval([1, 0], [2, 2], ["a", "a"], seed=0) == (0.25, 0.25)


def test_the_interval_narrows_with_the_number_of_speakers() -> None:
    widths = []
    for speakers in (10, 40, 160):
        low, high = bootstrap_interval(*drawn_clips(speakers, seed=3), seed=0)
        widths.append(high - low)
    assert widths == sorted(widths, reverse=True)


def test_the_interval_is_that_of_the_textbook_for_many_equal_speakers() -> None:
    # 400 speakers of one word each, 100 of them wrong: the normal interval of a proportion, p ± 1.96 √(p(1-p)/n).
    low, high = bootstrap_interval([1] * 100 + [0] * 300, [1] * 400, range(400), seed=0, samples=4000)
    half = 1.96 * (0.25 * 0.75 / 400) ** 0.5
    assert (low, high) == pytest.approx((0.25 - half, 0.25 + half), abs=0.006)


def test_the_interval_holds_the_truth_about_95_times_in_a_hundred() -> None:
    drawn, truth, held, tries = np.random.default_rng(1), 0.2, 0, 600
    for seed in range(tries):
        # Thirty speakers, each with a rate of their own around the truth, and ten clips of three to eleven words.
        difficulty = drawn.beta(2, 8, size=30).repeat(10)
        words = drawn.integers(3, 12, size=300)
        errors = drawn.binomial(words, difficulty)
        low, high = bootstrap_interval(errors.tolist(), words.tolist(), np.repeat(np.arange(30), 10).tolist(), seed)
        held += low <= truth <= high
    assert 0.93 <= held / tries <= 0.97
