"""The confidence of the words of hypotheses, and which of them are right."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from levels_model import levels_model
from speechmill.core.command import SpeechmillError
from speechmill.core.schemas import CTC_OUTPUTS
from speechmill.core.tables import write_table
from speechmill.inference.confidence import confidence_rows, right_words
from speechmill.model.word_times import align_hypothesis

_, PROCESSOR = levels_model("abcdeo")
TOKENS: dict[str, int] = PROCESSOR.tokenizer.get_vocab()


def clip(hypothesis: str, reference: str, scored: str | None = None, name: str = "clip") -> dict[str, Any]:
    """A row of hypotheses.parquet."""
    texts = {"hypothesis": hypothesis, "scored_hypothesis": scored or hypothesis, "scored_reference": reference}
    return {"id": name} | texts


def output(tokens: str, probability: float, name: str = "clip") -> dict[str, Any]:
    """A row of CTC outputs: each token of a text has `probability` in its frame; a blank frame follows each."""
    probabilities = np.full((2 * len(tokens), len(TOKENS)), 1e-3)
    probabilities[1::2, TOKENS["[PAD]"]] = 1
    for frame, token in enumerate(tokens):
        probabilities[2 * frame, TOKENS[token.replace(" ", "|")]] = probability
    log_probs = np.log(probabilities).astype("<f2").tobytes()
    return {"id": name, "frames": len(probabilities), "hypothesis": "", "loss": None, "log_probs": log_probs}


def rows_of(tmp_path: Path, outputs: list[dict[str, Any]], hypotheses: dict[str, Any]) -> list[dict[str, Any]]:
    write_table(outputs, CTC_OUTPUTS, tmp_path / "ctc_outputs.parquet")
    align = partial(align_hypothesis, processor=PROCESSOR, blank=TOKENS["[PAD]"], units="characters", separated=True)
    return list(confidence_rows(tmp_path / "ctc_outputs.parquet", hypotheses, align, True))


def test_substituted_and_inserted_words_are_wrong() -> None:
    assert right_words([clip("a b o e", "a c e"), clip("", "a")], True) in (
        [[True, False, False, True], []],
        [[True, False, True, True], []],
    )


def test_characters_are_words_where_no_spaces_separate_words() -> None:
    # The vowel sign belongs to the consonant before it.
    assert right_words([clip("กิน ข", "กา น ข")], False) == [[False, True, True]]


def test_words_that_text_rules_split_are_left_out() -> None:
    assert right_words([clip("21 a", "twenty one a", "twenty one a"), clip("A", "a", "a")], True) == [None, [True]]


def test_each_decoder_has_the_confidence_of_its_own_words(tmp_path: Path) -> None:
    hypotheses = {"greedy": [clip("ab c", "ab d")], "lm": [clip("ab d", "ab d")]}
    greedy, lm = rows_of(tmp_path, [output("ab c", 0.8)], hypotheses)
    assert (greedy["decoder"], greedy["right"]) == ("greedy", [True, False])
    assert greedy["confidence"] == pytest.approx([0.8, 0.8], rel=1e-3)
    assert (lm["decoder"], lm["right"]) == ("lm", [True, True])
    # The model prefers another letter for its second word.
    assert lm["confidence"] == pytest.approx([0.8, 1e-3], rel=1e-2)


def test_hypotheses_without_words_have_no_confidence(tmp_path: Path) -> None:
    short = output("", 1.0, "short") | {"frames": 0, "log_probs": b""}
    hypotheses = {"greedy": [clip("", "a"), clip("", "a", name="short"), clip("2", "two a", "two a", "split")]}
    found = rows_of(tmp_path, [output("a", 0.5), short, output("a", 0.5, "split")], hypotheses)
    assert [row["confidence"] for row in found] == [[], [], None]


def test_set_that_is_not_available_has_no_rows(tmp_path: Path) -> None:
    assert rows_of(tmp_path, [], {"greedy": []}) == []


@pytest.mark.parametrize(
    ("outputs", "error"),
    [
        ([output("a", 0.5, "another")], "does not match the clips that were scored; delete it"),
        ([output("a", 0.5) | {"log_probs": None}], "has no log-probabilities for clip; delete it"),
    ],
)
def test_outputs_of_other_clips_are_refused(tmp_path: Path, outputs: list[dict[str, Any]], error: str) -> None:
    with pytest.raises(SpeechmillError, match=error):
        rows_of(tmp_path, outputs, {"greedy": [clip("a", "a")]})
