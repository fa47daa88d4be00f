"""The special tokens of a vocabulary, and the units that a text consists of."""

import re
from collections.abc import Iterable

PAD, UNKNOWN, SPACE = "[PAD]", "[UNK]", "|"
"""The padding token, which is the blank of CTC, the token for unknown characters, and the one for the space."""

BLANK = 0
"""The id of PAD."""

WORD_START = "\u2581"
"""The character for a space in the subwords of SentencePiece, whose words mostly start with it."""

REPLACEMENT = "\ufffd"
"""The character that stands for a special token in a scored hypothesis: U+FFFD, the replacement character."""


def unit_pattern(units: Iterable[str]) -> re.Pattern[str]:
    """Return a pattern whose `findall` splits a text into units: at each position the longest of `units`.

    Where none of them is at a position, the unit is one character.
    """
    longest_first = sorted({unit for unit in units if len(unit) > 1}, key=lambda unit: (-len(unit), unit))
    return re.compile("|".join([*map(re.escape, longest_first), "."]), re.DOTALL)
