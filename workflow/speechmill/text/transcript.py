"""The words of a transcript as it is written, each with its normalised text."""

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

# White space between words; no-break and narrow spaces also separate the digits of one number.
_SPACE = r"[^\S\u00a0\u2009\u202f]"

# A word ends at a space, or at the punctuation of scripts without spaces between words. It has the space after it.
_WORD = re.compile(f"(?:(?!{_SPACE}).)+?(?:[。！？；，、]+|(?={_SPACE}|$)){_SPACE}*")

# How far from the middle of a line a boundary between independent words is searched. Rules that depend on more words
# are rare: a number or an abbreviation has few.
_REACH = 8


class Word(NamedTuple):
    """A word of a transcript, or several if the text rules treat them as one, such as `т. е.` or a number."""

    written: str
    """As in the transcript, with the space after it."""
    text: str
    """Normalised: empty, such as that of a dash, or one or several words, such as those of a number in digits."""


def words(transcript: str, normalise: Callable[[str], str]) -> list[list[Word]]:
    """Return the words of each line of a transcript; empty lines are left out.

    The texts of all words of a line together are its normalised text, except for spaces.
    """
    lines = [_WORD.findall(f"{line.strip()} ") for line in transcript.splitlines() if line.strip()]
    return [list(_divided(line, normalise("".join(line)), normalise)) for line in lines]


def _divided(written: list[str], text: str, normalise: Callable[[str], str]) -> Iterator[Word]:
    """Yield the words of a part of a line with the normalised `text`, divided wherever both sides are independent."""
    middle = len(written) // 2
    nearest_first = sorted(range(1, len(written)), key=lambda cut: abs(cut - middle))
    for cut in nearest_first[: 2 * _REACH]:
        left, right = written[:cut], written[cut:]
        texts = normalise("".join(left)), normalise("".join(right))
        if "".join(texts).replace(" ", "") == text.replace(" ", ""):
            yield from _divided(left, texts[0], normalise)
            yield from _divided(right, texts[1], normalise)
            return
    yield Word("".join(written), text)
