"""Normalisation of sentences for training and scoring, and the units that models write."""

import contextlib
import itertools
import re
import unicodedata
from collections import Counter
from functools import lru_cache

from speechmill.config.text import TextConfig
from speechmill.core.command import SpeechmillError
from speechmill.core.schemas import SAMPLE_RATE


def _cyrillic_by_latin() -> dict[str, str]:
    """Return the Latin letters that look like a Russian letter of the same case, with that letter.

    Letters with accents are mapped to the Russian letter with the same accents. Source: Unicode Technical Standard #39,
    confusables.txt, except r for г: R looks like no Russian letter, so the result would depend on the case of a word.
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
# Groups of three digits may be separated by no-break, thin and narrow no-break spaces; a plain space may also separate
# two numbers.
_NUMBER = re.compile("(?<!\\d)\\d{1,3}(?:[\u00a0\u2009\u202f]\\d{3})+(?!\\d)|\\d+")
# The boundary between a number and an adjacent letter or number, including punctuation between them.
_JOINT = re.compile(r"(?<=\d)[^\w\s]*(?=[^\W\d])|(?<=[^\W\d])[^\w\s]*(?=\d)|(?<=\d)[^\w\s]+(?=\d)")
# Longer numbers are rarely quantities, and the largest number of num2words depends on the language.
_MAX_DIGITS = 15

_SYLLABLES = re.compile("[가-힣]+")
# Jamo that can be composed, and syllables, which can take a final consonant.
_HANGUL = re.compile("[\u1100-\u1112\u1161-\u1175\u11a8-\u11c2가-힣]+")


class Normaliser:
    """The text rules of a run, a function from a sentence to its normalised form.

    Attributes:
        clips_touched: The number of sentences that each rule changed.
        characters_replaced: How often `map_confusables` replaced each Latin letter.
        characters_dropped: How often `drop` and `keep` deleted each character.
    """

    def __init__(self, settings: TextConfig) -> None:
        self._settings = settings
        self._replace = [
            (
                f"replace {r.find!r} by {r.replacement!r}",
                re.compile(r.find if r.regex else re.escape(r.find)),
                r.replacement,
            )
            for r in settings.replace
        ]
        self._drop = set(settings.drop)
        self._keep = None if settings.keep is None else expand_ranges(settings.keep) | {" "}
        self.clips_touched: Counter[str] = Counter()
        self.characters_replaced: Counter[str] = Counter()
        self.characters_dropped: Counter[str] = Counter()

    def __call__(self, sentence: str) -> str:
        """Return the normalised sentence, with words separated by single spaces."""
        text, form, case, digits = sentence, self._settings.unicode, self._settings.case, self._settings.digits
        if form != "none":
            text = self._counted(f"unicode {form}", text, unicodedata.normalize(form, text))
        if self._settings.map_confusables == "cyrillic":
            text = self._counted("map_confusables cyrillic", text, self._map_confusables(text))
        if case != "keep":
            text = self._counted(f"case {case}", text, text.lower() if case == "lower" else text.upper())
        for name, pattern, replacement in self._replace:
            text = self._counted(name, text, pattern.sub(replacement, text))
        if digits != "keep":
            text = self._counted(f"digits {digits}", text, spell_numbers(text, digits, upper=case == "upper"))
        text = self._without("drop", text, self._drop.intersection(text))
        if self._keep is not None:
            text = self._without("keep", text, {c for c in set(text) - self._keep if not c.isspace()})
        if form != "none":
            # A change of case or a deletion can leave characters next to each other that have to be composed.
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
        # Sorted, so that the order of the counts is reproducible.
        for character in sorted(unwanted):
            self.characters_dropped[character] += text.count(character)
            left = left.replace(character, "")
        return self._counted(rule, text, left)


def spell_numbers(text: str, language: str, *, upper: bool = False) -> str:
    """Return `text` with whole numbers in digits (of any script) spelled out in `language`, a code of num2words.

    Numbers become plain cardinals without inflection, in Russian the masculine nominative, in Korean Sino-Korean. Those
    with a leading zero, with more than 15 digits, or too large for num2words are spelled digit by digit. Punctuation is
    unchanged, and a space is inserted where a number would otherwise touch a letter or another number once punctuation
    is dropped: `3,5` becomes `три, пять`, `5-й` becomes `пять- й`, `2018년` becomes `이천십팔 년`.
    """
    if not _DIGIT.search(text):
        return text

    def spelled(number: re.Match[str]) -> str:
        words = _words(number[0], language)
        return words.upper() if upper else words

    return _NUMBER.sub(spelled, _JOINT.sub(r"\g<0> ", text))


def _words(number: str, language: str) -> str:
    digits = [int(c) for c in number if c.isdecimal()]
    if len(digits) <= _MAX_DIGITS and (digits[0] > 0 or len(digits) == 1):
        # In some languages num2words has no words for numbers from a million million.
        with contextlib.suppress(OverflowError):
            return _cardinal(int("".join(map(str, digits))), language)
    return " ".join(_cardinal(digit, language) for digit in digits)


@lru_cache(maxsize=10_000)
def _cardinal(number: int, language: str) -> str:
    # Imported here, because many stages import this module, and few spell numbers out.
    from num2words import num2words

    # English words have commas and hyphens, which `drop` would delete without leaving a space.
    return str(num2words(number, lang=language)).replace(",", "").replace("-", " ")


def to_units(text: str, units: str) -> str:
    """Return `text` in the output units of a model; `compose` is the inverse.

    With `jamo`, Hangul syllables are decomposed into conjoining jamo; with `characters`, the text is unchanged. Source:
    The Unicode Standard, section 3.12.
    """
    if units == "characters":
        return text
    return _SYLLABLES.sub(lambda run: unicodedata.normalize("NFD", run[0]), text)


def compose(text: str) -> str:
    """Return `text` with conjoining jamo composed into Hangul syllables, as far as they form syllables.

    `compose(to_units(text, "jamo")) == text` for every text in NFC. Source: The Unicode Standard, section 3.12.
    """
    return _HANGUL.sub(lambda run: unicodedata.normalize("NFC", run[0]), text)


def expand_ranges(characters: str) -> set[str]:
    """Return the characters of a list with ranges, such as `а-яё`; a hyphen at either end is a hyphen.

    Raises:
        SpeechmillError: A range is in descending order.
    """
    expanded: set[str] = set()
    i = 0
    while i < len(characters):
        if i + 2 < len(characters) and characters[i + 1] == "-":
            if characters[i] > characters[i + 2]:
                raise SpeechmillError(
                    f"text.keep: the range {characters[i : i + 3]} is in descending order; write"
                    f" {characters[i + 2]}-{characters[i]}"
                )
            expanded.update(chr(code) for code in range(ord(characters[i]), ord(characters[i + 2]) + 1))
            i += 3
        else:
            expanded.add(characters[i])
            i += 1
    return expanded


def model_frames(num_samples: int, frame_seconds: float) -> int:
    """Return the number of frames of a clip: one less than fits, because the window is longer than the stride."""
    return num_samples // round(frame_seconds * SAMPLE_RATE) - 1


def ctc_frames(text: str) -> int:
    """Return the smallest number of frames for `text` in CTC: one per character, and a blank between equal neighbours.

    Source: Graves et al., Connectionist Temporal Classification, ICML 2006, section 3.
    """
    return len(text) + sum(a == b for a, b in itertools.pairwise(text))
