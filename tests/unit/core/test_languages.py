import json
from importlib.resources import files

import pytest

from speechmill.core.languages import is_code, languages_of, nearest_languages, suggest_code

# Source: the languages of facebook/mms-1b-all, a few of more than 1,100.
MMS = [
    "abk", "azj-script_cyrillic", "azj-script_latin", "cmn-script_simplified", "deu", "ekk", "eng", "fas", "fra",
    "kmr-script_latin", "lav", "quz", "swh", "tur", "zlm",
]  # fmt: skip


@pytest.mark.parametrize("code", ["ru", "rus", "rum", "ron", "nan", "mhr", "ber", "him"])
def test_codes_of_iso_639_1_to_3_are_codes(code: str) -> None:
    assert is_code(code)


@pytest.mark.parametrize("text", ["RU", "ru-RU", "cn", "jp", "russian", "xx", "qaa1", "", "iw"])
def test_other_text_is_no_code(text: str) -> None:
    assert not is_code(text)


def test_codes_are_those_of_the_hub() -> None:
    # Source: the list by which `datasets` checked cards before the Hub did.
    listed = json.loads((files("datasets.utils.resources") / "languages.json").read_text())
    unknown = [code for code in listed if not is_code(code)]
    # `code`, and what ISO 639 has retired since.
    assert len(unknown) < 0.003 * len(listed)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        # The locales of Common Voice with more than a language.
        ("zh-CN", "zh"), ("zh-TW", "zh"), ("sv-SE", "sv"), ("ga-IE", "ga"), ("fy-NL", "fy"), ("pa-IN", "pa"),
        ("hy-AM", "hy"), ("nan-tw", "nan"), ("rm-sursilv", "rm"), ("rm-vallader", "rm"), ("nn-NO", "nn"),
        ("zh_Hant", "zh"), ("RU", "ru"), ("Russian", "ru"), ("turkish", "tr"), ("iw", "he"), ("mo", None), ("cn", None),
        ("", None),
    ],
)  # fmt: skip
def test_locale_or_name_suggests_a_code(text: str, code: str | None) -> None:
    assert suggest_code(text) == code
    assert code is None or is_code(code)


@pytest.mark.parametrize(
    ("language", "found"),
    [
        ("tr", ["tur"]), ("tur", ["tur"]), ("tr-TR", ["tur"]),
        ("az", ["azj-script_cyrillic", "azj-script_latin"]), ("zh", ["cmn-script_simplified"]), ("et", ["ekk"]),
        ("sw", ["swh"]), ("ku", ["kmr-script_latin"]), ("lvs", ["lav"]), ("qu", ["quz"]), ("nl", []), ("tuu", []),
    ],
)  # fmt: skip
def test_language_is_found_by_any_of_its_codes(language: str, found: list[str]) -> None:
    assert languages_of(language, MMS) == found


def test_misspelt_language_has_similar_ones() -> None:
    assert nearest_languages("tru", MMS) == ["tur"]
    assert nearest_languages("??", ["eng", "deu"]) == ["deu", "eng"]
    assert 1 <= len(nearest_languages("??", MMS)) <= 10
