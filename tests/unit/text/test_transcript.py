from collections.abc import Callable

import pytest

from speechmill.config.text import Replacement, TextConfig
from speechmill.text.normaliser import Normaliser
from speechmill.text.transcript import words


def rules(**settings: object) -> Callable[[str], str]:
    return Normaliser(TextConfig.model_validate({"drop": ".,!?—-()"} | settings))


def test_words_keep_their_spelling_and_punctuation() -> None:
    assert words("Hello,  World!\n\n  Bye.", rules()) == [
        [("Hello,  ", "hello"), ("World! ", "world")],
        [("Bye. ", "bye")],
    ]


def test_a_dash_has_no_text() -> None:
    assert words("a — b", rules()) == [[("a ", "a"), ("— ", ""), ("b ", "b")]]


@pytest.mark.parametrize(
    ("transcript", "number"),
    [("ab 25 cd", ("25 ", "двадцать пять")), ("ab 1\u00a0000 cd", ("1\u00a0000 ", "одна тысяча"))],
)
def test_a_number_is_one_word_with_several_in_its_text(transcript: str, number: tuple[str, str]) -> None:
    assert words(transcript, rules(digits="ru")) == [[("ab ", "ab"), number, ("cd ", "cd")]]


def test_words_that_a_rule_replaces_together_stay_together() -> None:
    replace = [Replacement(find="т. е.", replacement="то есть")]
    assert words("он, т. е. она и он", rules(replace=replace)) == [
        [("он, ", "он"), ("т. е. ", "то есть"), ("она ", "она"), ("и ", "и"), ("он ", "он")]
    ]


def test_sentences_in_a_script_without_spaces_are_divided_at_punctuation() -> None:
    assert words("今日は。雨です、ね", rules(drop="。、")) == [
        [("今日は。", "今日は"), ("雨です、", "雨です"), ("ね ", "ね")]
    ]


def test_texts_of_the_words_are_the_text_of_the_transcript() -> None:
    transcript = "В 1812 г. было 5-10 чел., т. е. 3,5 % — не более!"
    normalise = rules(digits="ru", replace=[Replacement(find=r"\bг\.", replacement="году", regex=True)])
    (line,) = words(transcript, normalise)
    assert "".join(word.written for word in line).strip() == transcript
    assert "".join(word.text for word in line).replace(" ", "") == normalise(transcript).replace(" ", "")
