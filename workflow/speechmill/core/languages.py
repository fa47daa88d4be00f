"""Codes of languages in ISO 639, and the codes of a model that stand for a language."""

import difflib
import re
from collections.abc import Collection

from iso639 import Lang, is_language
from iso639.exceptions import DeprecatedLanguageValue, InvalidLanguageValue

_CODES = ("pt1", "pt2b", "pt2t", "pt3", "pt5")
# Lists up to this length are shown completely.
_SHOWN = 10


def is_code(text: str) -> bool:
    """Return whether `text` is a code of ISO 639-1, 639-2, 639-3 or, for a group of languages, 639-5.

    All of them are lower case.
    """
    return is_language(text, _CODES)


def suggest_code(text: str) -> str | None:
    """Return the shortest code for a locale (`zh-CN`), a code in upper case, a former code or a name; or None."""
    language = _find(text)
    return (language.pt1 or language.pt3 or language.pt2t or language.pt5) if language is not None else None


def nearest_languages(language: str, available: Collection[str]) -> list[str]:
    """Return the codes in `available` that are nearest to a language.

    They are those of the same language; otherwise of its macrolanguage, or of the languages that it comprises, such as
    `cmn` for `zh`; otherwise those with similar letters, or the first ones.

    Args:
        language: A code of ISO 639, possibly misspelt or with a suffix.
        available: The codes of a model: those of ISO 639-3, some with a suffix, such as `azj-script_latin`.
    """
    return languages_of(language, available) or _similar(language, available)


def languages_of(language: str, available: Collection[str]) -> list[str]:
    """Return the codes in `available` that stand for a language, or else for its macrolanguage or members."""
    wanted = _find(language)
    if wanted is None:
        return []
    members = {member.pt3 for member in wanted.individuals()}
    macro = wanted.macro()
    for codes in ({wanted.pt3}, members | ({macro.pt3} if macro is not None else set())):
        found = [each for each in sorted(available) if (other := _find(each)) is not None and other.pt3 in codes]
        if found:
            return found
    return []


def _similar(language: str, available: Collection[str]) -> list[str]:
    if len(available) <= _SHOWN:
        return sorted(available)
    return difflib.get_close_matches(language, sorted(available), n=_SHOWN) or sorted(available)[:_SHOWN]


def _find(text: str) -> Lang | None:
    """Return the language of a code, of the first part of a locale, or of an English name."""
    first = re.split("[-_]", text)[0].lower()
    # Short words are names of languages too: Mo is not what the former code `mo` stood for.
    for value in (first, text.title()) if len(text) > 3 else (first,):
        try:
            return Lang(value)
        except DeprecatedLanguageValue as error:
            if error.change_to:
                return Lang(error.change_to)
        except InvalidLanguageValue:
            continue
    return None
