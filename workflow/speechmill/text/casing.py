"""Lower and upper case by the rules of a language.

Source: the Unicode Standard, SpecialCasing.txt, whose conditions are defined in section 3.13, table 3-17. Python's
`lower` and `upper` implement all of it except for the rules of single languages, which are here.
"""

import re
import sys
import unicodedata
from collections.abc import Callable
from functools import lru_cache
from typing import Literal

from speechmill.config.text import CasingLanguage

_DOT_ABOVE = "\u0307"
_ACCENTED_I = str.maketrans({"\u00cc": "i\u0307\u0300", "\u00cd": "i\u0307\u0301", "\u0128": "i\u0307\u0303"})
# The letters with the property Soft_Dotted in PropList.txt that the Latin and the Cyrillic script of Europe have.
_SOFT_DOTTED = "ij\u012f\u0249\u0268\u029d\u0456\u0458\u1e2d\u1ecb"


def change_case(text: str, case: Literal["lower", "upper", "keep"], language: CasingLanguage | None) -> str:
    """Return `text` in lower or upper case by the rules of `language`; None stands for all languages without rules."""
    if case == "keep":
        return text
    turkic = language in ("tr", "az")
    if case == "lower":
        prepare: Callable[[str], str] | None = _turkic_lower if turkic else _lithuanian_lower if language else None
        return (prepare(text) if prepare else text).lower()
    if turkic:
        text = text.replace("i", "İ")
    elif language and _DOT_ABOVE in text:
        text = re.sub(f"([{_SOFT_DOTTED}]{_below()}){_DOT_ABOVE}", r"\1", text)
    return text.upper()


def _turkic_lower(text: str) -> str:
    if _DOT_ABOVE in text:
        text = re.sub(f"I({_below()}){_DOT_ABOVE}", r"i\1", text)
    return text.replace("I", "ı").replace("İ", "i")


def _lithuanian_lower(text: str) -> str:
    return re.sub(f"([IJ\u012e])(?={_below()}[{_by_class()[1]}])", rf"\1{_DOT_ABOVE}", text).translate(_ACCENTED_I)


def _below() -> str:
    """Return a pattern of the marks that may be between a letter and a mark above it."""
    return f"[{_by_class()[0]}]*"


@lru_cache
def _by_class() -> tuple[str, str]:
    """Return the combining characters of classes other than 0 and 230 (Above), and those of class 230."""
    classes = {character: unicodedata.combining(character) for character in map(chr, range(sys.maxunicode + 1))}
    return (
        "".join(character for character, number in classes.items() if number not in (0, 230)),
        "".join(character for character, number in classes.items() if number == 230),
    )
