"""The recordings that clips are cut from, and whether parts of one overlap in time."""

import bisect
import itertools
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

_MIN_OVERLAP_SECONDS = 0.1
"""Shorter overlaps do not count: times of annotations are rounded, and neighbours touch."""


class Part(NamedTuple):
    """A part of a recording, in seconds; a `channel` of None is the mean of all channels."""

    recording: tuple[str, str]
    """Equal for parts of the same recording: its dataset and file, or what identifies its samples."""
    channel: int | None
    start: float
    end: float


class Recordings:
    """Finds the recording that a clip is a part of, also where it is cut from a clip of another dataset.

    Args:
        of: The dataset whose clips are cut into those of a dataset, for each dataset that is made from another one.
        clips: The clips that are cut, with `dataset`, `id`, `audio_sha256`, `recording`, `channel`, `start`, `end`.
    """

    def __init__(self, of: Mapping[str, str], clips: Iterable[Mapping[str, Any]]) -> None:
        self._of = of
        self._clips = {(clip["dataset"], clip["id"]): clip for clip in clips}

    def part(self, clip: Mapping[str, Any]) -> Part:
        """Return the part of a recording that a clip is."""
        dataset, recording = clip["dataset"], clip["recording"]
        if recording is None:
            # The same recording may be in several datasets.
            return Part(("samples", clip["audio_sha256"]), None, 0.0, math.inf)
        end = math.inf if clip["end"] is None else clip["end"]
        if dataset not in self._of:
            return Part((dataset, recording), clip["channel"], clip["start"], end)
        whole = self.part(self._clips[self._of[dataset], recording])
        return whole._replace(start=whole.start + clip["start"], end=whole.start + end)


class ScoredParts:
    """The parts of recordings that the clips of a scored set are."""

    def __init__(self) -> None:
        self._times: dict[tuple[str, str], dict[int | None, list[tuple[float, float]]]] = {}
        # For each list, sorted: the starts, and the last end up to each of them.
        self._sorted: dict[tuple[tuple[str, str], int | None], tuple[list[float], list[float]]] = {}

    def add(self, part: Part) -> None:
        """Add a part; all are added before the first is looked for."""
        self._times.setdefault(part.recording, {}).setdefault(part.channel, []).append((part.start, part.end))

    def __contains__(self, recording: tuple[str, str]) -> bool:
        """Return whether there is any part of a recording."""
        return recording in self._times

    def overlap(self, part: Part) -> bool:
        """Return whether a part overlaps in time with one of the same channel; the mean has audio of all channels."""
        return any(
            self._overlap(part, channel)
            for channel in self._times.get(part.recording, ())
            if channel is None or part.channel in (None, channel)
        )

    def _overlap(self, part: Part, channel: int | None) -> bool:
        key = (part.recording, channel)
        if key not in self._sorted:
            times = sorted(self._times[part.recording][channel])
            ends = itertools.accumulate((end for _, end in times), max)
            self._sorted[key] = [start for start, _ in times], list(ends)
        starts, last_ends = self._sorted[key]
        before = bisect.bisect_right(starts, part.end - _MIN_OVERLAP_SECONDS)
        return before > 0 and last_ends[before - 1] >= part.start + _MIN_OVERLAP_SECONDS
