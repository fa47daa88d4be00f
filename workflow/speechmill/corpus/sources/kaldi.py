"""Kaldi folders: `wav.scp`, `text` and, where there are any, `utt2spk`, `spk2gender`, `segments`.

The layout is that of https://kaldi-asr.org/doc/data_prep.html.
"""

import io
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import soundfile as sf
from numpy.typing import NDArray

from speechmill.core.command import SpeechmillError

KALDI_FILES = ("wav.scp", "text", "utt2spk", "spk2gender", "segments")
"""What is read of a Kaldi folder; only the first two are needed."""

# Times are rounded when they are written: a segment may end this much, in seconds, after its recording.
_TOLERANCE = 0.05

# A decoder that starts in the middle of a stream (Vorbis, MP3) is right only after it has read this much, in seconds,
# and only in a file that was opened anew and in a single read: soundfile seeks after each.
_LEAD = 1.0

# What keeps every bit of these; anything else is kept as float32.
_DTYPES = {"PCM_16": "int16", "PCM_24": "int32", "PCM_32": "int32"}


class Segment(NamedTuple):
    """A piece of a recording, from `start` to `end` in seconds; None for an end is the recording's own."""

    start: float
    end: float | None

    def __str__(self) -> str:
        return f"[{self.start} s – {'end' if self.end is None else f'{self.end} s'}]"


class Entry(NamedTuple):
    """A clip that a list of clips holds: the `place` of its line, its fields, and its segment where it is a piece."""

    place: str
    fields: dict[str, str]
    segment: Segment | None = None


def read_lines(file: Path) -> Iterator[tuple[str, str]]:
    """The lines of a text file with their line ends, each with its place: `{file}: line {number}`.

    Only a line feed ends a line. Raises SpeechmillError where a line is not UTF-8.
    """
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            place = f"{file}: line {number}"
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise SpeechmillError(
                    f"{place} is not text in UTF-8 ({error.reason}); save the file as UTF-8"
                ) from error
            yield place, text


def read_kaldi(folder: Path) -> Iterator[Entry]:
    """The utterances of a Kaldi folder: those with audio in its order, then those that only `text` has.

    An entry has the fields `id`, `path`, `sentence`, `recording`, `speaker_id` and `gender`, empty where they are
    unknown. Where an utterance has no audio, its `path` names what is lacking.

    Raises SpeechmillError where `wav.scp` or `text` is absent, a line is not of its file's kind, or an entry of
    `wav.scp` is a command.
    """
    for name in KALDI_FILES[:2]:
        if not (folder / name).is_file():
            raise SpeechmillError(f"{folder / name}: there is no such file, and a Kaldi folder needs it")
    recordings, texts, speakers, genders, segments = (_table(folder / name) for name in KALDI_FILES)
    for place, recording in recordings.values():
        if recording.strip().endswith("|"):
            raise SpeechmillError(
                f"{place} is a command, and speechmill runs no commands out of data; run it once, and list in wav.scp"
                " the files that it makes"
            )
    has_segments = (folder / "segments").is_file()
    whole = {utterance: (place, utterance) for utterance, (place, _) in recordings.items()}
    audio = segments if has_segments else whole
    for utterance in [*audio, *(utterance for utterance in texts if utterance not in audio)]:
        segment = None
        if utterance in audio:
            place, rest = audio[utterance]
            recording, segment = _segment(place, rest) if has_segments else (rest, None)
            place, path = recordings.get(recording, (place, f"{recording} (not in wav.scp)"))
        else:
            place, recording = texts[utterance][0], ""
            path = f"{utterance} (not in {'segments' if has_segments else 'wav.scp'})"
        speaker = _value(speakers, utterance)
        fields = {
            "id": utterance,
            "path": path.strip(),
            "sentence": _value(texts, utterance),
            "recording": recording,
            "speaker_id": speaker.strip(),
            "gender": _value(genders, speaker.strip()).strip(),
        }
        yield Entry(place, fields, segment)


def cut(recording: BinaryIO, segment: Segment) -> bytes | None:
    """A segment of a file just opened, as a WAV file of the same rate and channels that keeps every bit of its samples.

    Only the segment is read, whatever the recording's length. The samples are those of decoding the whole and cutting
    then (of an MP3, up to the rounding of float32).

    Returns:
        None where the recording has no such segment, and no bytes at all where it cannot be decoded.
    """
    try:
        with sf.SoundFile(recording.fileno(), closefd=False) as file:
            rate, frames = file.samplerate, file.frames
            end = frames / rate if segment.end is None else segment.end
            if not 0 <= segment.start < end <= frames / rate + _TOLERANCE:
                return None
            first, last = round(segment.start * rate), min(round(end * rate), frames)
            lead = min(first, round(_LEAD * rate))
            file.seek(first - lead)
            dtype = _DTYPES.get(file.subtype, "float32")
            samples = file.read(lead + last - first, dtype=dtype, always_2d=True)[lead:]
            return _wav(samples, rate, file.subtype) if 0 < last - first == len(samples) else None
    except sf.LibsndfileError:
        return b""


def _table(file: Path) -> dict[str, tuple[str, str]]:
    """The place of each key's line, and the rest of it, without the first blank and the line end."""
    table: dict[str, tuple[str, str]] = {}
    for place, line in read_lines(file) if file.is_file() else ():
        if not line.strip():
            continue
        key, *rest = re.split(r"[ \t]", line.removesuffix("\n").removesuffix("\r"), maxsplit=1)
        if not key:
            raise SpeechmillError(f"{place} begins with a blank, where an id is due")
        if key in table:
            raise SpeechmillError(f"{place}: {key} is listed already, at {table[key][0]}; leave one of them out")
        table[key] = place, "".join(rest)
    return table


def _value(table: dict[str, tuple[str, str]], key: str) -> str:
    return table[key][1] if key in table else ""


def _segment(place: str, rest: str) -> tuple[str, Segment]:
    try:
        recording, start, end = rest.split()
        # Kaldi writes -1 for the end of the recording.
        return recording, Segment(float(start), None if float(end) == -1 else float(end))
    except ValueError as error:
        raise SpeechmillError(
            f"{place} is not `<utterance> <recording> <start> <end>` with times in seconds"
        ) from error


def _wav(samples: NDArray[np.generic], rate: int, subtype: str) -> bytes:
    if subtype in _DTYPES:
        buffer = io.BytesIO()
        sf.write(buffer, samples, rate, format="WAV", subtype=subtype)
        return buffer.getvalue()
    # libsndfile writes the time of day into a WAV file of floats, and the same input must give the same bytes.
    data = samples.astype("<f4").tobytes()
    channels = samples.shape[1]
    form = struct.pack("<IHHIIHH", 16, 3, channels, rate, 4 * channels * rate, 4 * channels, 32)
    chunks = b"WAVEfmt " + form + struct.pack("<4sI", b"data", len(data)) + data
    return struct.pack("<4sI", b"RIFF", len(chunks)) + chunks
