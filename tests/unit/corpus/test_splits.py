from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechmill.config.datasets import DrawnSplit
from speechmill.core.command import SpeechmillError
from speechmill.corpus.splits import letters, splits_of


def clip(
    speaker: str | None, sentence: str = "Раз.", splits: tuple[str, ...] = ("train", "validated")
) -> dict[str, Any]:
    return {"id": "a", "splits": list(splits), "speaker_id": speaker, "sentence": sentence}


def drawn(**changes: Any) -> dict[str, DrawnSplit]:
    return {"dev": DrawnSplit.model_validate({"of": "train", "share": 0.2} | changes)}


SPEAKERS = [f"speaker {i}" for i in range(2000)]


def chosen(rules: dict[str, DrawnSplit]) -> set[str]:
    return {speaker for speaker in SPEAKERS if splits_of(clip(speaker), rules) == ("dev",)}


def test_about_the_share_of_the_speakers_is_drawn() -> None:
    # Four standard deviations of a binomial of 2,000 draws at 0.2 are 72.
    assert abs(len(chosen(drawn())) - 400) < 72


def test_another_seed_draws_others() -> None:
    assert chosen(drawn()) != chosen(drawn(seed=1))


def test_a_larger_share_keeps_whom_a_smaller_one_drew() -> None:
    assert chosen(drawn()) < chosen(drawn(share=0.4))


def test_a_drawn_clip_belongs_to_no_published_split_any_more() -> None:
    assert {splits_of(clip(speaker), drawn()) for speaker in SPEAKERS} == {("dev",), ("train", "validated")}


def test_only_clips_of_the_named_split_are_drawn() -> None:
    assert {splits_of(clip(speaker, splits=("other",)), drawn()) for speaker in SPEAKERS} == {("other",)}


@given(st.text(min_size=1), st.text(), st.text())
def test_what_a_speaker_says_does_not_move_them(speaker: str, one: str, other: str) -> None:
    assert splits_of(clip(speaker, one), drawn()) == splits_of(clip(speaker, other), drawn())


def test_by_sentence_all_who_say_it_stay_together_whatever_its_punctuation() -> None:
    rules = drawn(by="sentence", share=0.5)
    sentences = [f"Фраза {i}" for i in range(50)]
    both = {(splits_of(clip("a", s), rules), splits_of(clip(None, s.upper() + "!"), rules)) for s in sentences}
    assert both == {(("dev",), ("dev",)), (("train", "validated"), ("train", "validated"))}


def test_a_clip_without_a_speaker_cannot_be_drawn_by_speaker() -> None:
    with pytest.raises(SpeechmillError, match=r"drawn\.dev: the clip a has no speaker.*set drawn\.dev\.by to sentence"):
        splits_of(clip(None), drawn())


@pytest.mark.parametrize(
    ("sentence", "same"),
    [("Кто-то, ёжик!", "ктотоёжик"), ("«7 раз»", "7раз"), ("...", ""), ("и\u0306", "й"), ("कि", "कि")],
)
def test_sentences_are_compared_by_their_letters_and_digits(sentence: str, same: str) -> None:
    assert letters(sentence) == same
