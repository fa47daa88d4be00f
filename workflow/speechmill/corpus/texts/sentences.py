"""The division of a paragraph into sentences, by punctuation, for any language."""

import re
from collections.abc import Iterator

# Marks after which a sentence of any script ends, if white space follows: those of Latin, Cyrillic and most others,
# Arabic, Urdu, Devanagari and its neighbours, Armenian, Ethiopic, Burmese, Khmer, Tibetan.
_MARKS = ".!?…؟۔।॥։።፧၊။។༎"
# Marks of Chinese and Japanese, which no space follows.
_WIDE_MARKS = "。！？｡"
_CLOSING = r"[\"'”’»)\]」』）】]*"

_END = re.compile(rf"[{_MARKS}]+{_CLOSING}(?=\s)|[{_WIDE_MARKS}]+{_CLOSING}")

# One letter and a full stop: an initial, or an abbreviation such as “г.” for a year in Russian.
_ABBREVIATION = re.compile(r"(?<!\w)\w\.$")


def split_sentences(paragraph: str) -> Iterator[str]:
    """Yield the sentences of a paragraph, without white space around them and with single spaces between words.

    A sentence ends at a mark that ends sentences in some script. It does not end at a full stop after a single letter
    of an alphabet with cases, or where the next word begins with a lower-case letter. Other abbreviations end it too
    early.
    """
    start = 0
    for end in _END.finditer(paragraph):
        rest = paragraph[end.end() : end.end() + 100].lstrip()
        before = paragraph[max(start, end.start() - 2) : end.start() + 1]
        abbreviated = _ABBREVIATION.search(before) and before[-2].lower() != before[-2].upper()
        if not abbreviated and not rest[:1].islower():
            yield from _cleaned(paragraph[start : end.end()])
            start = end.end()
    yield from _cleaned(paragraph[start:])


def _cleaned(sentence: str) -> Iterator[str]:
    if words := sentence.split():
        yield " ".join(words)
