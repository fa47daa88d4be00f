import string
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from speechmill.command import SpeechmillError
from speechmill.config.text import Replacement, TextSettings
from speechmill.text import Normaliser, expand_ranges

# What the recipes of the two published runs and the demo are made of.
SETTINGS = {
    "plain": TextSettings(),
    "russian": TextSettings(keep="а-яё", replace=[Replacement(find="—", put=" ")]),
    "korean": TextSettings(keep="가-힣"),
    "upper": TextSettings(case="upper", drop=",.?!"),
    "punctuation": TextSettings(drop=string.punctuation + "«»„“”…"),
    "compatible": TextSettings(unicode="NFKC", drop=string.punctuation),
    "untouched": TextSettings(unicode="none", case="keep"),
}

# Unicode of all kinds, and more than chance would give of what the rules are about.
SENTENCES = st.text(st.one_of(st.characters(), st.sampled_from("аеёйЁЙ ,.—«»\u0301\u0306\u0308\u00a0\n\tAaΣςİ한글ᄒ")))


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@given(sentence=SENTENCES)
@example("е,\u0308")  # what stood between a letter and its accent is dropped
@example("ΐ")  # whose capital is three characters, of which two have a composed form
def test_normalising_twice_is_normalising_once(settings: TextSettings, sentence: str) -> None:
    once = Normaliser(settings)(sentence)
    assert Normaliser(settings)(once) == once


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@given(sentence=SENTENCES)
def test_words_are_parted_by_single_spaces_and_by_nothing_else(settings: TextSettings, sentence: str) -> None:
    text = Normaliser(settings)(sentence)
    assert text == " ".join(text.split())


@given(sentence=SENTENCES)
def test_only_kept_characters_and_the_space_are_left(sentence: str) -> None:
    assert set(Normaliser(TextSettings(keep="а-яё"))(sentence)) <= set("абвгдеёжзийклмнопрстуфхцчшщъыьэюя ")


@given(sentence=SENTENCES)
@example("е,\u0308")
def test_text_is_in_the_normal_form_that_was_asked_for(sentence: str) -> None:
    text = Normaliser(TextSettings(drop=string.punctuation))(sentence)
    assert unicodedata.is_normalized("NFC", text)


def test_each_rule_counts_the_sentences_that_it_changed() -> None:
    normalise = Normaliser(
        TextSettings(
            replace=[Replacement(find="&", put=" и "), Replacement(find=r"\d+", put="число", regex=True)],
            drop="!",
            keep="а-яё",
        )
    )
    sentences = ["Да!", "да", "чай & кофе", "дом 12", "e\u0301 да", "  да", "да, нет, да"]
    assert [normalise(s) for s in sentences] == ["да", "да", "чай и кофе", "дом число", "да", "да", "да нет да"]
    assert dict(normalise.clips_touched) == {
        "unicode NFC": 1,  # e and the accent became one
        "case lower": 1,
        "replace '&' by ' и '": 1,
        r"replace '\\d+' by 'число'": 1,
        "drop": 1,
        "keep": 2,  # é, and the commas
        "space": 3,  # round the и, after the é, in front
    }
    assert dict(normalise.characters_dropped) == {"!": 1, "é": 1, ",": 2}


def test_a_rule_that_never_changed_anything_counts_nothing() -> None:
    normalise = Normaliser(TextSettings(drop="!"))
    normalise("да")
    assert not any(normalise.clips_touched.values())
    assert not normalise.characters_dropped


def test_case_comes_before_replacements_replacements_before_drop_and_drop_before_keep() -> None:
    settings = TextSettings(
        replace=[Replacement(find="мгц", put="%"), Replacement(find="%", put="#!")], drop="!", keep="0-9#%"
    )
    assert Normaliser(settings)("5 МГЦ!") == "5 #"


def test_replacements_are_characters_unless_said_to_be_a_pattern() -> None:
    assert Normaliser(TextSettings(replace=[Replacement(find=".", put="-")]))("а.б") == "а-б"
    assert Normaliser(TextSettings(replace=[Replacement(find=".", put="-", regex=True)]))("а.б") == "---"


def test_composed_and_decomposed_spellings_become_one() -> None:
    normalise = Normaliser(TextSettings(keep="а-яё가-힣"))
    assert normalise("ёй") == normalise("е\u0308и\u0306") == "ёй"
    assert normalise("한") == normalise("\u1112\u1161\u11ab") == "한"


def test_yo_stays_where_it_is_kept_and_can_be_replaced() -> None:
    assert Normaliser(TextSettings(keep="а-яё"))("Ёлка") == "ёлка"
    assert Normaliser(TextSettings(keep="а-я", replace=[Replacement(find="ё", put="е")]))("Ёлка") == "елка"
    # It stands outside а-я in Unicode: who forgets it sees it among the characters that were dropped.
    forgetful = Normaliser(TextSettings(keep="а-я"))
    assert forgetful("Ёлка") == "лка"
    assert dict(forgetful.characters_dropped) == {"ё": 1}


@pytest.mark.parametrize("word", ["null", "NA", "nan", "None", "true"])
def test_a_word_that_programs_take_for_nothing_is_a_word(word: str) -> None:
    assert Normaliser(TextSettings(case="keep"))(word) == word


def test_every_kind_of_white_space_parts_words() -> None:
    assert Normaliser(TextSettings(keep="а-я"))("\u00a0раз\u2009два\tтри\nпять\u3000") == "раз два три пять"


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("а-д", "абвгд"),
        ("a-cx", "abcx"),
        ("'a-c'", "'abc"),
        ("-ab", "-ab"),
        ("ab-", "ab-"),
        ("ё", "ё"),
        ("", ""),
        ("0-9a-f", "0123456789abcdef"),
    ],
)
def test_ranges_are_written_with_a_hyphen(written: str, meant: str) -> None:
    assert expand_ranges(written) == set(meant)


def test_a_range_that_runs_backwards_is_an_error_that_says_how_to_write_it() -> None:
    with pytest.raises(SpeechmillError, match="the range я-а is empty; write it as а-я"):
        expand_ranges("я-а")
