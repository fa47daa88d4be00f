"""Normalisation of sentences for training and scoring, and the units that models write."""

import contextlib
import itertools
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

from speechmill.config.text import TextConfig
from speechmill.core.characters import expand_ranges, list_entries, normalised
from speechmill.core.schemas import SAMPLE_RATE
from speechmill.text.casing import change_case
from speechmill.text.tokens import REPLACEMENT, SPACE


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


class DroppedMark(NamedTuple):
    """How often `keep` deleted a combining mark from letters that it kept, and the first such sentence and its text."""

    times: int
    sentence: str
    text: str


class Normaliser:
    """The text rules of a run, a function from a sentence to its normalised form.

    Literal texts and lists in the rules are used in the normal form and the case of the text that they are applied to,
    and also in the case in which they are written, since `replace` can insert letters of the other case.

    Attributes:
        clips_touched: The number of sentences that each rule changed.
        characters_replaced: How often `map_confusables` replaced each Latin letter.
        characters_dropped: How often `drop` and `keep` deleted each character.
        marks_dropped: The combining marks that `keep` deleted from letters that it kept.
    """

    def __init__(self, settings: TextConfig) -> None:
        self._settings = settings
        self._replace = [
            (
                f"replace {r.find!r} by {r.replacement!r}",
                re.compile(r.find if r.regex else _any_of(self._variants(normalised(r.find, settings.unicode)))),
                r.replacement,
            )
            for r in settings.replace
        ]
        # The case of one character can be several, of which each is also part of other words.
        dropped = {
            variant
            for entry in list_entries(settings.drop, settings.unicode)
            for variant in self._variants(entry)
            if len(variant) == len(entry)
        }
        self._drop = {each for each in dropped if len(each) == 1}
        self._drop_sequences = re.compile(_any_of(sequences)) if (sequences := dropped - self._drop) else None
        self._keep = None
        if settings.keep is not None:
            entries = expand_ranges(settings.keep, settings.unicode)
            self._keep = {" "}.union(*(variant for entry in entries for variant in self._variants(entry)))
        self.clips_touched: Counter[str] = Counter()
        self.characters_replaced: Counter[str] = Counter()
        self.characters_dropped: Counter[str] = Counter()
        self.marks_dropped: dict[str, DroppedMark] = {}

    def __call__(self, sentence: str) -> str:
        """Return the normalised sentence, with words separated by single spaces."""
        marks: Counter[str] = Counter()
        text = self._composed(self._apply(sentence, marks))
        for mark, times in marks.items():
            before = self.marks_dropped.get(mark, DroppedMark(0, sentence, text))
            self.marks_dropped[mark] = before._replace(times=before.times + times)
        return text

    def hypothesis(self, text: str, special_tokens: Sequence[str]) -> str:
        """Return a normalised hypothesis in which each special token is one character that no rule deletes.

        Args:
            text: The hypothesis, as the tokenizer decodes it.
            special_tokens: The special tokens that it can contain, by name.
        """
        parts = re.split(_any_of(special_tokens), text) if special_tokens else [text]
        return self._composed(REPLACEMENT.join(self._apply(part, Counter()) for part in parts))

    def _apply(self, text: str, marks: Counter[str]) -> str:
        """Return the text after all rules, but not yet with single spaces, and count the dropped marks in `marks`."""
        form, digits = self._settings.unicode, self._settings.digits
        if form != "none":
            text = self._counted(f"unicode {form}", text, normalised(text, form))
        if self._settings.map_confusables == "cyrillic":
            text = self._counted("map_confusables cyrillic", text, self._map_confusables(text))
        if self._settings.case != "keep":
            text = self._counted(f"case {self._settings.case}", text, self._cased(text))
        for name, pattern, replacement in self._replace:
            text = self._counted(name, text, pattern.sub(replacement, text))
        if digits != "keep":
            text = self._counted(f"digits {digits}", text, spell_numbers(text, digits, self._cased))
        # The two rules before this one insert text in any form.
        text = normalised(text, form)
        if self._drop_sequences:
            sequences = set(self._drop_sequences.findall(text))
            text = self._without("drop", text, sequences | self._drop.intersection(text))
        else:
            text = self._without("drop", text, self._drop.intersection(text))
        if SPACE in text:
            text = self._counted(f"`{SPACE}` becomes a space", text, text.replace(SPACE, " "))
        if self._keep is not None:
            unwanted = {c for c in set(text) - self._keep if not c.isspace()}
            if any(unicodedata.category(c).startswith("M") for c in unwanted):
                marks.update(_marks_of_kept_letters(text, unwanted))
            text = self._without("keep", text, unwanted)
        return text

    def _composed(self, text: str) -> str:
        # A change of case or a deletion can leave characters next to each other that have to be composed.
        text = normalised(text, self._settings.unicode)
        return self._counted("space", text, " ".join(text.split()))

    def _cased(self, text: str) -> str:
        return change_case(text, self._settings.case, self._settings.language)

    def _variants(self, text: str) -> set[str]:
        """Return a text of the rules as it is written, and in the case of the sentences, in their normal form."""
        return {text, normalised(self._cased(text), self._settings.unicode)}

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
        # Sorted, so that the order of the counts is reproducible; sequences before their characters.
        for character in sorted(unwanted, key=lambda each: (-len(each), each)):
            self.characters_dropped[character] += left.count(character)
            left = left.replace(character, "")
        return self._counted(rule, text, left)


def _any_of(texts: Iterable[str]) -> str:
    """Return a regular expression that matches each of `texts`, the longest first."""
    return "|".join(map(re.escape, sorted(texts, key=lambda each: (-len(each), each))))


def _marks_of_kept_letters(text: str, unwanted: set[str]) -> Counter[str]:
    """Return how often each of the `unwanted` combining marks follows a letter that is kept."""
    marks: Counter[str] = Counter()
    letter_is_kept = False
    for character in text:
        if unicodedata.category(character).startswith("M"):
            if letter_is_kept and character in unwanted:
                marks[character] += 1
        else:
            letter_is_kept = character not in unwanted and not character.isspace()
    return marks


def spell_numbers(text: str, language: str, cased: Callable[[str], str] = str) -> str:
    """Return `text` with whole numbers in digits (of any script) spelled out in `language`, a code of num2words.

    Numbers become plain cardinals without inflection, in Russian the masculine nominative, in Korean Sino-Korean; then
    `cased` is applied to their words. Those with a leading zero, with more than 15 digits, or too large for num2words
    are spelled digit by digit. Punctuation is unchanged, and a space is inserted where a number would otherwise touch a
    letter or another number once punctuation is dropped: `3,5` becomes `три, пять`, `5-й` becomes `пять- й`, `2018년`
    becomes `이천십팔 년`.
    """
    if not _DIGIT.search(text):
        return text
    return _NUMBER.sub(lambda number: cased(_words(number[0], language)), _JOINT.sub(r"\g<0> ", text))


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


def output_clusters(settings: TextConfig) -> list[str]:
    """Return the sequences of `text.clusters` as they occur in a normalised text in the units of the model."""

    def as_text(cluster: str) -> str:
        text = change_case(normalised(cluster, settings.unicode), settings.case, settings.language)
        return to_units(normalised(text, settings.unicode), settings.units)

    return sorted(set(map(as_text, settings.clusters)))


def model_frames(num_samples: int, frame_seconds: float) -> int:
    """Return the number of frames of a clip: one less than fits, because the window is longer than the stride."""
    return num_samples // round(frame_seconds * SAMPLE_RATE) - 1


def ctc_frames(units: Sequence[str | int]) -> int:
    """Return the smallest number of frames for a text in CTC: one per unit, and a blank between equal neighbours.

    `units` is a text, whose units are its characters, or a list of units or of their ids. Source: Graves et al.,
    Connectionist Temporal Classification, ICML 2006, section 3.
    """
    return len(units) + sum(a == b for a, b in itertools.pairwise(units))
