"""Text rules on sentences of several scripts; the results are written by hand from the rules of Unicode."""

import unicodedata
from typing import Any

import pytest

from speechmill.config.text import Replacement, TextConfig
from speechmill.text.normaliser import Normaliser

VIETNAMESE = "abcdđeêghiklmnoôơpqrstuưvxyếệấẹ"
UKRAINIAN = "їйґа-зк-щіьюяєи'"
# Letters, vowel signs with the virama, signs, and the nukta.
HINDI = "अ-हा-्ँ-ः\u093c"


def form(name: Any, *texts: str) -> list[str]:
    return [unicodedata.normalize(name, text) for text in texts]


@pytest.mark.parametrize("written", ["NFC", "NFD"])
@pytest.mark.parametrize("spoken", ["NFC", "NFD"])
@pytest.mark.parametrize("unicode", ["NFC", "NFD", "NFKC", "NFKD"])
@pytest.mark.parametrize(
    ("keep", "sentence", "text"),
    [
        (VIETNAMESE, "Tiếng Việt rất đẹp!", "tiếng việt rất đẹp"),
        (UKRAINIAN, "Її їжак — й ґава.", "її їжак й ґава"),
        (HINDI, "क़लम ज़रूरी है।", "क\u093cलम ज\u093cरूरी है"),
        ("क\u093cज\u093c" + "लमरूीहै", "क़लम ज़रूरी है।", "क\u093cलम ज\u093cरूरी है"),
        ("ก-ฮะ-ูเ-ๅ็-์", "สวัสดีครับ ผมชื่อสมชาย!", "สวัสดีครับ ผมชื่อสมชาย"),
        ("ء-ي", "أَهْلًا بِكُمْ، إلى آخره", "أهلا بكم إلى آخره"),
        ("çğıöşü" + "a-z", "Ağaç, GÜÇ ve Şöför.", "ağaç güç ve şöför"),
        ("ɛɔa-z" + "\u0303", "Sɛ̃ ɔ̃, bon?", "sɛ̃ ɔ̃ bon"),
    ],
    ids=["vietnamese", "ukrainian", "hindi", "hindi letters", "thai", "arabic", "turkish", "no precomposed form"],
)
def test_lists_match_in_every_normal_form(
    written: str, spoken: str, unicode: Any, keep: str, sentence: str, text: str
) -> None:
    (keep,), (sentence,), (text,) = form(written, keep), form(spoken, sentence), form(unicode, text)
    normalise = Normaliser(TextConfig(unicode=unicode, keep=keep))
    assert normalise(sentence) == text
    assert set(normalise.marks_dropped) <= set("\u064b\u064e\u064f\u0650\u0652")


def test_thai_vowel_of_two_parts_is_kept() -> None:
    # U+0E33 is U+0E4D U+0E32 under NFKC.
    assert Normaliser(TextConfig(unicode="NFKC", keep="ก-ฮะ-ูเ-ๅ็-์"))("น้ำ") == "น\u0e49\u0e4d\u0e32"
    assert Normaliser(TextConfig(keep="ก-ฮะ-ูเ-ๅ็-์"))("น้ำ") == "น\u0e49\u0e33"


def test_arabic_marks_are_ordered_and_letters_composed() -> None:
    # Fatha (class 30) precedes shadda (33); alef and hamza above are one letter.
    keep = "ء-ي\u064b-\u0652"
    assert Normaliser(TextConfig(keep=keep))("السّ\u064eلام \u0627\u0654") == "الس\u064e\u0651لام \u0623"
    assert Normaliser(TextConfig(unicode="NFKC", keep=keep))("\ufefb") == "\u0644\u0627"


@pytest.mark.parametrize("keep", ["А-ЯЁ", "а-яё", "А-яё", "А-Яе\u0308"])
def test_keep_matches_in_any_case(keep: str) -> None:
    assert Normaliser(TextConfig(keep=keep))("Ёжик, ёЛКА") == "ёжик ёлка"
    assert Normaliser(TextConfig(keep=keep, case="upper"))("Ёжик, ёЛКА") == "ЁЖИК ЁЛКА"


@pytest.mark.parametrize("find", ["й", "Й", "и\u0306", "И\u0306"])
@pytest.mark.parametrize("unicode", ["NFC", "NFD"])
def test_find_and_drop_match_in_any_form(find: str, unicode: Any) -> None:
    sentence = "Йод, ии мой И\u0306"
    replace = [Replacement(find=find, replacement="j")]
    assert Normaliser(TextConfig(unicode=unicode, replace=replace))(sentence) == "jод, ии моj j"
    normalise = Normaliser(TextConfig(unicode=unicode, drop=find + ","))
    assert normalise(sentence) == "од ии мо"
    assert sum(normalise.characters_dropped.values()) == 4


def test_inserted_text_is_in_normal_form_before_keep() -> None:
    replace = [Replacement(find="&", replacement="и\u0306")]
    assert Normaliser(TextConfig(replace=replace, keep="а-я"))("а & б") == "а й б"


def test_inserted_capitals_can_be_found_and_kept() -> None:
    replace = [Replacement(find="&", replacement="AND"), Replacement(find="AND", replacement="X")]
    assert Normaliser(TextConfig(replace=replace, keep="A-Z"))("a & b") == "a X b"


def test_spelled_numbers_are_in_lower_case() -> None:
    assert Normaliser(TextConfig(digits="de", keep="a-zäöüß"))("1000000") == "eine million"
    assert Normaliser(TextConfig(digits="tr", case="upper", language="tr"))("1 elma") == "BİR ELMA"


def test_turkish_lists_follow_turkish_case() -> None:
    normalise = Normaliser(TextConfig(language="tr", keep="ABCÇDEFGĞHIİJKLMNOÖPRSŞTUÜVYZ"))
    assert normalise("ISPARTA İzmir Iğdır, iyi!") == "ısparta izmir ığdır iyi"
    assert not normalise.marks_dropped


def test_dropped_marks_of_kept_letters_are_counted() -> None:
    normalise = Normaliser(TextConfig(keep="अ-ह"))
    assert normalise("नमस्ते दुनिया") == "नमसत दनय"
    assert {mark: each.times for mark, each in normalise.marks_dropped.items()} == {
        "\u094d": 1, "\u0947": 1, "\u0941": 1, "\u093f": 1, "\u093e": 1,
    }  # fmt: skip
    normalise("हिन्दी")
    assert normalise.marks_dropped["\u093f"] == (2, "नमस्ते दुनिया", "नमसत दनय")


def test_marks_of_dropped_letters_and_listed_marks_are_no_loss() -> None:
    normalise = Normaliser(TextConfig(keep="а-я", drop="\u0301"))
    assert normalise("за\u0301мок sɛ̃ ё") == "замок"
    assert not normalise.marks_dropped


def test_word_separator_in_a_sentence_is_a_space() -> None:
    for settings in (TextConfig(), TextConfig(keep="a-z"), TextConfig(keep="a-z|"), TextConfig(case="keep")):
        normalise = Normaliser(settings)
        assert normalise("cba|dbc | a|") == "cba dbc a"
        assert normalise.clips_touched["`|` becomes a space"] == 1
    assert Normaliser(TextConfig(drop="|"))("cba|dbc") == "cbadbc"
    assert Normaliser(TextConfig(replace=[Replacement(find="|", replacement="-")]))("cba|dbc") == "cba-dbc"


@pytest.mark.parametrize(
    ("settings", "scored"),
    [
        ({}, "ab\ufffdc \ufffd d\ufffd"),
        ({"keep": "a-z"}, "ab\ufffdc \ufffd d\ufffd"),
        ({"drop": "\ufffd[]<>/", "case": "upper"}, "AB\ufffdC \ufffd D\ufffd"),
        ({"replace": [{"find": "[^a-z ]", "replacement": "", "regex": True}]}, "ab\ufffdc \ufffd d\ufffd"),
    ],
)
def test_special_tokens_of_a_hypothesis_survive_all_rules(settings: Any, scored: str) -> None:
    normalise = Normaliser(TextConfig.model_validate(settings))
    assert normalise.hypothesis("Ab[UNK]c <s>  d</s>", ["</s>", "<s>", "[UNK]"]) == scored


def test_hypothesis_without_special_tokens_is_a_sentence() -> None:
    normalise = Normaliser(TextConfig(keep="a-z"))
    assert normalise.hypothesis("Ab[UNK]c", []) == normalise("Ab[UNK]c") == "abunkc"
