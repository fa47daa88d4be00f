"""What every source gives: the clips as published, and the bytes of each."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from speechmill.core.command import SpeechmillError


@dataclass(frozen=True, slots=True)
class Published:
    """A clip as its corpus publishes it: `file` is the name there, `splits` all listed splits that have it."""

    id: str
    splits: tuple[str, ...]
    file: str
    sentence: str
    speaker_id: str | None = None
    gender: str | None = None
    age: str | None = None
    accent: str | None = None


@dataclass(frozen=True)
class Corpus:
    """The distinct clips of the listed splits in published order, and `read`.

    `read(clip)` gives the encoded bytes of a clip's file, or None where the corpus lists a file that it does not have.
    """

    clips: list[Published]
    read: Callable[[Published], bytes | None]
    about: dict[str, Any] = field(default_factory=dict)
    """What is recorded of the source: an archive's `bytes` and `sha256`, a Hub dataset's `commit`."""


class UnavailableError(SpeechmillError):
    """The corpus cannot be had at all: it is not there, or not given to us. An optional one is gone on without."""


def merge_splits(listed: dict[str, list[Published]]) -> list[Published]:
    """The clips of all listed splits, each once: in the order of the splits, with every split that has it.

    Raises SpeechmillError where a clip stands twice with another sentence or speaker.
    """
    splits: dict[str, list[str]] = {}
    first: dict[str, Published] = {}
    for split, clips in listed.items():
        for clip in clips:
            known = first.setdefault(clip.id, clip)
            if (known.sentence, known.speaker_id) != (clip.sentence, clip.speaker_id):
                raise SpeechmillError(
                    f"the clip {clip.id} stands in {known.splits[0]} and in {split} with different sentences or"
                    " speakers; mend the corpus's tables"
                )
            having = splits.setdefault(clip.id, [])
            if split not in having:
                having.append(split)
    return [replace(clip, splits=tuple(splits[clip.id])) for clip in first.values()]
