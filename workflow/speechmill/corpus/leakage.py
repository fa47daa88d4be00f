"""Leakage: training clips that share a speaker, a sentence, audio or a recording with a clip of a scored set."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from speechmill.config.leakage import LeakageConfig
from speechmill.core.command import SpeechmillError
from speechmill.corpus.recordings import Recordings, ScoredParts

_EXAMPLES = 5
_KINDS = ("speaker", "sentence", "audio", "recording")


class Leakage:
    """The scored sets of a run, and the counts of training clips that collide with them.

    A clip is a mapping with `dataset`, `id`, `speaker_id`, `text`, `sha256` and `audio_sha256`, and with `recording`,
    `channel`, `start` and `end`, all None if it is a recording itself.

    Args:
        settings: What to do about collisions with the dev set and with the test sets.
        dev: The name of the dev set; all other sets are test sets.
        speakers: The namespace of the speaker ids of each dataset. Equal ids are the same speaker only in the same
            namespace.
        recordings: The recordings of datasets that others are cut from.
    """

    def __init__(self, settings: LeakageConfig, dev: str, speakers: Mapping[str, str], recordings: Recordings) -> None:
        self._settings, self._dev, self._speakers, self._recordings = settings, dev, speakers, recordings
        self._parts: dict[str, ScoredParts] = {}
        self._sets: dict[tuple[str, Any], set[str]] = {}
        self._counts: dict[str, Counter[str]] = {}
        self._examples: dict[tuple[str, str], list[dict[str, str]]] = {}
        self._removed: Counter[str] = Counter()

    def add_scored_set(self, name: str, clips: Iterable[Mapping[str, Any]]) -> None:
        """Add the clips of the scored set `name`, `{dataset}-{split}`."""
        self._counts.setdefault(name, Counter())
        parts = self._parts.setdefault(name, ScoredParts())
        for clip in clips:
            parts.add(self._recordings.part(clip))
            for key in self._keys(clip):
                self._sets.setdefault(key, set()).add(name)

    def check(self, clip: Mapping[str, Any]) -> str | None:
        """Count the collisions of a training clip; return the reason to exclude it, or None to keep it.

        Raises:
            SpeechmillError: The clip collides, and the action for this collision is `fail`.
        """
        hits: dict[str, set[str]] = {}
        for kind, key in self._keys(clip):
            for name in self._sets.get((kind, key), ()):
                hits.setdefault(name, set()).add(kind)
        part = self._recordings.part(clip)
        for name, parts in self._parts.items():
            if part.recording in parts:
                hits.setdefault(name, set()).add("audio" if parts.overlap(part) else "recording")
        reasons: list[str] = []
        removing: set[str] = set()
        for name, kinds in sorted(hits.items()):
            for kind in (each for each in _KINDS if each in kinds):
                action = self._action(name, kind)
                if action == "fail":
                    raise SpeechmillError(
                        f"leakage: the training clip {clip['id']} of {clip['dataset']} has the same {kind} as a clip of"
                        f" {name} (its text is {clip['text']!r}), and leakage.{self._rule(name)}.{kind} is fail; set"
                        " it to remove, which excludes such clips from training, or to report"
                    )
                self._counts[name][kind] += 1
                examples = self._examples.setdefault((name, kind), [])
                if len(examples) < _EXAMPLES:
                    examples.append({"dataset": clip["dataset"], "id": clip["id"], "text": clip["text"]})
                if action == "remove":
                    reasons.append(f"{kind} of {name}")
                    removing.add(name)
        self._removed.update(removing)
        return ", ".join(reasons) or None

    def summary(self) -> dict[str, Any]:
        """Return the value of `leakage.json`.

        For each scored set and each kind of collision: the number of colliding training clips, the action, and
        examples; and for each set the number of training clips that were removed because of it.
        """
        return {
            name: {
                kind: {
                    "clips": counts[kind],
                    "action": self._action(name, kind),
                    "examples": self._examples.get((name, kind), []),
                }
                for kind in _KINDS
            }
            | {"removed": self._removed[name]}
            for name, counts in self._counts.items()
        }

    def _rule(self, name: str) -> str:
        return "dev" if name == self._dev else "test"

    def _action(self, name: str, kind: str) -> str:
        return str(getattr(getattr(self._settings, self._rule(name)), kind))

    def _keys(self, clip: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        if clip["speaker_id"]:
            yield "speaker", (self._speakers[clip["dataset"]], clip["speaker_id"])
        if clip["text"]:
            yield "sentence", clip["text"]
        yield "audio", clip["sha256"]
        yield "audio", clip["audio_sha256"]


def format_leakage(summary: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each scored set that training clips collide with."""
    sentences = []
    for name, kinds in summary.items():
        counts = ", ".join(f"{kinds[kind]['clips']:,} by {kind}" for kind in _KINDS if kinds[kind]["clips"])
        if counts:
            removed = f"{kinds['removed']:,} are removed from training" if kinds["removed"] else "none is removed"
            sentences.append(f"{name}: training clips collide with it, {counts}; {removed}")
    return sentences
