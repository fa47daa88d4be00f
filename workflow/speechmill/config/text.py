"""Section `runs.*.text`: how a sentence becomes the text that a model learns and is scored on."""

from typing import Literal

from pydantic import Field

from speechmill.config.base import Section


class Replacement(Section):
    """One replacement, applied in the order of the list."""

    find: str = Field(min_length=1, description="the characters to find, or a regular expression where `regex` says so")
    replacement: str = Field(description="what stands there afterwards")
    regex: bool = Field(False, description="whether `find` is a regular expression of Python's `re`")


class TextConfig(Section):
    """The text rules, applied in this order; each is counted."""

    unicode: Literal["NFC", "NFKC", "NFD", "NFKD", "none"] = Field("NFC", description="the Unicode normal form, first")
    map_confusables: Literal["cyrillic", "keep"] = Field(
        "keep",
        description="with `cyrillic`, Latin letters that look like Cyrillic ones become those, in words that have a"
        " Cyrillic letter, second",
    )
    case: Literal["lower", "upper", "keep"] = Field("lower", description="the case, third")
    replace: list[Replacement] = Field(default_factory=list, description="replacements, fourth, in this order")
    digits: Literal["keep", "ru", "ko"] = Field(
        "keep", description="with a language, whole numbers in digits are spelled out in its words, fifth"
    )
    drop: str = Field("", description="characters that are deleted, sixth")
    keep: str | None = Field(
        None,
        description="if given, the only characters that stay, seventh (the space always does); ranges such as `а-я` are"
        " understood",
    )
    units: Literal["characters", "jamo"] = Field(
        "characters",
        description="what the model writes: characters, or the jamo of Hangul syllables, which are composed again in"
        " the hypotheses",
    )
