"""The result of every source: the clips as the corpus publishes them, and a function that reads their recordings."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from speechmill.core.command import SpeechmillError
from speechmill.corpus.encoded import Encoded
from speechmill.corpus.pieces import Piece


@dataclass(frozen=True, slots=True)
class SourceClip:
    """A clip as its corpus publishes it.

    Attributes:
        splits: All requested splits that list it.
        file: The name of its recording in the corpus.
        piece: The part of the recording that it is; None for all of it.
    """

    id: str
    splits: tuple[str, ...]
    file: str
    sentence: str
    speaker_id: str | None = None
    gender: str | None = None
    age: str | None = None
    accent: str | None = None
    piece: Piece | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class Corpus:
    """The distinct clips of the requested splits in published order, and a function that reads them.

    `read(clip)` returns the recording of a clip, all of it also for a piece, or None if the corpus lists the file but
    does not contain it. It may raise UnreadableAudioError to give the reason.
    """

    clips: list[SourceClip]
    read: Callable[[SourceClip], Encoded | None]
    about: dict[str, Any] = field(default_factory=dict)
    """The recorded identity of the source: `bytes` and `sha256` of an archive, `commit` of a dataset on the Hub."""


class UnavailableError(SpeechmillError):
    """A corpus that does not exist here or that access is denied to; optional corpora are then skipped."""


def merge_splits(listed: dict[str, list[SourceClip]]) -> list[SourceClip]:
    """Return the clips of all splits, each once, in the order of the splits and with every split that lists it.

    Raises:
        SpeechmillError: A clip is listed twice with different sentences or speakers.
    """
    splits: dict[str, list[str]] = {}
    first: dict[str, SourceClip] = {}
    for split, clips in listed.items():
        for clip in clips:
            known = first.setdefault(clip.id, clip)
            if (known.sentence, known.speaker_id) != (clip.sentence, clip.speaker_id):
                raise SpeechmillError(
                    f"the clip {clip.id} is listed in {known.splits[0]} and in {split} with different sentences or"
                    " speakers; correct the tables of the corpus"
                )
            clip_splits = splits.setdefault(clip.id, [])
            if split not in clip_splits:
                clip_splits.append(split)
    return [replace(clip, splits=tuple(splits[clip.id])) for clip in first.values()]
