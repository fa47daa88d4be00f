"""Lists of characters in the configuration, such as `а-яё`: ranges, and the normal form of their entries."""

import itertools
import unicodedata
from functools import lru_cache
from typing import Literal

from speechmill.core.command import SpeechmillError

Form = Literal["NFC", "NFKC", "NFD", "NFKD", "none"]
"""A Unicode normal form; with `none`, texts and lists stay as they are."""

# A longer list is not shown in an error message.
_MAX_SHOWN = 60


def normalised(text: str, form: Form) -> str:
    """Return `text` in the normal form `form`."""
    return text if form == "none" else unicodedata.normalize(form, text)


def list_entries(characters: str, form: Form) -> list[str]:
    """Return the entries of a list without ranges, in the normal form `form`.

    An entry is one code point, or several that are canonically equivalent to one, such as и with U+0306 for й. In the
    normal form it may have several code points: й has two under NFD, and क़ has two under NFC.
    """
    return [normalised(entry, form) for entry in _entries(characters, form)]


def expand_ranges(characters: str, form: Form = "NFC") -> set[str]:
    """Return the entries of a list with ranges, such as `а-яё`, in the normal form `form`.

    A hyphen at either end of the list is a hyphen.

    Raises:
        SpeechmillError: A range is in descending order, or one of its ends is not one code point in the normal form.
    """
    entries = _entries(characters, form)
    expanded: set[str] = set()
    i = 0
    while i < len(entries):
        if i + 2 < len(entries) and entries[i + 1] == "-":
            expanded.update(_range(entries[i], entries[i + 2], form))
            i += 3
        else:
            expanded.add(normalised(entries[i], form))
            i += 1
    return expanded


def _range(first: str, last: str, form: Form) -> list[str]:
    for written in (first, last):
        end = normalised(written, form)
        if len(end) != 1:
            codes = " ".join(f"U+{ord(character):04X}" for character in end)
            raise SpeechmillError(
                f"the range {first}-{last} ends in {written}, which is {len(end)} code points under {form} ({codes});"
                f" write {_without_range(first, last)}"
            )
    start, stop = normalised(first, form), normalised(last, form)
    if start > stop:
        raise SpeechmillError(f"the range {first}-{last} is in descending order; write {last}-{first}")
    return [normalised(chr(code), form) for code in range(ord(start), ord(stop) + 1)]


def _without_range(first: str, last: str) -> str:
    """Return what to write instead of a range with an end of several code points."""
    first, last = (_one_code_point(end) or end for end in (first, last))
    if len(first) == len(last) == 1 and ord(first) <= ord(last) < ord(first) + _MAX_SHOWN:
        return "".join(map(chr, range(ord(first), ord(last) + 1)))
    return "the characters one by one, without a hyphen"


def _entries(characters: str, form: Form) -> list[str]:
    if form == "none":
        return list(characters)
    entries: list[str] = []
    for character in characters:
        if entries and _one_code_point(entries[-1] + character):
            entries[-1] += character
        else:
            entries.append(character)
    return entries


def _one_code_point(text: str) -> str | None:
    """Return the code point that is canonically equivalent to `text`, if there is one."""
    composed = unicodedata.normalize("NFC", text)
    if len(composed) == 1:
        return composed
    return _never_composed().get(unicodedata.normalize("NFD", text)) if unicodedata.combining(text[-1]) else None


@lru_cache
def _never_composed() -> dict[str, str]:
    """Return the code points that normal forms decompose for ever, such as क़, by their decompositions.

    Source: the Unicode Standard, CompositionExclusions.txt; all but musical symbols are in these blocks.
    """
    letters = map(chr, itertools.chain(range(0x0340, 0x1000), range(0x1F00, 0x2B00), range(0xFB00, 0xFB50)))
    return {
        unicodedata.normalize("NFD", letter): letter
        for letter in letters
        if len(unicodedata.normalize("NFC", letter)) > 1
    }
