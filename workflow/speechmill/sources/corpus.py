"""What every source gives: the clips as published, and the bytes of each."""

from collections.abc import Callable
from dataclasses import dataclass


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


def merge_splits(listed: dict[str, list[Published]]) -> list[Published]:
    """The clips of all listed splits, each once: in the order of the splits, with every split that has it."""
    splits: dict[str, list[str]] = {}
    first: dict[str, Published] = {}
    for split, clips in listed.items():
        for clip in clips:
            first.setdefault(clip.id, clip)
            having = splits.setdefault(clip.id, [])
            if split not in having:
                having.append(split)
    return [
        Published(c.id, tuple(splits[c.id]), c.file, c.sentence, c.speaker_id, c.gender, c.age, c.accent)
        for c in first.values()
    ]
