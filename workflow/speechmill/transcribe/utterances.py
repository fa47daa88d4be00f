"""The words of a transcript between two pauses, for formats that consist of such parts."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from speechmill.transcribe.transcript import Transcript

# A pause of half a second divides words in CTM files as well, where the source `folder` reads them.
_PAUSE = 0.5

# The longest utterance is the longest clip of a dataset with `source: transcribe`.
_MAX_SECONDS = 20.0

# The parts of the pauses around it that belong to an utterance, so that clips cut from it contain all of its sounds.
_MARGIN = 0.15

# A division into equal parts is worth as much as so many seconds of pause.
_BALANCE = 0.5


@dataclass(frozen=True)
class Token:
    """A word as it stands in the text: `space` says whether a space precedes it there."""

    text: str
    start: float
    end: float
    space: bool


@dataclass(frozen=True)
class Utterance:
    """Consecutive words; the times, in seconds, include a part of the pauses around them."""

    text: str
    start: float
    end: float


def utterances(transcript: Transcript) -> list[Utterance]:
    """Return the utterances of a transcript: at most 20 s long, if no word is longer, and divided at pauses.

    A pause of half a second always divides. They are in order, and none overlaps.
    """
    groups = list(_divided(tokens(transcript)))
    found = []
    for i, group in enumerate(groups):
        before = groups[i - 1][-1].end if i else 0.0
        after = groups[i + 1][0].start if i + 1 < len(groups) else transcript.seconds
        start = group[0].start - min(_MARGIN, (group[0].start - before) / 2)
        end = group[-1].end + min(_MARGIN, (after - group[-1].end) / 2)
        found.append(Utterance(joined(group), round(start, 3), round(end, 3)))
    return found


def _divided(words: Sequence[Token]) -> Iterator[list[Token]]:
    for group in between_pauses(words, _PAUSE):
        yield from divide(group, lambda part: part[-1].end - part[0].start <= _MAX_SECONDS)


def tokens(transcript: Transcript) -> list[Token]:
    """Return the words of a transcript with whether a space precedes them in its text."""
    found: list[Token] = []
    position = 0
    for word in transcript.words:
        start = transcript.text.index(word.text, position)
        found.append(Token(word.text, word.start, word.end, start > position))
        position = start + len(word.text)
    return found


def joined(words: Sequence[Token]) -> str:
    """Return the text of consecutive words."""
    return "".join(f"{' ' if word.space and i else ''}{word.text}" for i, word in enumerate(words))


def between_pauses(words: Sequence[Token], pause: float) -> Iterator[list[Token]]:
    """Yield the words between two pauses of at least `pause` seconds."""
    group: list[Token] = []
    for word in words:
        if group and word.start - group[-1].end >= pause:
            yield group
            group = []
        group.append(word)
    if group:
        yield group


def divide(words: list[Token], fits: Callable[[list[Token]], bool]) -> Iterator[list[Token]]:
    """Yield the parts of consecutive words that fit, or are single words: divided at long pauses, near the middle."""
    if len(words) == 1 or fits(words):
        yield words
        return
    start, seconds = words[0].start, max(words[-1].end - words[0].start, 1e-3)

    def worth(i: int) -> float:
        pause, middle = words[i].start - words[i - 1].end, (words[i].start + words[i - 1].end) / 2
        # The boundaries of words that spaces separate, before those of characters.
        return pause + _BALANCE * (1 - abs(2 * (middle - start) / seconds - 1)) + words[i].space

    cut = max(range(1, len(words)), key=worth)
    yield from divide(words[:cut], fits)
    yield from divide(words[cut:], fits)
