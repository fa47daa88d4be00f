import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechmill.config.text import TextConfig
from speechmill.scoring.protocols import event_reference, scored_texts

# Every sign of the event's list, and what people write beside it.
AWKWARD = st.text(st.sampled_from([*',?.!-;:"“%‘”\ufffd—’…–', *"абёйABZ 한글e\u0301\n«»'"]), max_size=40)

RUSSIAN = TextConfig(unicode="NFC", case="lower", replace=[{"find": "ё", "replacement": "е"}], keep="а-я")


def by_the_event(text: str) -> str:
    """The event's normalisation as its `eval.py` does it: a class of signs, then four sequences of white space."""
    ignored = '[,?.!\\-\\;\\:"“%‘”\ufffd—’…–]'
    text = re.sub(ignored, "", text.lower())
    for sequence in ["\n\n", "\n", "   ", "  "]:
        text = " ".join(text.split(sequence))
    return text


@given(AWKWARD)
def test_a_reference_of_the_event_is_what_its_script_makes_of_it(sentence: str) -> None:
    assert event_reference(sentence) == by_the_event(sentence)


@pytest.mark.parametrize(
    ("sentence", "reference"),
    [
        ("«Кто-то» — Ёж…", "«ктото»  ёж"[:7] + " ёж"),
        (" Раз,\n\nдва\nтри ", " раз два три "),
        ("a     b", "a  b"),
        ("그래요? 네!", "그래요 네"),
    ],
)
def test_known_references(sentence: str, reference: str) -> None:
    assert event_reference(sentence) == reference


def test_the_event_leaves_hypotheses_as_they_come() -> None:
    references, hypotheses = scored_texts("robust_speech_event", [("Ёлка!", "елка")], ["Ёлка, "], RUSSIAN)
    assert (references, hypotheses) == (["ёлка"], ["Ёлка, "])


def test_plain_puts_both_sides_through_the_rules_of_the_run() -> None:
    references, hypotheses = scored_texts("plain", [("Ёлка!", "елка")], ["Ёлка, "], RUSSIAN)
    assert (references, hypotheses) == (["елка"], ["елка"])


@pytest.mark.parametrize("protocol", ["plain", "robust_speech_event"])
def test_jamo_are_composed_to_syllables(protocol: str) -> None:
    jamo = "\u1112\u1161\u11ab"
    references, hypotheses = scored_texts(protocol, [("한", jamo)], [jamo], TextConfig(unicode="NFD"))  # type: ignore[arg-type]  # a parameter
    assert (references, hypotheses) == (["한"], ["한"])
