"""The formats of transcripts, by the ending of their files."""

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from xml.etree import ElementTree

from praatio.utilities.textgrid_io import getTextgridAsStr
from pympi.Elan import Eaf, to_adocument

from speechmill.transcribe.subtitles import srt, vtt
from speechmill.transcribe.transcript import Transcript, Word
from speechmill.transcribe.utterances import utterances

_TEXT, _WORDS = "text", "words"
"""The names of tiers, of utterances and of words."""

# ELAN selects the player by this type, and the one for audio plays videos without their picture.
_MEDIA_TYPES = {".wav": "audio/x-wav", ".mp4": "video/mp4", ".m4v": "video/mp4", ".mpg": "video/mpeg"}


def _txt(transcript: Transcript, recording: Path, file: Path) -> str:
    """A line for each utterance."""
    return "".join(f"{each.text}\n" for each in utterances(transcript))


def _json(transcript: Transcript, recording: Path, file: Path) -> str:
    """The fields of `Transcript`, with the name of the recording."""
    return json.dumps({"recording": recording.name, **asdict(transcript)}, ensure_ascii=False, indent=1) + "\n"


def _srt(transcript: Transcript, recording: Path, file: Path) -> str:
    return srt(transcript)


def _vtt(transcript: Transcript, recording: Path, file: Path) -> str:
    return vtt(transcript)


def _eaf(transcript: Transcript, recording: Path, file: Path) -> str:
    """A file of ELAN with the tier `text`; the recording is found by its path relative to the file, too."""
    eaf = Eaf(author="speechmill")
    eaf.remove_tier("default")
    eaf.add_tier(_TEXT)
    relative = Path(os.path.relpath(recording.resolve(), file.parent.resolve())).as_posix()
    eaf.add_linked_file(
        recording.resolve().as_uri(),
        relative if relative.startswith("../") else f"./{relative}",
        _MEDIA_TYPES.get(recording.suffix.lower(), "unknown"),
    )
    found = utterances(transcript)
    for each in found:
        start, end = (round(seconds * 1000) for seconds in (each.start, each.end))
        eaf.add_annotation(_TEXT, start, max(end, start + 1), each.text)
    # The number from which ELAN continues.
    eaf.properties = [("lastUsedAnnotationId", len(found))]
    return ElementTree.tostring(to_adocument(eaf), encoding="unicode", xml_declaration=True)


def _textgrid(transcript: Transcript, recording: Path, file: Path) -> str:
    """A file of Praat with the tiers `text` and `words`."""
    content = {
        _TEXT: [(each.start, each.end, each.text) for each in utterances(transcript)],
        _WORDS: _intervals(transcript.words),
    }
    tiers = [
        {"class": "IntervalTier", "name": name, "xmin": 0.0, "xmax": transcript.seconds, "entries": entries}
        for name, entries in content.items()
    ]
    grid = {"xmin": 0.0, "xmax": transcript.seconds, "tiers": tiers}
    return str(getTextgridAsStr(grid, "long_textgrid", includeBlankSpaces=True))


def _intervals(words: list[Word]) -> list[tuple[float, float, str]]:
    """Return the intervals of words; a word without a duration is in that of the word before it."""
    found: list[tuple[float, float, str]] = []
    for word in words:
        if found and word.end <= word.start:
            start, end, text = found[-1]
            found[-1] = (start, end, f"{text} {word.text}")
        else:
            found.append((word.start, word.end, word.text))
    return found


def _ctm(transcript: Transcript, recording: Path, file: Path) -> str:
    """A line for each word: recording, channel, start, duration, word, confidence.

    Spaces separate the columns, so that those in the name of the recording become underscores.
    """
    name = "_".join(recording.stem.split())
    return "".join(
        f"{name} 1 {word.start:.3f} {word.end - word.start:.3f} {word.text} {word.confidence:.4f}\n"
        for word in transcript.words
    )


FORMATS: dict[str, Callable[[Transcript, Path, Path], str]] = {
    "txt": _txt,
    "json": _json,
    "srt": _srt,
    "vtt": _vtt,
    "eaf": _eaf,
    "TextGrid": _textgrid,
    "ctm": _ctm,
}
"""By ending, a function that returns the content of a file, given the transcript, the recording, and the file."""
