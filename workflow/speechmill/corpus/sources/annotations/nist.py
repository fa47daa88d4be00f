"""CTM and STM, the formats of NIST's scoring tool sclite.

Source: https://github.com/usnistgov/SCTK, doc/infmts.htm.
"""

import math
import re
from collections.abc import Iterator
from pathlib import Path

from speechmill.corpus.pieces import Piece
from speechmill.corpus.sources.annotations.annotation import Annotation, malformed
from speechmill.corpus.sources.manifests import channel_number, read_lines

_PAUSE = 0.5
"""Seconds without a word that divide the words of a CTM file into annotations."""

_ADVICE = "correct the line"
_CTM = "`<recording> <channel> <start> <duration> <word>`, with times in seconds and the channel 1 or A"
_STM = "`<recording> <channel> <speaker> <start> <end> <text>`, with times in seconds and the channel 1 or A"
_IGNORED = "ignore_time_segment_in_scoring"


def read_ctm(file: Path) -> list[Annotation]:
    """Return the words of a CTM file, joined to an annotation between two pauses of at least half a second.

    Raises:
        SpeechmillError: The file is not text, or a line is malformed.
    """
    sides: dict[tuple[str, int], list[Annotation]] = {}
    for location, line in _lines(file):
        try:
            recording, channel, start, duration, word, *_ = line.split()
            piece = _piece(channel, float(start), float(start) + float(duration))
        except ValueError as error:
            raise malformed(location, _CTM, error, _ADVICE) from error
        sides.setdefault((recording, piece.channel or 0), []).append(
            Annotation(location, word, piece, recording=recording)
        )
    return [each for words in sides.values() for each in _joined(sorted(words, key=lambda word: word.piece.start))]


def _joined(words: list[Annotation]) -> Iterator[Annotation]:
    """Yield the words of one channel, in the order of time, as annotations that pauses divide."""
    group: list[Annotation] = []
    end = 0.0
    for word in words:
        if group and word.piece.start - end >= _PAUSE:
            yield _utterance(group, end)
            group = []
        end = max(end, word.piece.end or 0.0) if group else word.piece.end or 0.0
        group.append(word)
    if group:
        yield _utterance(group, end)


def _utterance(words: list[Annotation], end: float) -> Annotation:
    text = " ".join(word.text for word in words)
    return words[0]._replace(text=text, piece=words[0].piece._replace(end=end))


def read_stm(file: Path) -> list[Annotation]:
    """Return the segments of an STM file; those that are ignored in scoring have no text.

    Raises:
        SpeechmillError: The file is not text, or a line is malformed.
    """
    return [_segment(location, line) for location, line in _lines(file)]


def _segment(location: str, line: str) -> Annotation:
    try:
        recording, channel, speaker, start, end, *rest = line.split(maxsplit=5)
        piece = _piece(channel, float(start), float(end))
    except ValueError as error:
        raise malformed(location, _STM, error, _ADVICE) from error
    # The label says which subsets of a test set the segment belongs to: `<o,f0,female>`.
    text = re.sub(r"^<[^\s>]*>\s*", "", "".join(rest)).strip()
    return Annotation(location, "" if text.lower() == _IGNORED else text, piece, speaker=speaker, recording=recording)


def _lines(file: Path) -> Iterator[tuple[str, str]]:
    """Yield the location and the text of each line that is neither blank nor a comment."""
    for location, line in read_lines(file):
        text = line.strip()
        if text and not text.startswith(";;"):
            yield location, text


def _piece(channel: str, start: float, end: float) -> Piece:
    if not (math.isfinite(start) and math.isfinite(end)):
        raise ValueError("a time is not a number")
    # Decimal places that the sum of two floats makes up would appear in the name of the piece.
    return Piece(start, round(end, 6), channel_number(channel.upper(), first=1))
