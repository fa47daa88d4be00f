"""Subtitles: SubRip (`.srt`) and WebVTT (`.vtt`, https://www.w3.org/TR/webvtt1/)."""

import html
import re
from collections.abc import Iterator
from pathlib import Path

import pysubs2
from pysubs2.formats.subrip import SubripFormat
from pysubs2.formats.webvtt import WebVTTFormat

from speechmill.corpus.pieces import Piece
from speechmill.corpus.sources.annotations.annotation import Annotation, malformed, read_whole_text

_ADVICE = "correct it, or convert the file again"

# The times of single words within the text; pysubs2 takes a line with two of them for that of another subtitle.
_TIMES_OF_WORDS = re.compile(r"<[\d:.]+>")

# The line with the times of a subtitle, and its number if it has one. Without a number, pysubs2 would remove the last
# line of the subtitle before it if that is a number.
_START_OF_SUBTITLE = re.compile(r"^(?:[ \t]*\d+[ \t]*\n)?(.*-->)", re.MULTILINE)

_VOICE = re.compile(r"<v(?:\.\S*)?\s+([^>]*)>")
_TAG = re.compile(r"</?[a-zA-Z][^>]*>")


def read_srt(file: Path) -> list[Annotation]:
    """Return the subtitles of a SubRip file, without markup and positions.

    Raises:
        SpeechmillError: The file is not text, or not SubRip.
    """
    text = read_whole_text(file)
    if text.strip() and "-->" not in text:
        raise malformed(file, "SubRip", "no line has times such as 00:00:01,000 --> 00:00:02,500", _ADVICE)
    _check_times(file, text, SubripFormat.TIMESTAMP)
    return list(_subtitles(file, text, "srt"))


def read_vtt(file: Path) -> list[Annotation]:
    """Return the cues of a WebVTT file, without markup and positions; `<v NAME>` is the speaker of a cue.

    Raises:
        SpeechmillError: The file is not text, or not WebVTT.
    """
    text = read_whole_text(file)
    if not text.startswith("WEBVTT"):
        raise malformed(file, "WebVTT", "the first line is not WEBVTT", _ADVICE)
    _check_times(file, text, WebVTTFormat.TIMESTAMP)
    cues = []
    for block in re.split(r"\n[ \t]*\n", text):
        lines = block.split("\n")
        # A name may precede the times of a cue; blocks without times are comments and styles.
        cues += ["\n".join(lines[i:]) for i, line in enumerate(lines) if "-->" in line][:1]
    return [each._replace(text=html.unescape(each.text)) for each in _subtitles(file, "\n\n".join(cues), "vtt")]


def _check_times(file: Path, text: str, time: re.Pattern[str]) -> None:
    for number, line in enumerate(text.split("\n"), 1):
        if "-->" in line and len(time.findall(line)) != 2:
            raise malformed(f"{file}: line {number}", "`<start> --> <end>`", f"it is {line.strip()!r}", _ADVICE)


def _subtitles(file: Path, text: str, form: str) -> Iterator[Annotation]:
    numbered = _START_OF_SUBTITLE.sub(r"\n0\n\1", _TIMES_OF_WORDS.sub("", text)) + "\n\n0\n"
    try:
        subtitles = pysubs2.SSAFile.from_string(numbered, form, keep_html_tags=True)
    except ValueError as error:
        raise malformed(file, "a file with subtitles", error, _ADVICE) from error
    for number, subtitle in enumerate(subtitles, 1):
        speakers = {html.unescape(name).strip() for name in _VOICE.findall(subtitle.text)}
        yield Annotation(
            f"{file}: subtitle {number}",
            " ".join(_TAG.sub("", subtitle.plaintext).split()),
            Piece(subtitle.start / 1000, subtitle.end / 1000),
            speaker=speakers.pop() if len(speakers) == 1 else "",
        )
