"""Section `runs.*.text`: how sentences are normalised for training and scoring."""

import unicodedata
from collections.abc import Mapping
from typing import Any, Literal, get_args

from pydantic import Field, ValidationInfo, field_validator

from speechmill.config.base import Section
from speechmill.core.characters import Form, expand_ranges, normalised
from speechmill.core.command import SpeechmillError

CasingLanguage = Literal["tr", "az", "lt"]
"""A language that has rules of its own for lower and upper case in Unicode's SpecialCasing.txt."""

# See `text/tokens.py`.
_SPECIAL_TOKENS = ("[PAD]", "[UNK]")
_ISO_639_3 = {"tur": "tr", "aze": "az", "azj": "az", "lit": "lt"}

# Its words for large numbers contain Latin letters or are missing.
_BROKEN_LANGUAGES = {"am"}


def number_languages() -> list[str]:
    """Return the codes of the languages in which numbers can be spelled out."""
    # Imported here, because it takes as long as the entire configuration, and most runs do not spell numbers out.
    from num2words import CONVERTER_CLASSES

    return sorted(CONVERTER_CLASSES.keys() - _BROKEN_LANGUAGES)


def casing_language(language: str) -> str | None:
    """Return the language of `CasingLanguage` that a code such as `tr` or `tur` stands for, or None."""
    code = _ISO_639_3.get(language, language)
    return code if code in get_args(CasingLanguage) else None


def with_casing(values: Any) -> Any:
    """Return a section, as it is written, whose `text` has the language that its `language` implies for case.

    Only where the language has rules of its own, so that no stage depends on the language otherwise.
    """
    text = values.get("text", {}) if isinstance(values, Mapping) else None
    if not isinstance(text, Mapping) or text.get("language") is not None:
        return values
    language = casing_language(str(values.get("language", "")))
    return values if language is None else {**values, "text": {**text, "language": language}}


class Replacement(Section):
    """A replacement; replacements are applied in the order of the list."""

    find: str = Field(
        min_length=1,
        description="text to find, in any case and normal form; or, with `regex: true`, a regular expression, which the"
        " text meets in the normal form and the case that precede it",
    )
    replacement: str = Field(description="text to put in its place")
    regex: bool = Field(False, description="whether `find` is a regular expression in the syntax of Python's `re`")


class TextConfig(Section):
    """The text rules, applied in this order; the affected clips are counted per rule."""

    unicode: Form = Field("NFC", description="1. Unicode normal form")
    map_confusables: Literal["cyrillic", "keep"] = Field(
        "keep",
        description="2. with `cyrillic`, Latin letters that look like Cyrillic ones are replaced by these in words that"
        " contain a Cyrillic letter",
    )
    case: Literal["lower", "upper", "keep"] = Field("lower", description="3. case")
    language: CasingLanguage | None = Field(
        None,
        description="language whose rules for case apply: `tr` or `az`, which pair `I` with `ı` and `İ` with `i`, or"
        " `lt`; default: the run's `language` if it is one of these",
    )
    replace: list[Replacement] = Field(
        default_factory=list,
        description="4. replacements, in this order; then each `|`, which is the space in vocabularies, becomes a space"
        " unless `drop` has it",
    )
    digits: str = Field(
        "keep",
        description="5. language in which whole numbers in digits are spelled out, a code of num2words such as `ru`, or"
        " `keep`",
    )
    drop: str = Field("", description="6. characters to delete, in any case and normal form")
    keep: str | None = Field(
        None,
        description="7. the only characters to keep, in any case and normal form, in addition to the space; ranges such"
        " as `а-я` are allowed; combining marks that are not part of a listed letter must be listed too; default: all",
    )
    units: Literal["characters", "jamo"] = Field(
        "characters",
        description="output units of the model: characters, or the jamo of Hangul syllables, which are composed again"
        " in hypotheses",
    )
    clusters: list[str] = Field(
        default_factory=list,
        description="sequences of characters that are one output unit each, such as `[ch, ng]`; at each position of a"
        " text the longest one is used",
    )

    @field_validator("digits")
    @classmethod
    def _numbers_have_words(cls, digits: str) -> str:
        if digits != "keep" and digits not in (known := number_languages()):
            raise ValueError(f"numbers cannot be spelled out in this language; use `keep` or one of {', '.join(known)}")
        return digits

    @field_validator("replace")
    @classmethod
    def _expressions_are_in_normal_form(cls, replace: list[Replacement], info: ValidationInfo) -> list[Replacement]:
        form = info.data.get("unicode", "none")
        for each in replace:
            if each.regex and normalised(each.find, form) != each.find:
                raise ValueError(
                    f"the regular expression {each.find!r} is not in the normal form {form} of the text that it is"
                    f" applied to; write {normalised(each.find, form)!r}, or its characters as escapes such as"
                    f" {_escape(each.find, form)}"
                )
        return replace

    @field_validator("keep")
    @classmethod
    def _ranges_are_valid(cls, keep: str | None, info: ValidationInfo) -> str | None:
        try:
            expand_ranges(keep or "", info.data.get("unicode", "none"))
        except SpeechmillError as error:
            raise ValueError(str(error)) from error
        return keep

    @field_validator("clusters")
    @classmethod
    def _clusters_are_sequences(cls, clusters: list[str], info: ValidationInfo) -> list[str]:
        form = info.data.get("unicode", "none")
        for each in clusters:
            if len(normalised(each, form)) < 2:
                raise ValueError(f"{each!r} is one character under {form}, which is a unit already; remove it")
            if any(character.isspace() or character == "|" for character in each):
                raise ValueError(f"{each!r} contains a space, or `|`, which stands for it; remove it")
            if each in _SPECIAL_TOKENS:
                raise ValueError(f"{each!r} is the name of a special token in the vocabulary; remove it")
        return clusters


def _escape(text: str, form: Form) -> str:
    """Return the escape of the first character of `text` that its normal form changes."""
    changed = next(
        (
            character
            for character in text
            if normalised(character, form) != character or unicodedata.combining(character)
        ),
        text[0],
    )
    return f"\\u{ord(changed):04x}"
