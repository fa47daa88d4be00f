"""The direction of text among text of another direction, and characters that cannot be seen."""

import re
import unicodedata

_FIRST_STRONG_ISOLATE, _POP_DIRECTIONAL_ISOLATE = "\u2068", "\u2069"

_RIGHT_TO_LEFT = {"R", "AL", "AN"}

# LRE, RLE, PDF, LRO, RLO, LRI, RLI, FSI and PDI: without its counterpart, one changes the order of all that follows.
EXPLICIT_FORMATTING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""The characters that embed, override or isolate a direction (UAX #9, section 2)."""

_EXPLICIT = f"[{''.join(sorted(EXPLICIT_FORMATTING))}]"
_ISOLATED = re.compile(f"{_FIRST_STRONG_ISOLATE}(?:(?!{_EXPLICIT}).)*{_POP_DIRECTIONAL_ISOLATE}", re.DOTALL)


def isolate(text: str) -> str:
    """Return `text` in a form that leaves the order of its surroundings unchanged, and they that of the text.

    Text with right-to-left characters is put between FSI and PDI, which HTML, its attributes, Markdown and plots keep;
    other text needs no isolation. Explicit formatting characters in the text are removed. Text whose right-to-left
    parts have been isolated is returned unchanged.

    Source: Unicode Standard Annex #9, sections 2.4 and 5.2.
    """
    if not _affects_direction(_ISOLATED.sub("", text)):
        return text
    plain = re.sub(_EXPLICIT, "", text)
    return f"{_FIRST_STRONG_ISOLATE}{plain}{_POP_DIRECTIONAL_ISOLATE}" if _affects_direction(plain) else plain


def _affects_direction(text: str) -> bool:
    return any(each in EXPLICIT_FORMATTING or unicodedata.bidirectional(each) in _RIGHT_TO_LEFT for each in text)


def on_dotted_circle(text: str) -> str:
    """Return `text`, on a dotted circle if it begins with a combining mark, which would join what stands before it."""
    return f"◌{text}" if text and unicodedata.category(text[0])[0] == "M" else text


def code_point(character: str) -> str:
    """Return the code point of a character, such as `U+200F`."""
    return f"U+{ord(character):04X}"
