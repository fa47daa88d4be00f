"""clips: select the clips that a run uses for training, for dev evaluations or as a scored set, and add their text."""

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
from speechmill.core.command import SpeechmillError, run_command
from speechmill.core.files import read_json, write_json, write_text
from speechmill.core.schemas import CLIPS, EXCLUDED, SAMPLE_RATE
from speechmill.core.tables import clips_digest, read_rows, write_table
from speechmill.corpus.corrections import Corrections
from speechmill.corpus.leakage import Leakage, format_leakage
from speechmill.corpus.recordings import Recordings
from speechmill.corpus.splits import splits_of
from speechmill.text.normaliser import Normaliser, ctc_frames, model_frames, output_clusters, to_units
from speechmill.text.tokens import unit_pattern


class TrainingSettings(BaseModel):
    """The rules that exclude training clips.

    `speakers` is the namespace of the speaker ids of each dataset, and `of` the dataset that it is made from, if any.
    """

    clips: ClipConfig
    leakage: LeakageConfig
    dev: str
    speakers: dict[str, str]
    of: dict[str, str]


class ClipsSettings(BaseModel):
    """The stage settings: parts of the section of a run; `training` is None for a set that nothing is excluded from."""

    text: TextConfig
    sets: list[str]
    drawn: dict[str, dict[str, DrawnSplit]]
    training: TrainingSettings | None


@dataclass(frozen=True)
class Selection:
    """The used and the excluded clips, together all kept clips of the sets, and the normaliser with its counts.

    `corrected` is the number of used clips with a corrected sentence.
    """

    used: list[dict[str, Any]]
    excluded: list[dict[str, Any]]
    normaliser: Normaliser
    corrected: int


def select_clips(
    indexes: list[Path],
    settings: ClipsSettings,
    leakage: Leakage | None = None,
    corrections: Corrections | None = None,
) -> Selection:
    """Return the clips of the sets, each set a `{dataset}-{split}`, from indexes `.../{dataset}/{split}/index.parquet`.

    A clip that belongs to several of the sets is selected once. Corrected sentences replace those of the corpus.
    """
    normalise, units = Normaliser(settings.text), unit_pattern(output_clusters(settings.text))
    used: list[dict[str, Any]] = []
    excluded: list[dict[str, Any]] = []
    seen: set[tuple[str, str]] = set()
    corrected = 0
    for name in settings.sets:
        dataset, split = name.split("-")
        for index in (path for path in indexes if path.parts[-3] == dataset):
            for row in read_rows(index):
                key = (dataset, row["id"])
                if key in seen or split not in splits_of(row, settings.drawn[dataset]):
                    continue
                seen.add(key)
                correction = corrections.sentence(key) if corrections else None
                sentence = row["sentence"] if correction is None else correction
                clip = row | {
                    "dataset": dataset,
                    "split": index.parent.name,
                    "sentence": sentence,
                    "text": to_units(normalise(sentence), settings.text.units),
                }
                marked = corrections.exclusion(key) if corrections else None
                if marked is None:
                    why = exclusion_reason(clip, units.findall(clip["text"]), settings.training, leakage)
                else:
                    why = ("label_error", marked)
                if why is None:
                    used.append(clip)
                    corrected += correction is not None
                else:
                    excluded.append(clip | {"reason": why[0], "detail": why[1]})
    return Selection(used, excluded, normalise, corrected)


def exclusion_reason(
    clip: dict[str, Any], units: list[str], settings: TrainingSettings | None, leakage: Leakage | None
) -> tuple[str, str] | None:
    """Return why a clip is excluded from training, as a reason and its details, or None if it is used.

    `units` are the output units of its text.
    """
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
    frames, needed = model_frames(num_samples, limits.frame_seconds), ctc_frames(units)
    if frames < needed:
        return "infeasible", f"{frames} frames, CTC needs {needed} for the text"
    # Checked last, so that leakage counts only clips that would otherwise be used for training.
    collision = leakage.check(clip) if leakage else None
    return None if collision is None else ("leakage", collision)


def _key(clip: dict[str, Any]) -> tuple[str, str]:
    return clip["dataset"], clip["id"]


def count_kept(sets: list[str], statuses: Iterable[dict[str, Any]]) -> int:
    """Return the number of distinct kept clips of `sets` according to the statuses of their datasets."""
    count = 0
    for status in statuses:
        splits = {name.split("-")[1] for name in sets if name.split("-")[0] == status["dataset"]}
        count += sum(each["kept"] for each in status["memberships"] if splits & set(each["splits"]))
    return count


def count_listed(sets: list[str], statuses: Iterable[dict[str, Any]]) -> int:
    """Return the number of clips that the corpora list in `sets`; a clip of several sets counts in each."""
    set_sizes = {status["dataset"]: status["sets"] for status in statuses}
    return sum(set_sizes[name.split("-")[0]][name.split("-")[1]] for name in sets)


def by_dataset(clips: Iterable[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return the number of `clips` and their `seconds` for each dataset that has any."""
    samples: dict[str, list[int]] = {}
    for clip in clips:
        samples.setdefault(clip["dataset"], []).append(clip["num_samples"])
    return {name: {"clips": len(each), "seconds": sum(each) / SAMPLE_RATE} for name, each in samples.items()}


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
    parser.add_argument(
        "--recordings", type=Path, nargs="*", default=[], help="the indexes of datasets that others are made from"
    )
    parser.add_argument("--corrections", type=Path, nargs="*", help="the file of corrections, if any; training only")
    parser.add_argument("--excluded", type=Path, help="the table of excluded clips to write; training only")
    parser.add_argument("--leakage", type=Path, help="the counts of collisions to write; training only")
    args = parser.parse_args()
    settings: ClipsSettings = args.settings
    statuses = [read_json(path) for path in args.status]
    leakage = None
    if settings.training:
        recordings = (row | {"dataset": path.parts[-3]} for path in args.recordings for row in read_rows(path))
        training = settings.training
        leakage = Leakage(training.leakage, training.dev, training.speakers, Recordings(training.of, recordings))
        for path in args.scored:
            leakage.add_scored_set(path.stem, read_rows(path))
    corrections = Corrections(args.corrections[0]) if args.corrections else None
    selection = select_clips(args.indexes, settings, leakage, corrections)
    if corrections:
        clips = [*selection.used, *selection.excluded]
        corrections.check(map(_key, clips), {path.stem: map(_key, read_rows(path)) for path in args.scored})
    used, excluded = selection.used, selection.excluded
    names = " + ".join(settings.sets)
    if len(used) + len(excluded) != (expected := count_kept(settings.sets, statuses)):
        raise SpeechmillError(
            f"{names}: {len(used)} used and {len(excluded)} excluded clips do not add up to the {expected} kept clips;"
            " a table under results/data was changed: delete the dataset's folder there and run snakemake again"
        )
    reasons = dict(sorted(Counter(row["reason"] for row in excluded).items()))
    if not used and (settings.training or all(status["available"] for status in statuses)):
        raise SpeechmillError(
            f"{names}: no clips are left, {len(excluded)} were excluded ({reasons or 'none'});"
            " check the splits, and the run's `clips`, `text` and `leakage`"
        )
    write_table(used, CLIPS, args.clips)
    digest = clips_digest(used)
    write_text(digest + "\n", args.digest)
    write_json(
        {
            "sets": settings.sets,
            "listed": count_listed(settings.sets, statuses),
            "unavailable": "; ".join(status["why"] for status in statuses if status["why"]) or None,
            "clips": len(used),
            "sha256": digest,
            "seconds": sum(row["num_samples"] for row in used) / SAMPLE_RATE,
            "speakers": len({row["speaker_id"] for row in used if row["speaker_id"]}),
            "by_dataset": by_dataset(used),
            "excluded": reasons,
            "corrected": selection.corrected,
            "clips_touched": dict(selection.normaliser.clips_touched),
            "characters_replaced": dict(selection.normaliser.characters_replaced.most_common()),
            "characters_dropped": dict(selection.normaliser.characters_dropped.most_common()),
            "marks_dropped": {mark: each._asdict() for mark, each in selection.normaliser.marks_dropped.items()},
        },
        args.counts,
    )
    if args.excluded:
        write_table(excluded, EXCLUDED, args.excluded)
    if leakage is not None:
        summary = leakage.summary()
        write_json(summary, args.leakage)
        for sentence in format_leakage(summary):
            print(sentence)


if __name__ == "__main__":
    run_command(main)
