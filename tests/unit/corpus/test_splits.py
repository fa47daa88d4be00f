import hashlib
import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechmill.config.datasets import DrawnSplit
from speechmill.core.command import SpeechmillError
from speechmill.corpus.splits import sentence_key, splits_of


def clip(
    speaker: str | None, sentence: str = "Раз.", splits: tuple[str, ...] = ("train", "validated")
) -> dict[str, Any]:
    return {"id": "a", "splits": list(splits), "speaker_id": speaker, "sentence": sentence}


def drawn(**changes: Any) -> dict[str, DrawnSplit]:
    return {"dev": DrawnSplit.model_validate({"of": "train", "share": 0.2} | changes)}


SPEAKERS = [f"speaker {i}" for i in range(2000)]


def drawn_speakers(rules: dict[str, DrawnSplit]) -> set[str]:
    return {speaker for speaker in SPEAKERS if splits_of(clip(speaker), rules) == ("dev",)}


def test_drawn_speakers_are_about_the_share() -> None:
    # 72 is four standard deviations of a binomial distribution with n = 2,000 and p = 0.2.
    assert abs(len(drawn_speakers(drawn())) - 400) < 72


def together(*shares: float, of: str = "train", **changes: Any) -> dict[str, DrawnSplit]:
    """Return splits that are drawn from the same split, one for each share."""
    return {
        name: DrawnSplit.model_validate({"of": of, "share": share} | changes)
        for name, share in zip(("dev", "held", "test"), shares, strict=False)
    }


MANY = [f"speaker {i}" for i in range(10_000)]


@pytest.mark.parametrize("by", ["speaker", "sentence"])
@pytest.mark.parametrize("shares", [(0.3, 0.3), (0.1, 0.8), (0.2, 0.3, 0.4), (0.45, 0.05, 0.125)])
def test_splits_of_one_source_get_their_shares(shares: tuple[float, ...], by: str) -> None:
    rules = together(*shares, by=by)
    counts = Counter(splits_of(clip(each, each), rules) for each in MANY)
    expected = {(name,): rule.share for name, rule in rules.items()} | {("train", "validated"): 1 - sum(shares)}
    assert counts.keys() == expected.keys()
    for split, share in expected.items():
        # Four standard deviations of a binomial distribution.
        assert abs(counts[split] - len(MANY) * share) < 4 * (len(MANY) * share * (1 - share)) ** 0.5, split


def test_split_drawn_alone_is_as_in_0_1_0() -> None:
    def was_drawn(speaker: str, name: str, seed: int, share: float) -> bool:
        digest = hashlib.sha256(f"{seed}/{name}/{speaker}".encode()).digest()
        return int.from_bytes(digest[:8], "big") < share * 2**64

    rules = drawn(seed=3) | {"a": DrawnSplit(of="other", share=0.4)}
    for speaker in SPEAKERS:
        assert (splits_of(clip(speaker), rules) == ("dev",)) is was_drawn(speaker, "dev", 3, 0.2)
        assert (splits_of(clip(speaker, splits=("other",)), rules) == ("a",)) is was_drawn(speaker, "a", 0, 0.4)


def test_first_split_by_name_keeps_its_clips() -> None:
    alone, rules = drawn(share=0.3), together(0.3, 0.2, 0.4)
    assert drawn_speakers(alone) == drawn_speakers(rules)


def test_order_of_draws_in_the_file_does_not_matter() -> None:
    rules = together(0.2, 0.3, 0.4)
    turned = dict(reversed(rules.items()))
    assert all(splits_of(clip(each), rules) == splits_of(clip(each), turned) for each in SPEAKERS)


def test_membership_does_not_depend_on_other_clips() -> None:
    rules = together(0.3, 0.3)
    before = {each: splits_of(clip(each), rules) for each in SPEAKERS[:500]}
    more = SPEAKERS.copy()
    random.Random(0).shuffle(more)
    after = {each: splits_of(clip(each), rules) for each in more}
    assert all(after[each] == splits for each, splits in before.items())


def test_another_seed_draws_other_speakers() -> None:
    assert drawn_speakers(drawn()) != drawn_speakers(drawn(seed=1))


def test_larger_share_includes_the_smaller_draw() -> None:
    assert drawn_speakers(drawn()) < drawn_speakers(drawn(share=0.4))


def test_drawn_clip_leaves_its_published_splits() -> None:
    assert {splits_of(clip(speaker), drawn()) for speaker in SPEAKERS} == {("dev",), ("train", "validated")}


def test_only_clips_of_the_named_split_are_drawn() -> None:
    assert {splits_of(clip(speaker, splits=("other",)), drawn()) for speaker in SPEAKERS} == {("other",)}


@given(st.text(min_size=1), st.text(), st.text())
def test_draw_by_speaker_ignores_the_sentence(speaker: str, one: str, other: str) -> None:
    assert splits_of(clip(speaker, one), drawn()) == splits_of(clip(speaker, other), drawn())


def test_draw_by_sentence_ignores_punctuation() -> None:
    rules = drawn(by="sentence", share=0.5)
    sentences = [f"Фраза {i}" for i in range(50)]
    both = {(splits_of(clip("a", s), rules), splits_of(clip(None, s.upper() + "!"), rules)) for s in sentences}
    assert both == {(("dev",), ("dev",)), (("train", "validated"), ("train", "validated"))}


def test_clip_without_speaker_is_drawn_by_another_unit() -> None:
    with pytest.raises(
        SpeechmillError, match=r"drawn\.dev: the clip a has no speaker.*set drawn\.dev\.by to recording or sentence"
    ):
        splits_of(clip(None), drawn())


@pytest.mark.parametrize(
    ("sentence", "same"),
    [("Кто-то, ёжик!", "ктотоёжик"), ("«7 раз»", "7раз"), ("...", ""), ("и\u0306", "й"), ("कि", "कि")],
)
def test_sentences_are_compared_by_letters_and_digits(sentence: str, same: str) -> None:
    assert sentence_key(sentence) == same


def test_clips_of_one_recording_are_in_one_split() -> None:
    rules = {"dev": DrawnSplit(of="train", share=0.3, by="recording")}
    pieces = [{"id": f"r{i}-{j}", "recording": f"r{i}", "splits": ["train"]} for i in range(200) for j in range(5)]
    by_recording = {
        recording: {splits_of(each, rules) for each in pieces if each["recording"] == recording}
        for recording in {str(each["recording"]) for each in pieces}
    }
    assert all(len(splits) == 1 for splits in by_recording.values())
    assert 40 <= sum(splits == {("dev",)} for splits in by_recording.values()) <= 80


def test_clip_that_is_not_cut_is_a_recording() -> None:
    rules = {"dev": DrawnSplit(of="train", share=0.3, by="recording")}
    for i in range(20):
        whole = {"id": f"r{i}", "recording": None, "splits": ["train"]}
        assert splits_of(whole, rules) == splits_of(whole | {"id": "other", "recording": f"r{i}"}, rules)
