"""Kaldi folders: `wav.scp`, `text`, and optionally `utt2spk`, `spk2gender`, `segments`, `reco2file_and_channel`.

The layout is that of https://kaldi-asr.org/doc/data_prep.html.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from speechmill.core.command import SpeechmillError
from speechmill.corpus.pieces import Piece
from speechmill.corpus.sources.manifests import Entry, channel_number, read_lines

KALDI_FILES = ("wav.scp", "text", "utt2spk", "spk2gender", "segments", "reco2file_and_channel")
"""The files of a Kaldi folder that are read; only the first two are required."""


def read_kaldi(folder: Path) -> Iterator[Entry]:
    """Yield the utterances of a Kaldi folder: those with audio in the order of the folder, then the rest of `text`.

    The channel of a segment is its fifth field, or that of its recording in `reco2file_and_channel`.

    An entry has the fields `id`, `path`, `sentence`, `recording`, `speaker_id` and `gender`, which are empty if
    unknown. The `path` of an utterance without audio names what is missing.

    Raises:
        SpeechmillError: `wav.scp` or `text` does not exist, a line is malformed, or an entry of `wav.scp` is a command.
    """
    for name in KALDI_FILES[:2]:
        if not (folder / name).is_file():
            raise SpeechmillError(f"{folder / name} does not exist, but a Kaldi folder needs it; add it")
    recordings, texts, speakers, genders, segments, sides = (_table(folder / name) for name in KALDI_FILES)
    for location, recording in recordings.values():
        if recording.strip().endswith("|"):
            raise SpeechmillError(
                f"{location} is a command, and speechmill does not run commands from data; run it once, and list the"
                " files that it creates in wav.scp"
            )
    has_segments = (folder / "segments").is_file()
    complete = {utterance: (location, utterance) for utterance, (location, _) in recordings.items()}
    audio = segments if has_segments else complete
    for utterance in [*audio, *(utterance for utterance in texts if utterance not in audio)]:
        piece = Piece()
        if utterance in audio:
            location, rest = audio[utterance]
            recording, piece = _segment(location, rest) if has_segments else (utterance, Piece())
            if piece.channel is None and recording in sides:
                piece = piece._replace(channel=_side(*sides[recording]))
            location, path = recordings.get(recording, (location, f"{recording} (not in wav.scp)"))
        else:
            location, recording = texts[utterance][0], ""
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
        yield Entry(location, fields, None if piece == Piece() else piece)


def _table(file: Path) -> dict[str, tuple[str, str]]:
    """Return the location of the line of each key and the rest of the line, without the separator and the line end."""
    table: dict[str, tuple[str, str]] = {}
    for location, line in read_lines(file) if file.is_file() else ():
        if not line.strip():
            continue
        key, *rest = re.split(r"[ \t]", line.removesuffix("\n").removesuffix("\r"), maxsplit=1)
        if not key:
            raise SpeechmillError(f"{location} begins with a blank instead of an id; correct the line")
        if key in table:
            raise SpeechmillError(f"{location}: {key} is already listed at {table[key][0]}; remove one of them")
        table[key] = location, "".join(rest)
    return table


def _value(table: dict[str, tuple[str, str]], key: str) -> str:
    return table[key][1] if key in table else ""


def _segment(location: str, rest: str) -> tuple[str, Piece]:
    try:
        recording, start, end, *channel = rest.split()
        if len(channel) > 1:
            raise ValueError
        # Kaldi writes -1 for the end of the recording.
        piece = Piece(float(start), None if float(end) == -1 else float(end))
        # As in Kaldi's extract-segments, where channels count from 0.
        return recording, piece._replace(channel=channel_number(channel[0])) if channel else piece
    except ValueError as error:
        raise SpeechmillError(
            f"{location} is not `<utterance> <recording> <start> <end>` with times in seconds, and perhaps a channel,"
            " counted from 0; correct it"
        ) from error


def _side(location: str, rest: str) -> int:
    """Return the channel of a side of a call: A or 1 is the first channel."""
    side = rest.split()[-1:]
    if side and side[0] in _SIDES:
        return _SIDES[side[0]]
    raise SpeechmillError(f"{location} is not `<recording> <file> <channel>` with the channel A or B; correct it")


_SIDES = {"A": 0, "B": 1, "1": 0, "2": 1}
