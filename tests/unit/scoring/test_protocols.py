import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechmill.config.text import TextConfig
from speechmill.scoring.error_rates import count
from speechmill.scoring.protocols import apply_protocol, event_reference

# All punctuation that the script of the event deletes, mixed with other characters.
SENTENCES = st.text(st.sampled_from([*',?.!-;:"“%‘”\ufffd—’…–', *"абёйABZ 한글e\u0301\n«»'"]), max_size=40)

RUSSIAN = TextConfig(unicode="NFC", case="lower", replace=[{"find": "ё", "replacement": "е"}], keep="а-я")


def event_script(text: str) -> str:
    """The normalisation of the event's `eval.py`: delete some punctuation, then replace four white space sequences."""
    ignored = '[,?.!\\-\\;\\:"“%‘”\ufffd—’…–]'
    text = re.sub(ignored, "", text.lower())
    for sequence in ["\n\n", "\n", "   ", "  "]:
        text = " ".join(text.split(sequence))
    return text


@given(SENTENCES)
def test_event_reference_matches_event_script(sentence: str) -> None:
    assert event_reference(sentence) == event_script(sentence)


@pytest.mark.parametrize(
    ("sentence", "reference"),
    [
        ("«Кто-то» — Ёж…", "«ктото»  ёж"[:7] + " ёж"),
        (" Раз,\n\nдва\nтри ", " раз два три "),
        ("a     b", "a  b"),
        ("그래요? 네!", "그래요 네"),
    ],
)
def test_event_reference_examples(sentence: str, reference: str) -> None:
    assert event_reference(sentence) == reference


def test_event_protocol_keeps_hypotheses() -> None:
    references, hypotheses = apply_protocol("robust_speech_event", [("Ёлка!", "елка")], ["Ёлка, "], RUSSIAN)
    assert (references, hypotheses) == (["ёлка"], ["Ёлка, "])


def test_plain_protocol_normalises_both_sides() -> None:
    references, hypotheses = apply_protocol("plain", [("Ёлка!", "елка")], ["Ёлка, "], RUSSIAN)
    assert (references, hypotheses) == (["елка"], ["елка"])


SPECIAL = ["[UNK]", "</s>", "<s>"]


@pytest.mark.parametrize(
    ("hypothesis", "word_errors", "character_errors"),
    [
        ("раз два", 0, 0),
        ("раз[UNK] два", 1, 1),
        ("р[UNK]з два", 1, 1),
        ("<s>раз</s> два", 1, 2),
        ("раз [UNK] два", 1, 2),  # the token and a space
        ("[UNK]", 2, 7),
    ],
)
def test_special_token_is_one_wrong_character(hypothesis: str, word_errors: int, character_errors: int) -> None:
    for text in (RUSSIAN, TextConfig(), TextConfig(drop="[]<>/\ufffd")):
        ((counts),) = count(*apply_protocol("plain", [("Раз два", "раз два")], [hypothesis], text, SPECIAL))
        assert (counts.errors, counts.character_errors) == (word_errors, character_errors)


def test_event_protocol_keeps_special_tokens_as_the_pipeline_writes_them() -> None:
    found = apply_protocol("robust_speech_event", [("Раз", "раз")], ["раз[UNK]"], RUSSIAN, SPECIAL)
    assert found == (["раз"], ["раз[UNK]"])


@pytest.mark.parametrize("protocol", ["plain", "robust_speech_event"])
def test_jamo_are_composed_to_syllables(protocol: str) -> None:
    jamo = "\u1112\u1161\u11ab"
    references, hypotheses = apply_protocol(protocol, [("한", jamo)], [jamo], TextConfig(unicode="NFD"))  # type: ignore[arg-type]  # a parameter
    assert (references, hypotheses) == (["한"], ["한"])
