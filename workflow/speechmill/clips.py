"""clips: the clips that a run uses in one role, with their text, and those that it leaves out."""

import argparse
import itertools
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from speechmill.command import SpeechmillError, run_command, written_whole
from speechmill.config.clips import ClipSettings
from speechmill.config.text import TextSettings
from speechmill.tables import CLIPS, EXCLUDED, SAMPLE_RATE, clips_digest, read_table, write_json, write_table
from speechmill.text import Normaliser


class Settings(BaseModel):
    """The slice of a run's section that this stage reads; `clips` is None where nothing may be left out."""

    text: TextSettings
    clips: ClipSettings | None


@dataclass(frozen=True)
class Choice:
    """The clips used and excluded, which together are all that is kept, and the normaliser with its counts."""

    used: list[dict[str, Any]]
    excluded: list[dict[str, Any]]
    normaliser: Normaliser


def choose(sets: list[str], indexes: list[Path], settings: Settings) -> Choice:
    """Choose among the clips of `sets`, each `{dataset}-{split}`, by their `…/{dataset}/{split}/index.parquet`.

    A clip that several of the sets have is taken once.
    """
    normalise = Normaliser(settings.text)
    used: list[dict[str, Any]] = []
    excluded: list[dict[str, Any]] = []
    seen: set[tuple[str, str]] = set()
    for name in sets:
        dataset, split = name.split("-")
        for index in (path for path in indexes if path.parts[-3] == dataset):
            for row in read_table(index).to_pylist():
                key = (dataset, row["id"])
                if split not in row["splits"] or key in seen:
                    continue
                seen.add(key)
                clip = row | {
                    "dataset": dataset,
                    "split": index.parent.name,
                    "text": normalise(row["sentence"]),
                }
                why = None if settings.clips is None else why_excluded(clip["text"], row["num_samples"], settings.clips)
                if why is None:
                    used.append(clip)
                else:
                    excluded.append(clip | {"reason": why[0], "detail": why[1]})
    return Choice(used, excluded, normalise)


def why_excluded(text: str, num_samples: int, settings: ClipSettings) -> tuple[str, str] | None:
    """The reason for which a training clip is left out and its detail, or None."""
    seconds = num_samples / SAMPLE_RATE
    if not text:
        return "empty", "the sentence is empty after normalisation"
    if seconds < settings.min_seconds:
        return "short", f"{seconds:.3f} s, clips.min_seconds is {settings.min_seconds}"
    if seconds > settings.max_seconds:
        return "long", f"{seconds:.3f} s, clips.max_seconds is {settings.max_seconds}"
    # One frame fewer than fits: the first one needs a whole window of the convolutions.
    frames, needed = num_samples // round(settings.frame_seconds * SAMPLE_RATE) - 1, ctc_frames(text)
    if frames < needed:
        return "infeasible", f"{frames} frames, CTC needs {needed} for the text"
    return None


def ctc_frames(text: str) -> int:
    """The fewest frames in which CTC can spell `text`: one a character, and a blank between equal neighbours.

    Source: Graves et al., Connectionist Temporal Classification, ICML 2006, section 3.
    """
    return len(text) + sum(a == b for a, b in itertools.pairwise(text))


def main() -> None:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=Settings.model_validate_json, required=True)
    parser.add_argument("--sets", nargs="+", required=True)
    parser.add_argument("--indexes", type=Path, nargs="+", required=True)
    parser.add_argument("--clips", type=Path, required=True)
    parser.add_argument("--digest", type=Path, required=True)
    parser.add_argument("--counts", type=Path, required=True)
    parser.add_argument("--excluded", type=Path, help="where the clips that are left out are listed; training only")
    args = parser.parse_args()
    choice = choose(args.sets, args.indexes, args.settings)
    used, excluded = choice.used, choice.excluded
    reasons = dict(sorted(Counter(row["reason"] for row in excluded).items()))
    if not used:
        raise SpeechmillError(
            f"no clip is left in {' + '.join(args.sets)}: {len(excluded)} were excluded ({reasons or 'none'});"
            " check the splits, and the limits under the run's `clips` and `text`"
        )
    write_table(used, CLIPS, args.clips)
    with written_whole(args.digest) as beside:
        beside.write_text(clips_digest(used) + "\n")
    write_json(
        {
            "sets": args.sets,
            "clips": len(used),
            "seconds": sum(row["num_samples"] for row in used) / SAMPLE_RATE,
            "speakers": len({row["speaker_id"] for row in used if row["speaker_id"]}),
            "excluded": reasons,
            "clips_touched": dict(choice.normaliser.clips_touched),
            "characters_dropped": dict(choice.normaliser.characters_dropped.most_common()),
        },
        args.counts,
    )
    if args.excluded:
        write_table(excluded, EXCLUDED, args.excluded)


if __name__ == "__main__":
    run_command(main)
