"""Text as a model learns it and as it is scored: pure functions, each rule counted."""

import re
import unicodedata
from collections import Counter

from speechmill.command import SpeechmillError
from speechmill.config.text import TextSettings


class Normaliser:
    """The text rules of a run: calling it normalises a sentence.

    `clips_touched` counts, for each rule, the sentences that it changed; `characters_dropped` counts each character
    that `drop` and `keep` deleted.
    """

    def __init__(self, settings: TextSettings) -> None:
        self._settings = settings
        self._replace = [
            (f"replace {r.find!r} by {r.put!r}", re.compile(r.find if r.regex else re.escape(r.find)), r.put)
            for r in settings.replace
        ]
        self._keep = None if settings.keep is None else expand_ranges(settings.keep) | {" "}
        self.clips_touched: Counter[str] = Counter()
        self.characters_dropped: Counter[str] = Counter()

    def __call__(self, sentence: str) -> str:
        """The normalised sentence; white space is made single spaces, without any at the ends."""
        text = sentence
        if self._settings.unicode != "none":
            text = self._counted(
                f"unicode {self._settings.unicode}", text, unicodedata.normalize(self._settings.unicode, text)
            )
        if self._settings.case != "keep":
            changed = text.lower() if self._settings.case == "lower" else text.upper()
            text = self._counted(f"case {self._settings.case}", text, changed)
        for name, pattern, put in self._replace:
            text = self._counted(name, text, pattern.sub(put, text))
        text = self._without("drop", text, {c for c in text if c in self._settings.drop})
        if self._keep is not None:
            text = self._without("keep", text, {c for c in text if c not in self._keep and not c.isspace()})
        if self._settings.unicode != "none":
            # A change of case or a deletion can bring characters together that the normal form makes one.
            text = unicodedata.normalize(self._settings.unicode, text)
        return self._counted("space", text, " ".join(text.split()))

    def _counted(self, rule: str, before: str, after: str) -> str:
        self.clips_touched[rule] += before != after
        return after

    def _without(self, rule: str, text: str, unwanted: set[str]) -> str:
        self.characters_dropped.update(c for c in text if c in unwanted)
        return self._counted(rule, text, "".join(c for c in text if c not in unwanted))


def expand_ranges(characters: str) -> set[str]:
    """The characters of a list such as `а-яё`; a hyphen at either end stands for itself.

    Raises SpeechmillError for a range from a later character to an earlier one.
    """
    expanded: set[str] = set()
    i = 0
    while i < len(characters):
        if i + 2 < len(characters) and characters[i + 1] == "-":
            if characters[i] > characters[i + 2]:
                raise SpeechmillError(
                    f"text.keep: the range {characters[i : i + 3]} is empty; write it as"
                    f" {characters[i + 2]}-{characters[i]}"
                )
            expanded.update(chr(code) for code in range(ord(characters[i]), ord(characters[i + 2]) + 1))
            i += 3
        else:
            expanded.add(characters[i])
            i += 1
    return expanded
