"""Which names stand for the same speech corpus, and which of its releases.

One corpus has many names: `mozilla-foundation/common_voice_8_0`, `common_voice`, `Common Voice 8.0`,
`cv-corpus-8.0-2022-01-19`. A name is compared by its words, without the owner of a repository, case, punctuation,
dates, and words such as `corpus`; a number at its end, perhaps before the code of a language, is the release. Two names
stand for the same corpus if the words of one begin with those of the other, however they are divided by spaces:
`zeroth` and `Zeroth-Korean`, but not `LibriSpeech` and `Multilingual LibriSpeech`.
"""

import re
import unicodedata
from typing import NamedTuple

_DATE = re.compile(r"(?<!\d)(19|20)\d\d[-_.]\d\d[-_.]\d\d(?!\d)")
_NUMBER = re.compile(r"\d+(?:[._]\d+)*")
_WORD = re.compile(rf"{_NUMBER.pattern}|[^\W\d_]+")

# Publishers and kinds of data, which one name of a corpus has and another has not.
_IGNORED = {"asr", "corpus", "data", "dataset", "facebook", "google", "mozilla", "openslr", "release", "v", "version"}
# Names of only such words, as `owner/dev_data`, say nothing without their owner.
_GENERIC = {"audio", "dev", "eval", "speech", "test", "train", "validation"}
_ABBREVIATIONS = {
    "cv": ("common", "voice"),
    "mcv": ("common", "voice"),
    "mls": ("multilingual", "librispeech"),
}


class CorpusName(NamedTuple):
    """The name of a corpus, prepared for comparison."""

    words: tuple[str, ...]
    release: str | None
    """The release that the name contains, as `release` returns it."""

    def is_same_corpus(self, other: "CorpusName") -> bool:
        """Return whether two names stand for the same corpus, perhaps for different releases."""
        return _begins(self.words, other.words) or _begins(other.words, self.words)


def corpus_name(name: str) -> CorpusName:
    """Return the words and the release of the name or the Hub id of a corpus."""
    text = _DATE.sub(" ", _normalised(name))
    words = _WORD.findall(text.rpartition("/")[2])
    numbers = _numbers_at_end(words)
    kept = [word for word in words[: numbers.start] if word not in _IGNORED]
    if set(kept) <= _GENERIC:
        return CorpusName(tuple(_WORD.findall(text)), None)
    found = ".".join(words[numbers.start : numbers.stop])
    return CorpusName(_ABBREVIATIONS.get("".join(kept), tuple(kept)), release(found))


def release(version: str | None) -> str | None:
    """Return a release in the form in which two are equal, such as `8` for `8.0`, `8_0` or `v8.0`; None if unknown.

    Of several numbers the first counts. A date counts, as text, if there is no number beside it.
    """
    text = _normalised(version or "").strip()
    number = _NUMBER.search(_DATE.sub(" ", text))
    if number is None:
        return text or None
    return re.sub(r"(\.0+)+$", "", number[0].replace("_", "."))


def _normalised(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


def _numbers_at_end(words: list[str]) -> slice:
    """Return where the numbers at the end of a name are, perhaps before codes of languages; empty if it has none."""
    end = len(words)
    while end > 0 and re.fullmatch(r"[^\W\d_]{2,3}", words[end - 1]):
        end -= 1
    start = end
    while start > 0 and words[start - 1][0].isdigit():
        start -= 1
    # A name that begins with its number has no release.
    return slice(start, end) if 0 < start < end else slice(len(words), len(words))


def _begins(words: tuple[str, ...], others: tuple[str, ...]) -> bool:
    """Return whether `words` begin with `others`, which may be divided differently: `commonvoice`, `common voice`."""
    joined = "".join(others)
    return any("".join(words[:count]) == joined for count in range(1, len(words) + 1))
