"""Clips that are pieces of recordings: the columns `start`, `end`, `duration` and `channel`, and what they mean."""

import math
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import soundfile as sf

from speechmill.config.datasets import Column, Folder
from speechmill.core.command import SpeechmillError
from speechmill.corpus.audio import Stream, UnreadableAudioError, decode
from speechmill.corpus.encoded import read_encoded
from speechmill.corpus.pieces import Piece
from speechmill.corpus.sources.fields import column_fields, column_value
from speechmill.corpus.sources.manifests import Entry, channel_number

_ROUNDING = 0.05
"""Seconds by which times that are exact in their table may differ from those of the decoded recording."""

# The fields of a manifest that need no entry in `columns`, in lower case; NeMo has `offset`.
_DEFAULTS: dict[Column, tuple[str, ...]] = {
    "start": ("start", "offset"),
    "end": ("end",),
    "duration": ("duration",),
    "channel": ("channel",),
}

# Fields that probably are such a column, but whose unit or meaning is not known.
_SIMILAR: dict[str, Column] = {
    **dict.fromkeys(("begin", "begin_time", "start_time", "start_ms", "start_s", "segment_start"), "start"),
    **dict.fromkeys(("stop", "stop_time", "end_time", "end_ms", "end_s", "segment_end"), "end"),
    **dict.fromkeys(("channel_id", "channel_selector"), "channel"),
}

_NESTED = {name: column for column, names in _DEFAULTS.items() if column != "duration" for name in names}


class Span(NamedTuple):
    """The piece of its recording that a line describes.

    The end is also kept as it is `written` in the column `duration` or `end`, because the end of a piece that begins
    with the recording may be the rounded length of the complete recording; None for the exact times of Kaldi.
    """

    piece: Piece
    written: str | None = None
    is_duration: bool = False

    def name(self, file: str) -> str:
        """Return the name of the piece of a file; that of a piece that may be the complete recording is the file's."""
        may_be_complete = self.written is not None and self.piece.start == 0 and self.piece.channel is None
        return file if may_be_complete else f"{file} {self.piece}"


def read_span(entry: Entry, settings: Folder) -> Span | None:
    """Return the piece of its recording that an entry describes; None if that is the complete recording.

    Raises:
        SpeechmillError: A time is not a number of seconds, a channel is not one, `end` and `duration` differ, or there
            is a field that probably is such a column, but has another name.
    """
    if entry.piece is not None:
        return Span(entry.piece)
    _check_similar(entry, settings)
    written = {column: _text(entry, column, settings) for column in _DEFAULTS}
    start = _seconds(entry, "start", written["start"]) or 0.0
    # As in Kaldi, -1 is the end of the recording.
    end, duration = (
        None if written[column] == "-1" else _seconds(entry, column, written[column]) for column in ("end", "duration")
    )
    if duration is not None:
        # Decimal places that the sum of two floats makes up would appear in the name of the piece.
        by_duration = round(start + duration, 6)
        if end is not None and abs(by_duration - end) > _rounding(_decimals(str(written["duration"]))):
            raise _wrong(entry, "duration", f"is {duration} s, but `start` and `end` are {start} s and {end} s")
        end = by_duration if end is None else end
    try:
        channel = None if written["channel"] is None else channel_number(written["channel"])
    except ValueError as error:
        reason = f"is {written['channel']}, which is neither a channel, counted from 0, nor the side A or B"
        raise _wrong(entry, "channel", reason) from error
    piece = Piece(start, end, channel)
    if piece == Piece():
        return None
    return Span(piece, written["end"] if duration is None else written["duration"], duration is not None)


def _text(entry: Entry, column: Column, settings: Folder) -> str | None:
    if column in settings.columns:
        return column_value(entry, column, settings)
    if settings.manifest is None:
        return None
    fields = [field for field in entry.fields if field.lower() in _DEFAULTS[column]]
    if len(fields) > 1:
        raise SpeechmillError(
            f"{entry.location}: {' and '.join(fields)} may both be the column `{column}`; set the dataset's"
            f" `columns.{column}` to one of them"
        )
    return entry.fields[fields[0]] or None if fields else None


def _seconds(entry: Entry, column: Column, text: str | None) -> float | None:
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise _wrong(entry, column, f"is {text}, which is not a time in seconds")
    return seconds


def _wrong(entry: Entry, column: Column, reason: str) -> SpeechmillError:
    return SpeechmillError(
        f"{entry.location}: the column `{column}` {reason}; correct it, or set the dataset's `columns.{column}` to null"
        " if it does not say which piece of the recording the clip is"
    )


def _check_similar(entry: Entry, settings: Folder) -> None:
    for field in entry.fields if settings.manifest else ():
        column = _similar_column(field)
        if column is None or column in settings.columns or not entry.fields[field]:
            continue
        used = {name for each in settings.columns for name in column_fields(settings, each)} | {settings.split.field}
        if field not in used:
            raise SpeechmillError(
                f"{entry.location}: the field `{field}` may say which piece of the recording the clip is; set the"
                f" dataset's `columns.{column}` to it (times in seconds), or to null if it says something else"
            )


def _similar_column(field: str) -> Column | None:
    """Return the column that a field probably is, which is not read without an entry in `columns`.

    In JSON, that may be a field of an object, or a list of channels; but not what a list says about words or phones.
    """
    *above, name = field.lower().split(".")
    if above and name.isdecimal():
        *above, name = above
    if any(each.isdecimal() for each in above):
        return None
    is_nested = "." in field
    return _SIMILAR.get(name) or (_NESTED.get(name) if is_nested else None)


def _decimals(number: str) -> int:
    return len(number.partition(".")[2])


def _rounding(decimals: int) -> float:
    return max(_ROUNDING, 10.0**-decimals)


class Spans:
    """The pieces of recordings that the clips of a corpus are, by the ids of the clips."""

    def __init__(self) -> None:
        self._spans: dict[str, tuple[str, Span]] = {}
        self._times: defaultdict[str, set[tuple[float, float | None]]] = defaultdict(set)
        self._channels: defaultdict[str, set[int | None]] = defaultdict(set)
        self._decimals = 0

    def add(self, clip_id: str, file: str, span: Span) -> None:
        """Add a clip that is a piece of the recording `file`."""
        self._spans[clip_id] = file, span
        self._times[file].add(span.piece[:2])
        self._channels[file].add(span.piece.channel)
        self._decimals = max(self._decimals, _decimals(span.written or ""))

    def find(self, clip_id: str, file: Path) -> Piece | None:
        """Return the piece to cut from the recording at `file`; None if the clip is the complete recording.

        A piece that is the only one of its recording, and begins with it, is the complete recording if their lengths
        are equal within the rounding in the table, or if a `duration` is longer. If all clips of a recording with one
        channel have the same channel, it is that one: recipes split calls, and keep the name of the channel.
        """
        if clip_id not in self._spans:
            return None
        name, (piece, written, is_duration) = self._spans[clip_id]
        is_only_piece, is_only_channel = len(self._times[name]) == 1, len(self._channels[name]) == 1
        end = piece.end if written is not None and piece.start == 0 and is_only_piece else None
        if end is None and (piece.channel is None or not is_only_channel):
            return piece
        seconds, channels = _length(file)
        if math.isnan(seconds):
            return None
        if end is not None:
            rounding = _rounding(self._decimals)
            least = 0 if is_duration else end - rounding
            if least <= seconds <= end + rounding:
                piece = piece._replace(end=None)
        if channels == 1 and is_only_channel:
            piece = piece._replace(channel=None)
        return None if piece == Piece() else piece


def _length(file: Path) -> tuple[float, int]:
    """Return the seconds and the channels of a recording; nan and 0 if it cannot be decoded."""
    try:
        with file.open("rb") as recording, sf.SoundFile(recording.fileno(), closefd=False) as audio:
            if audio.frames < 1 << 48:  # otherwise the header does not give it
                return audio.frames / audio.samplerate, audio.channels
    except OSError:
        return math.nan, 0
    except sf.LibsndfileError:
        pass
    try:
        return decode(read_encoded(file), file.name, _measure, math.inf).samples
    except UnreadableAudioError:
        return math.nan, 0


def _measure(stream: Stream) -> tuple[float, int]:
    for _ in stream.blocks():
        pass
    return stream.samples_read / stream.rate, stream.channels
