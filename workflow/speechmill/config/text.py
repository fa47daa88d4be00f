"""Section `runs.*.text`: how sentences are normalised for training and scoring."""

from typing import Literal

from pydantic import Field, field_validator

from speechmill.config.base import Section

# Its words for large numbers contain Latin letters or are missing.
_BROKEN_LANGUAGES = {"am"}


def number_languages() -> list[str]:
    """Return the codes of the languages in which numbers can be spelled out."""
    # Imported here, because it takes as long as the entire configuration, and most runs do not spell numbers out.
    from num2words import CONVERTER_CLASSES

    return sorted(CONVERTER_CLASSES.keys() - _BROKEN_LANGUAGES)


class Replacement(Section):
    """A replacement; replacements are applied in the order of the list."""

    find: str = Field(min_length=1, description="text to find, or a regular expression with `regex: true`")
    replacement: str = Field(description="text to put in its place")
    regex: bool = Field(False, description="whether `find` is a regular expression in the syntax of Python's `re`")


class TextConfig(Section):
    """The text rules, applied in this order; the affected clips are counted per rule."""

    unicode: Literal["NFC", "NFKC", "NFD", "NFKD", "none"] = Field("NFC", description="1. Unicode normal form")
    map_confusables: Literal["cyrillic", "keep"] = Field(
        "keep",
        description="2. with `cyrillic`, Latin letters that look like Cyrillic ones are replaced by these in words that"
        " contain a Cyrillic letter",
    )
    case: Literal["lower", "upper", "keep"] = Field("lower", description="3. case")
    replace: list[Replacement] = Field(default_factory=list, description="4. replacements, in this order")
    digits: str = Field(
        "keep",
        description="5. language in which whole numbers in digits are spelled out, a code of num2words such as `ru`, or"
        " `keep`",
    )
    drop: str = Field("", description="6. characters to delete")
    keep: str | None = Field(
        None,
        description="7. the only characters to keep, in addition to the space; ranges such as `а-я` are allowed;"
        " default: all",
    )
    units: Literal["characters", "jamo"] = Field(
        "characters",
        description="output units of the model: characters, or the jamo of Hangul syllables, which are composed again"
        " in hypotheses",
    )

    @field_validator("digits")
    @classmethod
    def _numbers_have_words(cls, digits: str) -> str:
        if digits != "keep" and digits not in (known := number_languages()):
            raise ValueError(f"numbers cannot be spelled out in this language; use `keep` or one of {', '.join(known)}")
        return digits
