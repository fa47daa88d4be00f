"""Subtitles: lines of readable length, broken at pauses, as SubRip (`.srt`) and WebVTT (`.vtt`).

The limits are those of Netflix: at most 2 lines of 42 characters, or of 16 in Chinese, Japanese and Korean; on the
screen for at most 7 seconds. The shortest time is one second, where the next subtitle leaves it. Sources: Timed Text
Style Guide, https://partnerhelp.netflixstudios.com/hc/en-us/articles/215758617 (general requirements) and the guides of
the languages; WebVTT, https://www.w3.org/TR/webvtt1/.
"""

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from html import escape

from speechmill.transcribe.transcript import Transcript
from speechmill.transcribe.utterances import Token, between_pauses, divide, joined, tokens

_LINES = 2
_LINE_WIDTH = 42.0
# The width of a wide character: a line has 16 of them.
_WIDE = _LINE_WIDTH / 16
_MIN_SECONDS, _MAX_SECONDS = 1.0, 7.0

# A longer pause ends a subtitle.
_PAUSE = 0.8


@dataclass(frozen=True)
class Cue:
    """A subtitle: its lines, and when it is shown, in seconds."""

    lines: list[str]
    start: float
    end: float


def cues(transcript: Transcript) -> list[Cue]:
    """Return the subtitles of a transcript, in order and without overlap."""
    parts = [part for word in tokens(transcript) for part in _fitting(word)]
    groups = [
        group
        for between in between_pauses(parts, _PAUSE)
        for group in divide(between, lambda words: _seconds(words) <= _MAX_SECONDS and _fits(words))
    ]
    groups = _joined_if_short(groups)
    return _shown_long_enough([Cue(_lines(group), group[0].start, group[-1].end) for group in groups], transcript)


def srt(transcript: Transcript) -> str:
    """Return the subtitles of a transcript as SubRip."""
    return "".join(
        f"{number}\n{_time(cue.start, ',')} --> {_time(cue.end, ',')}\n{chr(10).join(cue.lines)}\n\n"
        for number, cue in enumerate(cues(transcript), 1)
    )


def vtt(transcript: Transcript) -> str:
    """Return the subtitles of a transcript as WebVTT."""
    return "WEBVTT\n\n" + "".join(
        f"{_time(cue.start, '.')} --> {_time(cue.end, '.')}\n{escape(chr(10).join(cue.lines), quote=False)}\n\n"
        for cue in cues(transcript)
    )


def width(text: str) -> float:
    """Return the width of a text in characters of a line: combining marks have none, wide characters 42 / 16.

    Source: Unicode Standard Annex #11, East Asian Width.
    """
    return sum(
        0.0
        if unicodedata.category(character) in ("Mn", "Me", "Cf")
        else _WIDE
        if unicodedata.east_asian_width(character) in "WF"
        else 1.0
        for character in text
    )


def _fitting(word: Token) -> Iterator[Token]:
    """Yield a word, or the parts of one that is longer than a line, with their shares of its time."""
    parts: list[str] = [""]
    for character in word.text:
        # A combining mark belongs to the character before it.
        if width(parts[-1] + character) > _LINE_WIDTH and unicodedata.category(character)[0] != "M":
            parts.append("")
        parts[-1] += character
    start, seconds = word.start, word.end - word.start
    for i, part in enumerate(parts):
        end = word.end if i == len(parts) - 1 else start + seconds * len(part) / len(word.text)
        yield Token(part, start, end, word.space and not i)
        start = end


def _seconds(words: Sequence[Token]) -> float:
    return words[-1].end - words[0].start


def _fits(words: Sequence[Token]) -> bool:
    return len(_lines(words)) <= _LINES


def _lines(words: Sequence[Token]) -> list[str]:
    """Return the lines of a subtitle: one if the text fits; otherwise two of similar width, or as many as it takes."""
    if width(joined(words)) <= _LINE_WIDTH:
        return [joined(words)]
    pairs = [(joined(words[:i]), joined(words[i:]), words[i].space) for i in range(1, len(words))]
    fitting = [pair for pair in pairs if max(width(pair[0]), width(pair[1])) <= _LINE_WIDTH]
    if fitting:
        # At a space, where there is one.
        first, second, _ = min(fitting, key=lambda pair: (not pair[2], abs(width(pair[0]) - width(pair[1]))))
        return [first, second]
    lines: list[list[Token]] = [[]]
    for word in words:
        if lines[-1] and width(joined([*lines[-1], word])) > _LINE_WIDTH:
            lines.append([])
        lines[-1].append(word)
    return [joined(line) for line in lines]


def _joined_if_short(groups: Sequence[list[Token]]) -> list[list[Token]]:
    """Return the groups, those shorter than a second joined with a neighbour that leaves them no time, if they fit."""
    found: list[list[Token]] = []
    for group in groups:
        both = [*found[-1], *group] if found else []
        short = both and min(_seconds(found[-1]), _seconds(group)) < _MIN_SECONDS
        near = both and group[0].start - found[-1][-1].end < _MIN_SECONDS / 2
        if short and near and _seconds(both) <= _MAX_SECONDS and _fits(both):
            found[-1] = both
        else:
            found.append(group)
    return found


def _shown_long_enough(found: Sequence[Cue], transcript: Transcript) -> list[Cue]:
    """Return the subtitles, those shorter than a second longer, as far as their neighbours leave time.

    A single word of more than 7 seconds, because there is a pause within it, is shown for only 7.
    """
    shown: list[Cue] = []
    for i, cue in enumerate(found):
        latest = found[i + 1].start if i + 1 < len(found) else transcript.seconds
        end = max(min(cue.end, cue.start + _MAX_SECONDS), min(cue.start + _MIN_SECONDS, latest))
        earliest = shown[-1].end if shown else 0.0
        start = min(cue.start, max(end - _MIN_SECONDS, earliest))
        shown.append(replace(cue, start=start, end=end))
    return shown


def _time(seconds: float, point: str) -> str:
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 1000:02d}{point}{rest % 1000:03d}"
