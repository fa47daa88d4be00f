"""Text as a model learns it and as it is scored: pure functions, each rule counted."""

import itertools
import re
import unicodedata
from collections import Counter
from functools import lru_cache

from speechmill.config.text import TextConfig
from speechmill.core.command import SpeechmillError
from speechmill.core.tables import SAMPLE_RATE


def _cyrillic_by_latin() -> dict[str, str]:
    """The Latin letters that look like a Russian one of the same case, with what they look like.

    Source: Unicode Technical Standard #39, confusables.txt. Its r for г is left out: R has no likeness, and what a
    word becomes would depend on its case. As there, a letter with accents is like the other with the same accents.
    """
    cyrillic = dict(zip("ABCEHKMOPTXYaceopxy", "АВСЕНКМОРТХУасеорху", strict=True))
    for letter in map(chr, range(0xC0, 0x1F00)):
        decomposed = unicodedata.normalize("NFD", letter)
        base, accents = decomposed[0], decomposed[1:]
        if accents and base in cyrillic:
            cyrillic[letter] = unicodedata.normalize("NFC", cyrillic[base] + accents)
    return cyrillic


_CYRILLIC_BY_LATIN = _cyrillic_by_latin()
_TO_CYRILLIC = str.maketrans(_CYRILLIC_BY_LATIN)
_CYRILLIC_LETTER = re.compile("[\u0400-\u0481\u048a-\u052f]")
# Letters, digits, combining accents and apostrophes.
_WORD = re.compile("(?:[^\\W_]+|[\u0300-\u036f'’]+)+")

_DIGIT = re.compile(r"\d")
# No-break, thin and narrow no-break spaces group digits by threes; a plain one may as well part two numbers.
_NUMBER = re.compile("(?<!\\d)\\d{1,3}(?:[\u00a0\u2009\u202f]\\d{3})+(?!\\d)|\\d+")
# Between a number and the letter or number beside it, where no white space is.
_JOINT = re.compile(r"(?<=\d)[^\w\s]*(?=[^\W\d])|(?<=[^\W\d])[^\w\s]*(?=\d)|(?<=\d)[^\w\s]+(?=\d)")
# Longer ones are no amounts, and where num2words runs out of words depends on the language.
_MOST_DIGITS = 15

_SYLLABLES = re.compile("[가-힣]+")
# The jamo that compose, and the syllables, as one without a final consonant takes one.
_HANGUL = re.compile("[\u1100-\u1112\u1161-\u1175\u11a8-\u11c2가-힣]+")


class Normaliser:
    """The text rules of a run: calling it normalises a sentence.

    `clips_touched` counts, for each rule, the sentences that it changed; `characters_replaced` counts each Latin letter
    that `map_confusables` made Cyrillic, and `characters_dropped` each character that `drop` and `keep` deleted.
    """

    def __init__(self, settings: TextConfig) -> None:
        self._settings = settings
        self._replace = [
            (f"replace {r.find!r} by {r.replacement!r}", re.compile(r.find if r.regex else re.escape(r.find)), r.replacement)
            for r in settings.replace
        ]
        self._drop = set(settings.drop)
        self._keep = None if settings.keep is None else expand_ranges(settings.keep) | {" "}
        self.clips_touched: Counter[str] = Counter()
        self.characters_replaced: Counter[str] = Counter()
        self.characters_dropped: Counter[str] = Counter()

    def __call__(self, sentence: str) -> str:
        """The normalised sentence; white space is made single spaces, without any at the ends."""
        text, form, case, digits = sentence, self._settings.unicode, self._settings.case, self._settings.digits
        if form != "none":
            text = self._counted(f"unicode {form}", text, unicodedata.normalize(form, text))
        if self._settings.map_confusables == "cyrillic":
            text = self._counted("map_confusables cyrillic", text, self._map_confusables(text))
        if case != "keep":
            text = self._counted(f"case {case}", text, text.lower() if case == "lower" else text.upper())
        for name, pattern, put in self._replace:
            text = self._counted(name, text, pattern.sub(put, text))
        if digits != "keep":
            text = self._counted(f"digits {digits}", text, spell_numbers(text, digits, upper=case == "upper"))
        text = self._without("drop", text, self._drop.intersection(text))
        if self._keep is not None:
            text = self._without("keep", text, {c for c in set(text) - self._keep if not c.isspace()})
        if form != "none":
            # A change of case or a deletion can bring characters together that the normal form makes one.
            text = unicodedata.normalize(form, text)
        return self._counted("space", text, " ".join(text.split()))

    def _map_confusables(self, text: str) -> str:
        if _CYRILLIC_BY_LATIN.keys().isdisjoint(text) or not _CYRILLIC_LETTER.search(text):
            return text
        return _WORD.sub(self._cyrillic_word, text)

    def _cyrillic_word(self, match: re.Match[str]) -> str:
        word = match[0]
        if not _CYRILLIC_LETTER.search(word):
            return word
        self.characters_replaced.update(c for c in word if c in _CYRILLIC_BY_LATIN)
        return word.translate(_TO_CYRILLIC)

    def _counted(self, rule: str, before: str, after: str) -> str:
        self.clips_touched[rule] += before != after
        return after

    def _without(self, rule: str, text: str, unwanted: set[str]) -> str:
        left = text
        # In order, so that the counts of two runs are the same to the byte.
        for character in sorted(unwanted):
            self.characters_dropped[character] += text.count(character)
            left = left.replace(character, "")
        return self._counted(rule, text, left)


def spell_numbers(text: str, language: str, *, upper: bool = False) -> str:
    """`text` with every whole number in digits, of any script, as words of `language`, which is `ru` or `ko`.

    The words are the plain cardinal, in Russian the masculine nominative, in Korean Sino-Korean: nothing is inflected
    after its neighbours. A number that begins with a zero, or is longer than fifteen digits, is read digit by digit.
    Signs stay as they are, and a blank is put where a number would run into a letter or another number once they are
    deleted: `3,5` is `три, пять`, `5-й` is `пять- й`, `2018년` is `이천십팔 년`.
    """
    if not _DIGIT.search(text):
        return text

    def spelled(number: re.Match[str]) -> str:
        words = _words(number[0], language)
        return words.upper() if upper else words

    return _NUMBER.sub(spelled, _JOINT.sub(r"\g<0> ", text))


def _words(number: str, language: str) -> str:
    digits = [int(c) for c in number if c.isdecimal()]
    if len(digits) > _MOST_DIGITS or (digits[0] == 0 and len(digits) > 1):
        return " ".join(_cardinal(digit, language) for digit in digits)
    return _cardinal(int("".join(map(str, digits))), language)


@lru_cache(maxsize=10_000)
def _cardinal(number: int, language: str) -> str:
    # Many stages import this module, and few spell numbers.
    from num2words import num2words

    return str(num2words(number, lang=language))


def to_units(text: str, units: str) -> str:
    """`text` in the units that a model writes: with `jamo`, Hangul syllables as conjoining jamo, all else untouched.

    With `characters` it stays as it is. `compose` leads back. Source: The Unicode Standard, section 3.12.
    """
    if units == "characters":
        return text
    return _SYLLABLES.sub(lambda run: unicodedata.normalize("NFD", run[0]), text)


def compose(text: str) -> str:
    """`text` with its conjoining jamo as Hangul syllables; all else, and jamo that make no syllable, stays.

    `compose(to_units(text, "jamo")) == text` for every text in NFC. Source: The Unicode Standard, section 3.12.
    """
    return _HANGUL.sub(lambda run: unicodedata.normalize("NFC", run[0]), text)


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


def model_frames(num_samples: int, frame_seconds: float) -> int:
    """The frames that a model makes of a clip: one fewer than fits, since the first needs a whole window of samples."""
    return num_samples // round(frame_seconds * SAMPLE_RATE) - 1


def ctc_frames(text: str) -> int:
    """The fewest frames in which CTC can spell `text`: one a character, and a blank between equal neighbours.

    Source: Graves et al., Connectionist Temporal Classification, ICML 2006, section 3.
    """
    return len(text) + sum(a == b for a, b in itertools.pairwise(text))
