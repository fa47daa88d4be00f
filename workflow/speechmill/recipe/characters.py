"""The characters of the sentences of a folder, and the text rules that follow from them."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from speechmill.config.text import number_languages
from speechmill.core.languages import languages_of

# A letter in fewer sentences is a typing error or belongs to a foreign name; a model could not learn it either.
_MIN_SENTENCES = 3
# Scripts with more letters in use are syllables or ideographs, of which a corpus has only some.
_ALPHABET = 200
# Complete alphabets, since a letter can be missing in a small corpus.
_ALPHABETS = {"LATIN": "abcdefghijklmnopqrstuvwxyz", "CYRILLIC": "абвгдежзийклмнопрстуфхцчшщъыьэюя"}
# Stress marks in dictionaries and textbooks, which are not part of the spelling.
_STRESS = {"CYRILLIC": "\u0300\u0301"}
_BETWEEN_LETTERS = re.compile(r"(?<=\w)['’ʼ`´](?=\w)")
_SEPARATORS = re.compile("[-‐‑‒–—―/…]")


@dataclass(frozen=True)
class Characters:
    """What the sentences are written with.

    Attributes:
        scripts: The number of letters of each script, the most frequent script first.
        keep: The value of `text.keep`.
        dropped: Letters of the sentences that `keep` lacks, the most frequent first.
        digits: The number of sentences with digits.
        mixed: The number of sentences with letters of a script other than the first.
        apostrophes: The apostrophes other than `'` that stand between letters.
        separators: Hyphens, dashes and slashes of the sentences.
        case: Whether there are letters with a lower and an upper case.
    """

    scripts: Counter[str]
    keep: str
    dropped: list[str]
    digits: int
    mixed: int
    apostrophes: list[str]
    separators: list[str]
    case: bool

    @property
    def script(self) -> str:
        """The most frequent script; empty if there are no letters."""
        return next(iter(self.scripts), "")


def characters_of(sentences: Iterable[str]) -> Characters:
    """Return what sentences are written with."""
    sentences = [unicodedata.normalize("NFC", sentence) for sentence in sentences]
    counts: Counter[str] = Counter()
    for sentence in sentences:
        counts.update(set(sentence.lower()))
    letters = {each: count for each, count in counts.items() if unicodedata.category(each)[0] in "LM"}
    counted = Counter(script(each) for sentence in sentences for each in sentence if _is_letter(each))
    scripts = Counter(dict(counted.most_common()))
    main = _main_scripts(scripts)
    first = next(iter(scripts), "")
    wanted = {
        each
        for each, count in letters.items()
        if count >= min(_MIN_SENTENCES, max(1, len(sentences) // 10))
        and (script(each) in main or unicodedata.category(each)[0] == "M")
        and each not in _STRESS.get(first, "")
    }
    wanted |= {each for name in main for each in _ALPHABETS.get(name, "")}
    joined = {match for sentence in sentences for match in _BETWEEN_LETTERS.findall(sentence)}
    separators = sorted({match for sentence in sentences for match in _SEPARATORS.findall(sentence)})
    return Characters(
        scripts=scripts,
        keep=_ranges(wanted, len(wanted) > _ALPHABET) + ("'" if joined else ""),
        dropped=sorted(set(letters) - wanted, key=lambda each: -letters[each]),
        digits=sum(any(map(str.isdecimal, sentence)) for sentence in sentences),
        mixed=sum(_has_other_script(sentence, main) for sentence in sentences),
        apostrophes=sorted(joined - {"'"}),
        separators=separators,
        case=any(each.lower() != each.upper() for each in wanted),
    )


def script(character: str) -> str:
    """Return the script of a letter as the first word of its Unicode name, such as `CYRILLIC`."""
    return unicodedata.name(character, "UNKNOWN").split()[0]


def number_language(language: str) -> str | None:
    """Return the code by which numbers are spelled out in a language, or None if they cannot be."""
    known = number_languages()
    return language if language in known else next(iter(languages_of(language, known)), None)


def _main_scripts(scripts: Counter[str]) -> set[str]:
    """Return the scripts of the language: the most frequent one, and others that are as usual in it."""
    total = sum(scripts.values())
    # Japanese and Serbian have several; a tenth is more than the foreign words of other languages.
    return {name for name, count in scripts.items() if count > 0.1 * total}


def _has_other_script(sentence: str, main: set[str]) -> bool:
    return any(_is_letter(each) and script(each) not in main for each in sentence)


def _is_letter(character: str) -> bool:
    return unicodedata.category(character)[0] == "L"


def _ranges(characters: set[str], fill: bool) -> str:
    """Return characters as a list with ranges; with `fill`, a range also has the letters between those given."""
    runs: list[list[str]] = []
    for each in sorted(characters):
        if runs and _joins(runs[-1][-1], each, fill):
            runs[-1].append(each)
        else:
            runs.append([each])
    return "".join(f"{run[0]}-{run[-1]}" if len(run) > 2 else "".join(run) for run in runs)


def _joins(last: str, character: str, fill: bool) -> bool:
    between = range(ord(last) + 1, ord(character))
    if between and not fill:
        return False
    return all(script(chr(code)) == script(last) for code in (*between, ord(character)))
