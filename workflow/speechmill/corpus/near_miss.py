"""Files whose names are similar to those of listed files that a corpus lacks, to explain why these are not found."""

import itertools
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from urllib.parse import unquote

# A few examples show what is wrong with a table. They are compared in memory, by each of their folders.
_MAX_LISTED = 1000
_MAX_LENGTH = 1000

# Spaces, quotes and characters that cannot be seen, such as U+200B, at either end of a part or before the ending.
_SURROUNDING = r"[\s\"'\u200b-\u200f\u2060\ufeff]+"
_AROUND_A_PART = re.compile(rf"(?:(?<=/)|^){_SURROUNDING}|{_SURROUNDING}(?=/|$|\.\w+$)")
_SURPLUS_SLASHES = re.compile(r"(?:(?<=/)|^)(?:\.?/)+|/+$")
# Twice where a program has added it to a name that had it.
_ENDINGS = re.compile(r"(?<=[^/])(?:\.(?=\w*[a-z])\w{2,4})+$")

# What similar names differ in, with a function that removes it from a name, in this order.
_DIFFERENCES: dict[str, Callable[[str], str]] = {
    "percent encoding": unquote,
    "backslashes": lambda name: name.replace("\\", "/"),
    "Unicode normal form": lambda name: unicodedata.normalize("NFC", name),
    "case": str.casefold,
    "spaces or quotes": lambda name: _AROUND_A_PART.sub("", name),
    "slashes": lambda name: _SURPLUS_SLASHES.sub("", name),
    "ending": lambda name: _ENDINGS.sub("", name),
}


def near_misses(listed: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
    """Return for each listed file that has a similar one the name of that, and what they differ in.

    Similar names differ only in one or several of `_DIFFERENCES`, or in leading folders. At most the first 1,000
    listed files are compared.

    Args:
        listed: The name of each file by a key, such as the id of its clip.
        names: The names of the files that exist; read once.
    """
    short = ((key, file) for key, file in listed.items() if len(file) <= _MAX_LENGTH)
    files = dict(itertools.islice(short, _MAX_LISTED))
    complete: dict[str, list[str]] = {}
    ends: dict[str, list[str]] = {}
    for key, file in files.items():
        plain = _plain(file)
        complete.setdefault(plain, []).append(key)
        for end in _ends(plain):
            ends.setdefault(end, []).append(key)
    found: dict[str, tuple[int, str, list[str]]] = {}
    for name in names if files else ():
        plain = _plain(name)
        # One of the names ends in the other.
        for key in {*ends.get(plain, ()), *(key for end in _ends(plain) for key in complete.get(end, ()))}:
            differences = _differences(files[key], name)
            candidate = (len(differences), name, differences)
            found[key] = min(found.get(key, candidate), candidate)
    return {key: f"{name}, which differs in {' and '.join(kinds)}" for key, (_, name, kinds) in found.items()}


def _plain(name: str) -> str:
    """Return a name in a form in which similar ones are equal, but for leading folders."""
    for simplify in _DIFFERENCES.values():
        name = simplify(name)
    return name


def _ends(plain: str) -> list[str]:
    """Return a path without none, one, two … of its leading folders."""
    parts = plain.split("/")
    return ["/".join(parts[i:]) for i in range(len(parts))]


def _differences(one: str, other: str) -> list[str]:
    """Return what two similar names differ in."""
    found = []
    for difference, simplify in _DIFFERENCES.items():
        simple, simple_other = simplify(one), simplify(other)
        changes_one = (simple == one) != (simple_other == other)
        if changes_one or (_is_end(simple, simple_other) and not _is_end(one, other)):
            found.append(difference)
        one, other = simple, simple_other
    return found if one == other else [*found, "leading folders"]


def _is_end(one: str, other: str) -> bool:
    return one in _ends(other) or other in _ends(one)
