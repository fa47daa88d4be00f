import os
import string
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from material import ROOT
from speechmill.config.text import Replacement, TextConfig
from speechmill.core.characters import expand_ranges
from speechmill.core.command import SpeechmillError
from speechmill.text.normaliser import Normaliser, compose, output_clusters, spell_numbers, to_units

# The punctuation that eval.py of the Robust Speech Event deletes from references.
EVENT_PUNCTUATION = ',?.!-;:"“%‘”�—’…–'


def rules(recipe: str) -> dict[str, Any]:
    """Return the text rules of a recipe."""
    config = yaml.safe_load((ROOT / "config" / "recipes" / f"{recipe}.yaml").read_text(encoding="utf-8"))
    return dict(config["runs"][recipe]["text"])


RUSSIAN = rules("ru_common_voice_8")
KOREAN = rules("ko_zeroth")

# The rules of the recipes, and combinations of further rules.
SETTINGS = {
    "plain": TextConfig(),
    "russian": TextConfig.model_validate(RUSSIAN),
    "korean": TextConfig.model_validate(KOREAN),
    "russian words": TextConfig(map_confusables="cyrillic", digits="ru"),
    "korean capitals": TextConfig(case="upper", digits="ko"),
    "russian capitals": TextConfig(case="upper", digits="ru"),
    "upper": TextConfig(case="upper", drop=",.?!"),
    "punctuation": TextConfig(drop=string.punctuation + "«»„“”…"),
    "compatible": TextConfig(unicode="NFKC", drop=string.punctuation),
    "english": TextConfig(digits="en", keep="a-z'"),
    "german words": TextConfig(digits="de"),
    "turkish": TextConfig(language="tr"),
    "turkish capitals": TextConfig(language="tr", case="upper", digits="tr"),
    "lithuanian": TextConfig(language="lt"),
    "lithuanian capitals": TextConfig(language="lt", case="upper"),
    "decomposed": TextConfig(unicode="NFD", keep="аеёйёç", drop="й"),
    "unchanged": TextConfig(unicode="none", case="keep"),
}

# Any characters, with the ones that the rules treat specially more often than by chance.
SENTENCES = st.text(
    st.one_of(st.characters(), st.sampled_from("аеёйЁЙ ,.—«»-\u0301\u0306\u0308\u00a0\n\tAaBckrRëÝΣςİ'_017٣²한글한ㅋﾤ"))
)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@given(sentence=SENTENCES)
@example("е,\u0308")  # a character between a letter and its accent is dropped
@example("ΐ")  # its capital is three characters, two of which have a composed form
def test_normalisation_is_idempotent(settings: TextConfig, sentence: str) -> None:
    once = Normaliser(settings)(sentence)
    assert Normaliser(settings)(once) == once


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@given(sentence=SENTENCES)
def test_words_are_separated_by_single_spaces(settings: TextConfig, sentence: str) -> None:
    text = Normaliser(settings)(sentence)
    assert text == " ".join(text.split())


@given(sentence=SENTENCES)
def test_only_kept_characters_and_spaces_remain(sentence: str) -> None:
    assert set(Normaliser(TextConfig(keep="а-яё"))(sentence)) <= set("абвгдеёжзийклмнопрстуфхцчшщъыьэюя ")


@given(sentence=SENTENCES)
@example("е,\u0308")
def test_text_is_in_the_configured_normal_form(sentence: str) -> None:
    text = Normaliser(TextConfig(drop=string.punctuation))(sentence)
    assert unicodedata.is_normalized("NFC", text)


def test_rules_count_the_sentences_that_they_change() -> None:
    normalise = Normaliser(
        TextConfig(
            replace=[
                Replacement(find="&", replacement=" и "),
                Replacement(find=r"\d+", replacement="число", regex=True),
            ],
            drop="!",
            keep="а-яё",
        )
    )
    sentences = ["Да!", "да", "чай & кофе", "дом 12", "e\u0301 да", "  да", "да, нет, да"]
    assert [normalise(s) for s in sentences] == ["да", "да", "чай и кофе", "дом число", "да", "да", "да нет да"]
    assert dict(normalise.clips_touched) == {
        "unicode NFC": 1,  # e with the accent is composed
        "case lower": 1,
        "replace '&' by ' и '": 1,
        r"replace '\\d+' by 'число'": 1,
        "drop": 1,
        "keep": 2,  # é, and the commas
        "space": 3,  # around и, after é, leading
    }
    assert dict(normalise.characters_dropped) == {"!": 1, "é": 1, ",": 2}


def test_rule_without_effect_counts_nothing() -> None:
    normalise = Normaliser(TextConfig(drop="!"))
    normalise("да")
    assert not any(normalise.clips_touched.values())
    assert not normalise.characters_dropped


def test_order_of_the_rules() -> None:
    settings = TextConfig(
        replace=[Replacement(find="мгц", replacement="%"), Replacement(find="%", replacement="#!")],
        drop="!",
        keep="0-9#%",
    )
    assert Normaliser(settings)("5 МГЦ!") == "5 #"


def test_replacements_are_literal_by_default() -> None:
    assert Normaliser(TextConfig(replace=[Replacement(find=".", replacement="-")]))("а.б") == "а-б"
    assert Normaliser(TextConfig(replace=[Replacement(find=".", replacement="-", regex=True)]))("а.б") == "---"


def test_composed_and_decomposed_forms_become_equal() -> None:
    normalise = Normaliser(TextConfig(keep="а-яё가-힣"))
    assert normalise("ёй") == normalise("е\u0308и\u0306") == "ёй"
    assert normalise("한") == normalise("\u1112\u1161\u11ab") == "한"


def test_yo_is_kept_or_replaced() -> None:
    assert Normaliser(TextConfig(keep="а-яё"))("Ёлка") == "ёлка"
    assert Normaliser(TextConfig(keep="а-я", replace=[Replacement(find="ё", replacement="е")]))("Ёлка") == "елка"
    # It is outside а-я in Unicode; a user who forgets it finds it among the dropped characters.
    without_yo = Normaliser(TextConfig(keep="а-я"))
    assert without_yo("Ёлка") == "лка"
    assert dict(without_yo.characters_dropped) == {"ё": 1}


@pytest.mark.parametrize("word", ["null", "NA", "nan", "None", "true"])
def test_words_that_look_like_missing_values_are_kept(word: str) -> None:
    assert Normaliser(TextConfig(case="keep"))(word) == word


def test_all_kinds_of_white_space_separate_words() -> None:
    assert Normaliser(TextConfig(keep="а-я"))("\u00a0раз\u2009два\tтри\nпять\u3000") == "раз два три пять"


@pytest.mark.parametrize(
    ("ranges", "characters"),
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
def test_ranges_are_expanded(ranges: str, characters: str) -> None:
    assert expand_ranges(ranges) == set(characters)


def test_descending_range_is_an_error() -> None:
    with pytest.raises(SpeechmillError, match="the range я-а is in descending order; write а-я"):
        expand_ranges("я-а")


# The lines of Unicode Technical Standard #39 (confusables.txt, 14.0.0 of 2021-05-29) that map a Russian letter to a
# Latin one of the same case, as `Russian Latin`, except г, which it maps to r.
CONFUSABLES = """
    0410 0041  0412 0042  0421 0043  0415 0045  041D 0048  041A 004B  041C 004D  041E 004F  0420 0050  0422 0054
    0425 0058  0423 0059  0430 0061  0441 0063  0435 0065  043E 006F  0440 0070  0445 0078  0443 0079
"""


def test_confusables_are_those_of_unicode() -> None:
    codes = [chr(int(code, 16)) for code in CONFUSABLES.split()]
    russian = dict(zip(codes[1::2], codes[::2], strict=True))
    assert all(latin.isupper() == letter.isupper() for latin, letter in russian.items())
    normalise = Normaliser(TextConfig(map_confusables="cyrillic", case="keep"))
    for letter in string.ascii_letters:
        assert normalise(f"ж{letter}") == f"ж{russian.get(letter, letter)}"


@pytest.mark.parametrize(
    ("mixed", "russian"),
    [
        ("cын", "сын"),
        ("XОРОШО Bот Hет", "ХОРОШО Вот Нет"),
        ("ëлка Ëлка", "ёлка Ёлка"),
        ("мáма", "ма\u0301ма"),  # a Latin letter with an accent, typed as a stress mark
        ("м\u0301ama мо\u0301pe", "м\u0301аmа мо\u0301ре"),  # an accent is part of the word
        ("и c c'ел 3o 3oт", "и c с'ел 3o 3от"),  # Latin words, also with digits, are unchanged
        ("cyclo-кросс Oк_oo", "cyclo-кросс Ок_oo"),  # parts of a compound are separate words
    ],
)
def test_confusables_are_replaced_in_cyrillic_words(mixed: str, russian: str) -> None:
    assert Normaliser(TextConfig(map_confusables="cyrillic", case="keep"))(mixed) == russian


@given(st.lists(st.text(string.ascii_letters + "'éëčỳÅ0123456789", min_size=1)))
def test_confusables_are_kept_in_latin_words(words: list[str]) -> None:
    latin = " ".join(words)
    normalise = Normaliser(TextConfig(map_confusables="cyrillic", case="keep"))
    assert normalise(latin + " нет") == Normaliser(TextConfig(case="keep"))(latin + " нет")
    assert not normalise.characters_replaced


def test_replaced_confusables_are_counted() -> None:
    normalise = Normaliser(TextConfig(map_confusables="cyrillic"))
    for sentence in ["cын cидит", "мáмa", "cat", "сын"]:
        normalise(sentence)
    assert normalise.clips_touched["map_confusables cyrillic"] == 2
    assert dict(normalise.characters_replaced) == {"c": 2, "á": 1, "a": 1}


@pytest.mark.parametrize(
    ("language", "digits", "words"),
    [
        # From the tests of num2words.
        ("ru", "5", "пять"),
        ("ru", "15", "пятнадцать"),
        ("ru", "154", "сто пятьдесят четыре"),
        ("ru", "418531", "четыреста восемнадцать тысяч пятьсот тридцать один"),
        ("ko", "808", "팔백팔"),
        ("ko", "7063", "칠천육십삼"),
        ("ko", "241572", "이십사만 천오백칠십이"),
        ("ko", "5000500000000", "오조 오억"),
        # Other languages of num2words; those for India end at 10^12.
        ("en", "1234", "one thousand two hundred and thirty four"),
        ("fr", "21", "vingt et un"),
        ("de", "21", "einundzwanzig"),
        ("en_IN", "1" + "0" * 12, " ".join(["one"] + ["zero"] * 12)),
        # Digits of other scripts.
        ("ru", "１５", "пятнадцать"),
        ("ko", "٨٠٨", "팔백팔"),
        # Digit by digit.
        ("ru", "0", "ноль"),
        ("ru", "007", "ноль ноль семь"),
        ("ko", "00", "영 영"),
        ("ru", "9" * 16, " ".join(["девять"] * 16)),
        # Groups of three digits, with typographic spaces.
        ("ru", "418\u00a0531", "четыреста восемнадцать тысяч пятьсот тридцать один"),
        ("ko", "5\u202f000\u202f500\u202f000\u202f000", "오조 오억"),
        ("ru", "5\u20095", "пять\u2009пять"),
        ("ru", "5 154", "пять сто пятьдесят четыре"),
        ("ru", "1234\u00a0154", "одна тысяча двести тридцать четыре\u00a0сто пятьдесят четыре"),
        # Next to letters, punctuation and other numbers.
        ("ru", "3,5", "три, пять"),
        ("ru", "12:05", "двенадцать: ноль пять"),
        ("ru", "5-й", "пять- й"),
        ("ru", "5й, м5.", "пять й, м пять."),
        ("ru", "«5»", "«пять»"),
        ("ru", "B-52", "B- пятьдесят два"),
        ("ko", "2018년 3월", "이천십팔 년 삼 월"),
        ("ru", "x² и ½", "x² и ½"),
    ],
)
def test_numbers_are_spelled_out(language: str, digits: str, words: str) -> None:
    assert spell_numbers(digits, language) == words


def test_sixteen_digits_are_spelled_digit_by_digit() -> None:
    assert spell_numbers("1" + "0" * 14, "ru") == "сто триллионов"
    assert spell_numbers("1" + "0" * 15, "ko") == " ".join(["일"] + ["영"] * 15)


@pytest.mark.parametrize("language", ["ru", "ko", "en", "kn"])
@given(st.text(st.one_of(st.characters(categories=["Nd"]), st.sampled_from("0123456789аж년 -.,\u00a0\u2009\u0301"))))
def test_no_digit_remains_and_no_word_is_lost(language: str, text: str) -> None:
    spelled = spell_numbers(text, language)
    assert not any(character.isdecimal() for character in spelled)
    assert [c for c in spelled if c in "ж-.,\u0301"] == [c for c in text if c in "ж-.,\u0301"]


def test_spelled_numbers_have_the_configured_case() -> None:
    assert Normaliser(TextConfig(case="upper", digits="ru"))("дом 5") == "ДОМ ПЯТЬ"
    assert Normaliser(TextConfig(case="keep", digits="ru"))("Дом 5") == "Дом пять"


def test_digits_follow_replacements_and_precede_drop() -> None:
    settings = TextConfig(replace=[Replacement(find="%", replacement=" 100")], digits="ru", drop=",", keep="а-я")
    assert Normaliser(settings)("3,5%") == "три пять сто"


def test_num2words_is_imported_lazily() -> None:
    program = "import sys, speechmill.text.normaliser; sys.exit('num2words' in sys.modules)"
    workflow = Path(__file__).parents[3] / "workflow"
    environment = os.environ | {"PYTHONPATH": str(workflow)}
    assert subprocess.run([sys.executable, "-c", program], env=environment).returncode == 0


@pytest.mark.parametrize(
    ("sentence", "text"),
    [
        ("Кто-то сказал: «Да», — и ушёл…", "ктото сказал да и ушёл"),
        ("Кто\u2011то, из\u00adза", "ктото изза"),
        ("Да—нет, да -- нет, да...нет", "да нет да нет да нет"),
        ("(Тихо)и/или„громко“", "тихо и или громко"),
        ("За\u0301мок, мáма и Бори\u0301с; ѐлка всё", "замок мама и борис елка всё"),
        ("и\u0306 е\u0308 Й Ё", "й ё й ё"),
        (
            "В 1990-х 5-й дом, 3,5% и 12:05",
            "в одна тысяча девятьсот девяносто х пять й дом три пять и двенадцать ноль пять",
        ),
        ("10—20, 10-20", "десять двадцать десять двадцать"),
        ("1\u00a0000\u00a0000 pублей", "один миллион рублей"),
        ("Cкoлькo?\tДвa!", "сколько два"),
        ("Bот Hет.", "вот нет"),  # the capital is confusable, its lower case is not
        ("Слушал AC/DC.", "слушал"),
        ("null", ""),
    ],
)
def test_difficult_russian_sentences(sentence: str, text: str) -> None:
    assert Normaliser(TextConfig.model_validate(RUSSIAN))(sentence) == text


def test_russian_recipe_without_yo() -> None:
    rules = RUSSIAN | {"replace": [*RUSSIAN["replace"], {"find": "ё", "replacement": "е"}]}
    assert Normaliser(TextConfig.model_validate(rules))("Ещё ëлка, Е\u0308ж и й") == "еще елка еж и й"


@pytest.mark.parametrize(
    ("sentence", "text"),
    [
        ("안녕하세요, 여러분!", "안녕하세요 여러분"),
        ("\u1112\u1161\u11ab\u1100\u1173\u11af 한글", "한글 한글"),
        ("2018년 3월 1일, 007", "이천십팔 년 삼 월 일 일 영 영 칠"),
        ("3~4명, 서울·부산(대구)", "삼 사 명 서울 부산 대구"),
        ("12만\u00a0원 10\u00a0000원", "십이 만 원 만 원"),
        ("ㅋㅋ 네ㅠㅠ", "네"),  # isolated jamo are not speech
        ("ﾤￂﾤ", ""),  # NFKC would turn it into 하, and the loss would not be counted
        ("KBS 뉴스 LG-전자", "kbs 뉴스 lg전자"),
        ("코로나-19 ‘확진’", "코로나 십구 확진"),
        ('null\tNA "NA', "null na na"),
    ],
)
def test_difficult_korean_sentences(sentence: str, text: str) -> None:
    assert Normaliser(TextConfig.model_validate(KOREAN))(sentence) == text


@pytest.mark.parametrize("rules", [RUSSIAN, KOREAN], ids=["russian", "korean"])
def test_recipes_drop_the_punctuation_of_the_event(rules: dict[str, Any]) -> None:
    normalise = Normaliser(TextConfig.model_validate(rules))
    for character in ',?.!-;:"“%‘”\ufffd—’…–':
        assert normalise(character) == ""


def test_stray_quotes_and_missing_values_are_kept() -> None:
    assert Normaliser(TextConfig(case="keep"))('null\t"NA\t\t""') == 'null "NA ""'


def test_jamo_are_those_of_unicode() -> None:
    # The Unicode Standard, section 3.12: U+D4DB is U+1111 U+1171 U+11B6.
    assert to_units("\ud4db", "jamo") == "\u1111\u1171\u11b6"
    assert compose("\u1111\u1171\u11b6") == "\ud4db"
    for syllable in map(chr, range(0xAC00, 0xD7A4)):
        assert to_units(syllable, "jamo") == unicodedata.normalize("NFD", syllable)
        assert compose(unicodedata.normalize("NFD", syllable)) == syllable


@given(st.text(st.one_of(st.characters(), st.sampled_from("한글하가한ᆨㅋé\u0301 й"))))
@example("ᄒ아")  # an isolated consonant before a syllable
@example("하\u0301\u11ab")  # an accent in between
def test_composition_inverts_decomposition(text: str) -> None:
    text = unicodedata.normalize("NFC", text)
    jamo = to_units(text, "jamo")
    assert not any("가" <= character <= "힣" for character in jamo)
    assert compose(jamo) == text
    assert to_units(text, "characters") == text


def test_only_hangul_is_composed() -> None:
    assert compose("е\u0308 \u1112 \u1161 \u1112\u1161\u11ab\u0301 ㅎㅏㄴ \u1113\u1161 å") == (
        "е\u0308 \u1112 \u1161 한\u0301 ㅎㅏㄴ \u1113\u1161 å"
    )
    assert to_units("йå한", "jamo") == "йå\u1112\u1161\u11ab"


def test_clusters_are_in_the_form_of_the_text() -> None:
    settings = TextConfig(clusters=["CH", "ch", "e\u0302\u0323n"], case="lower")
    assert output_clusters(settings) == ["ch", "ện"]
    assert output_clusters(TextConfig(clusters=["iy"], case="upper", language="tr")) == ["İY"]
    assert output_clusters(TextConfig(clusters=["한국"], units="jamo")) == [to_units("한국", "jamo")]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"keep": "я-а"}, "the range я-а is in descending order; write а-я"),
        ({"keep": "\u0958-\u095b"}, "is 2 code points under NFC (U+0915 U+093C); write \u0958\u0959\u095a\u095b"),
        ({"keep": "क\u093c-ग\u093c"}, "is 2 code points under NFC (U+0915 U+093C); write \u0958\u0959\u095a"),
        ({"unicode": "NFD", "keep": "а-й"}, "ends in й, which is 2 code points under NFD"),
        ({"unicode": "NFD", "keep": "а-й"}, "(U+0438 U+0306); write абвгдежзий"),
        ({"unicode": "NFD", "keep": "à-ỹ"}, "write the characters one by one, without a hyphen"),
        ({"unicode": "NFKC", "keep": "a-½"}, "is 3 code points under NFKC"),
        ({"replace": [{"find": "и\u0306+", "replacement": "", "regex": True}]}, "write 'й+'"),
        ({"replace": [{"find": "[aei\u0301]", "replacement": "", "regex": True}]}, r"escapes such as \u0301"),
        ({"clusters": ["e\u0301"]}, "is one character under NFC"),
        ({"clusters": ["a b"]}, "contains a space"),
        ({"clusters": ["a|"]}, "contains a space"),
        ({"clusters": ["[PAD]"]}, "is the name of a special token"),
    ],
)
def test_lists_that_cannot_be_used_are_rejected(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        TextConfig.model_validate(settings)
    assert message in str(caught.value)


def test_ranges_are_expanded_in_the_normal_form() -> None:
    assert expand_ranges("а-и\u0306") == set("абвгдежзий")
    assert expand_ranges("ａ-ｃ", "NFKC") == set("abc")
    assert expand_ranges("\u0958\u0959") == {"\u0915\u093c", "\u0916\u093c"}
    assert expand_ranges("a-и", "NFD") >= {"а", "и", "e\u0301"}
    assert expand_ranges("и\u0306", "none") == {"и", "\u0306"}
