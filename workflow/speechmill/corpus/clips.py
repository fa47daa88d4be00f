"""clips: the clips that a run uses in one role, with their text, and those that it leaves out."""

import argparse
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from speechmill.config.clips import ClipConfig
from speechmill.config.datasets import DrawnSplit
from speechmill.config.leakage import LeakageConfig
from speechmill.config.text import TextConfig
from speechmill.core.command import SpeechmillError, atomic_write, run_command
from speechmill.core.tables import (
    CLIPS,
    EXCLUDED,
    SAMPLE_RATE,
    clips_digest,
    read_json,
    read_rows,
    write_json,
    write_table,
)
from speechmill.corpus.leakage import Leakage, in_words
from speechmill.corpus.splits import splits_of
from speechmill.text.normaliser import Normaliser, ctc_frames, model_frames, to_units


class TrainingSettings(BaseModel):
    """What may leave a training clip out; `speakers` says whose names the speaker ids of each dataset are."""

    clips: ClipConfig
    leakage: LeakageConfig
    dev: str
    speakers: dict[str, str]


class ClipsSettings(BaseModel):
    """The slice of a run's section that this stage reads; `training` is None where nothing may be left out."""

    text: TextConfig
    sets: list[str]
    drawn: dict[str, dict[str, DrawnSplit]]
    training: TrainingSettings | None


@dataclass(frozen=True)
class Choice:
    """The clips used and excluded, which together are all that is kept, and the normaliser with its counts."""

    used: list[dict[str, Any]]
    excluded: list[dict[str, Any]]
    normaliser: Normaliser


def choose(indexes: list[Path], settings: ClipsSettings, leakage: Leakage | None = None) -> Choice:
    """Choose among the clips of the sets, each `{dataset}-{split}`, by their `…/{dataset}/{split}/index.parquet`.

    A clip that several of the sets have is taken once.
    """
    normalise = Normaliser(settings.text)
    used: list[dict[str, Any]] = []
    excluded: list[dict[str, Any]] = []
    seen: set[tuple[str, str]] = set()
    for name in settings.sets:
        dataset, split = name.split("-")
        for index in (path for path in indexes if path.parts[-3] == dataset):
            for row in read_rows(index):
                key = (dataset, row["id"])
                if key in seen or split not in splits_of(row, settings.drawn[dataset]):
                    continue
                seen.add(key)
                clip = row | {
                    "dataset": dataset,
                    "split": index.parent.name,
                    "text": to_units(normalise(row["sentence"]), settings.text.units),
                }
                why = why_excluded(clip, settings.training, leakage)
                if why is None:
                    used.append(clip)
                else:
                    excluded.append(clip | {"reason": why[0], "detail": why[1]})
    return Choice(used, excluded, normalise)


def why_excluded(
    clip: dict[str, Any], settings: TrainingSettings | None, leakage: Leakage | None
) -> tuple[str, str] | None:
    """The reason for which a clip is left out of training and its detail, or None."""
    if settings is None:
        return None
    text, num_samples, limits = clip["text"], clip["num_samples"], settings.clips
    seconds = num_samples / SAMPLE_RATE
    if not text:
        return "empty", "the sentence is empty after normalisation"
    if seconds < limits.min_seconds:
        return "short", f"{seconds:.3f} s, clips.min_seconds is {limits.min_seconds}"
    if seconds > limits.max_seconds:
        return "long", f"{seconds:.3f} s, clips.max_seconds is {limits.max_seconds}"
    frames, needed = model_frames(num_samples, limits.frame_seconds), ctc_frames(text)
    if frames < needed:
        return "infeasible", f"{frames} frames, CTC needs {needed} for the text"
    # Last, so that what is counted as leakage is what would be trained on.
    collision = leakage.collisions(clip) if leakage else None
    return None if collision is None else ("leakage", collision)


def kept(sets: list[str], statuses: Iterable[dict[str, Any]]) -> int:
    """The number of clips that the datasets of `sets` keep for them, each once, by what each dataset has counted."""
    count = 0
    for status in statuses:
        splits = {name.split("-")[1] for name in sets if name.split("-")[0] == status["dataset"]}
        count += sum(each["kept"] for each in status["memberships"] if splits & set(each["splits"]))
    return count


def published(sets: list[str], statuses: Iterable[dict[str, Any]]) -> int:
    """The number of clips that the datasets publish for `sets`; one that is in several of them counts in each."""
    of = {status["dataset"]: status["sets"] for status in statuses}
    return sum(of[name.split("-")[0]][name.split("-")[1]] for name in sets)


def main() -> None:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=ClipsSettings.model_validate_json, required=True)
    parser.add_argument("--indexes", type=Path, nargs="+", required=True)
    parser.add_argument("--status", type=Path, nargs="+", required=True, help="the status of each dataset")
    parser.add_argument("--clips", type=Path, required=True)
    parser.add_argument("--digest", type=Path, required=True)
    parser.add_argument("--counts", type=Path, required=True)
    parser.add_argument("--scored", type=Path, nargs="*", help="the clips of each scored set; training only")
    parser.add_argument("--excluded", type=Path, help="where the clips that are left out are listed; training only")
    parser.add_argument("--leakage", type=Path, help="where collisions are counted; training only")
    args = parser.parse_args()
    settings: ClipsSettings = args.settings
    statuses = [read_json(path) for path in args.status]
    leakage = None
    if settings.training:
        leakage = Leakage(settings.training.leakage, settings.training.dev, settings.training.speakers)
        for path in args.scored:
            leakage.add(path.stem, read_rows(path))
    choice = choose(args.indexes, settings, leakage)
    used, excluded = choice.used, choice.excluded
    names = " + ".join(settings.sets)
    if len(used) + len(excluded) != (expected := kept(settings.sets, statuses)):
        raise SpeechmillError(
            f"{names}: {len(used)} clips used and {len(excluded)} excluded are not the {expected} that were kept; a"
            " table under results/data was changed: delete the dataset's folder there and run snakemake again"
        )
    reasons = dict(sorted(Counter(row["reason"] for row in excluded).items()))
    if not used and (settings.training or all(status["available"] for status in statuses)):
        raise SpeechmillError(
            f"no clip is left in {names}: {len(excluded)} were excluded ({reasons or 'none'});"
            " check the splits, and the run's `clips`, `text` and `leakage`"
        )
    write_table(used, CLIPS, args.clips)
    with atomic_write(args.digest) as beside:
        beside.write_text(clips_digest(used) + "\n")
    write_json(
        {
            "sets": settings.sets,
            "listed": published(settings.sets, statuses),
            "unavailable": "; ".join(status["why"] for status in statuses if status["why"]) or None,
            "clips": len(used),
            "seconds": sum(row["num_samples"] for row in used) / SAMPLE_RATE,
            "speakers": len({row["speaker_id"] for row in used if row["speaker_id"]}),
            "excluded": reasons,
            "clips_touched": dict(choice.normaliser.clips_touched),
            "characters_replaced": dict(choice.normaliser.characters_replaced.most_common()),
            "characters_dropped": dict(choice.normaliser.characters_dropped.most_common()),
        },
        args.counts,
    )
    if args.excluded:
        write_table(excluded, EXCLUDED, args.excluded)
    if leakage is not None:
        found = leakage.found()
        write_json(found, args.leakage)
        for sentence in in_words(found):
            print(sentence)


if __name__ == "__main__":
    run_command(main)
