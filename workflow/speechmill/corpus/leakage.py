"""Training clips that collide with a set that is scored: by speaker, by sentence, by audio."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from speechmill.config.leakage import LeakageConfig
from speechmill.core.command import SpeechmillError

_EXAMPLES = 5
_KINDS = ("speaker", "sentence", "audio")


class Leakage:
    """The scored sets of a run, against which training clips are held.

    A clip is a mapping with `dataset`, `id`, `speaker_id`, `text`, `sha256` and `audio_sha256`. `speakers` says for
    each dataset whose names its speaker ids are: only speakers of the same name there are one person.
    """

    def __init__(self, settings: LeakageConfig, dev: str, speakers: Mapping[str, str]) -> None:
        self._settings, self._dev, self._speakers = settings, dev, speakers
        self._sets: dict[tuple[str, Any], set[str]] = {}
        self._counts: dict[str, Counter[str]] = {}
        self._examples: dict[tuple[str, str], list[dict[str, str]]] = {}
        self._removed: Counter[str] = Counter()

    def add(self, name: str, clips: Iterable[Mapping[str, Any]]) -> None:
        """Learn the clips of the scored set `name`, `{dataset}-{split}`."""
        self._counts.setdefault(name, Counter())
        for clip in clips:
            for key in self._keys(clip):
                self._sets.setdefault(key, set()).add(name)

    def collisions(self, clip: Mapping[str, Any]) -> str | None:
        """Count what a training clip has in common with the scored sets; why it is left out, or None where it stays.

        Raises SpeechmillError where the settings say that a collision stops the run.
        """
        hits: dict[str, set[str]] = {}
        for kind, key in self._keys(clip):
            for name in self._sets.get((kind, key), ()):
                hits.setdefault(name, set()).add(kind)
        removed: list[str] = []
        taken_by: set[str] = set()
        for name, kinds in sorted(hits.items()):
            for kind in (each for each in _KINDS if each in kinds):
                action = self._action(name, kind)
                if action == "fail":
                    raise SpeechmillError(
                        f"leakage: the training clip {clip['id']} of {clip['dataset']} has the {kind} of a clip of"
                        f" {name} (the text is {clip['text']!r}), and leakage.{self._rule(name)}.{kind} is fail; set"
                        " it to remove, which leaves such clips out of training, or to report"
                    )
                self._counts[name][kind] += 1
                examples = self._examples.setdefault((name, kind), [])
                if len(examples) < _EXAMPLES:
                    examples.append({"dataset": clip["dataset"], "id": clip["id"], "text": clip["text"]})
                if action == "remove":
                    removed.append(f"{kind} of {name}")
                    taken_by.add(name)
        self._removed.update(taken_by)
        return ", ".join(removed) or None

    def found(self) -> dict[str, Any]:
        """For each scored set: the training clips that collide, by kind, with what was done and examples."""
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


def in_words(found: Mapping[str, Any]) -> list[str]:
    """A sentence for each scored set with which training clips collide."""
    sentences = []
    for name, kinds in found.items():
        counts = ", ".join(f"{kinds[kind]['clips']:,} by {kind}" for kind in _KINDS if kinds[kind]["clips"])
        if counts:
            done = f"{kinds['removed']:,} are taken out of training" if kinds["removed"] else "none is taken out"
            sentences.append(f"{name}: training clips collide with it, {counts}; {done}")
    return sentences
