"""status: count the clips that a dataset lists, keeps and rejects, and compare them with the expected numbers."""

import argparse
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from speechmill.config.datasets import DrawnSplit, Expected
from speechmill.core.command import SpeechmillError, printable, run_command
from speechmill.core.files import read_json, write_json
from speechmill.core.schemas import REJECTED, SAMPLE_RATE
from speechmill.core.tables import read_table, write_table
from speechmill.corpus.ingest_pieces import BELOW, format_parts
from speechmill.corpus.splits import splits_of

# Relative. Hours are published as rounded numbers, and the bytes of a split are mostly estimated from the archive's.
_TOLERANCES = {"clips": 0.0, "hours": 0.05, "bytes": 0.25}

# A larger share of rejected clips is a warning.
_MAX_REJECTED_SHARE = 0.01

_MAX_EXAMPLE_LENGTH = 300


class StatusSettings(BaseModel):
    """The stage settings: parts of the section of a dataset."""

    dataset: str
    splits: list[str]
    drawn: dict[str, DrawnSplit]
    expected: dict[str, Expected]


def count_clips(
    settings: StatusSettings, source: dict[str, Any], tables: Iterable[tuple[str, Path]]
) -> tuple[list[dict[str, str]], dict[str, Any]]:
    """Return the rejected clips, and the value of `status.json`.

    `listed`, `kept` and `rejected` count the clips of each split of the corpus; a clip that several splits list counts
    in each. `shortened` has the number of kept clips whose files lack a little of the length that their headers state,
    and the seconds that they lack in total. `sets` counts the listed clips of each split that a run can name; drawn
    clips count only in the drawn split. `rejections` has the number and an example of the rejected ones among them by
    reason. `memberships` counts the kept clips by all the splits that they belong to.

    Args:
        settings: The stage settings.
        source: The record of the corpus that `ingest` wrote, `source.json`.
        tables: The split and the path of the rows of each shard.

    Raises:
        SpeechmillError: Two clips have the same id, listed clips are missing from the tables, a drawn split of an
            available dataset is empty, or all clips of a split are rejected.
    """
    counts = {kind: Counter[str]() for kind in ("listed", "kept", "rejected")}
    shortened: Counter[str] = Counter()
    missing_seconds: defaultdict[str, float] = defaultdict(float)
    samples: Counter[str] = Counter()
    encoded: Counter[str] = Counter()
    sets: Counter[str] = Counter()
    memberships: Counter[tuple[str, ...]] = Counter()
    rejected: list[dict[str, str]] = []
    rejected_by_set: dict[str, dict[str, list[dict[str, str]]]] = {}
    # Raw shards of version 0.1.0 have none.
    near_misses = source.get("near_misses", {})
    seen: set[str] = set()
    columns = ["id", "splits", "speaker_id", "recording", "sentence", "num_samples", "missing_seconds", "encoded_bytes"]
    columns += ["reason", "detail"]
    for stored_split, path in tables:
        for row in read_table(path, columns).to_pylist():
            if row["id"] in seen:
                raise SpeechmillError(
                    f"the dataset {settings.dataset} has two clips with the id {row['id']}; make the ids of the corpus"
                    " unique"
                )
            seen.add(row["id"])
            splits = splits_of(row, settings.drawn)
            sets.update(splits)
            if row["reason"] is None:
                memberships[splits] += 1
            else:
                detail = row["detail"]
                if row["id"] in near_misses:
                    detail += f"; it contains {near_misses[row['id']]}"
                rejected.append({"id": row["id"], "split": stored_split, "reason": row["reason"], "detail": detail})
                for name in splits:
                    rejected_by_set.setdefault(name, {}).setdefault(row["reason"], []).append(rejected[-1])
            for split in row["splits"]:
                counts["listed"][split] += 1
                counts["kept" if row["reason"] is None else "rejected"][split] += 1
                samples[split] += row["num_samples"] or 0
                shortened[split] += bool(row["missing_seconds"])
                missing_seconds[split] += row["missing_seconds"] or 0
                encoded[split] += row["encoded_bytes"] or 0
    for split in settings.splits:
        if counts["listed"][split] != source["published"][split]:
            raise SpeechmillError(
                f"the dataset {settings.dataset} lists {source['published'][split]} clips in {split}, but"
                f" {counts['kept'][split]} are kept and {counts['rejected'][split]} rejected; delete"
                f" results/data/{settings.dataset} and run snakemake again"
            )
    found = {
        split: {
            "clips": counts["listed"][split],
            "hours": samples[split] / SAMPLE_RATE / 3600,
            "bytes": encoded[split],
        }
        for split in settings.splits
    }
    empty = [name for name in settings.drawn if source["available"] and not sets[name]]
    if empty:
        raise SpeechmillError(
            f"datasets.{settings.dataset}.drawn.{empty[0]} draws no clips; raise its `share`, or change the `seed` of"
            f" all splits drawn from {settings.drawn[empty[0]].of}"
        )
    rejections = {
        name: {reason: _summarise(rows, near_misses) for reason, rows in sorted(reasons.items())}
        for name, reasons in sorted(rejected_by_set.items())
    }
    kept_sets = {name for splits in memberships for name in splits}
    lost = [name for name in rejections if name not in kept_sets]
    if lost:
        # A clip may be in several of them.
        clips = {row["id"]: row for name in lost for rows in rejected_by_set[name].values() for row in rows}
        raise _no_clip_error(settings.dataset, lost, list(clips.values()), near_misses)
    return rejected, {
        "dataset": settings.dataset,
        "available": source["available"],
        "why": source["why"],
        **{kind: {split: counter[split] for split in settings.splits} for kind, counter in counts.items()},
        "shortened": {
            split: {"clips": shortened[split], "missing_seconds": round(missing_seconds[split], 3)}
            for split in settings.splits
        },
        "reasons": dict(sorted(Counter(row["reason"] for row in rejected).items())),
        "rejections": rejections,
        "sets": {name: sets[name] for name in [*settings.splits, *settings.drawn]},
        "memberships": [{"splits": list(splits), "kept": kept} for splits, kept in sorted(memberships.items())],
        "found": found,
        "differences": format_differences(settings.expected, found) if source["available"] else [],
        "about": source["about"],
    }


def _summarise(rows: list[dict[str, str]], near_misses: Mapping[str, str]) -> dict[str, Any]:
    """Return the number of rejected clips and the detail of one, if possible one whose file has a similar name."""
    example = next((row for row in rows if row["id"] in near_misses), rows[0])
    return {"clips": len(rows), "example": example["detail"]}


def _no_clip_error(
    dataset: str, sets: list[str], rejected: list[dict[str, str]], near_misses: Mapping[str, str]
) -> SpeechmillError:
    """Return the error for sets of which all clips are rejected."""
    by_reason: dict[str, list[dict[str, str]]] = {}
    for row in rejected:
        by_reason.setdefault(row["reason"], []).append(row)
    reasons = "; ".join(
        _format_rejection(reason, _summarise(rows, near_misses), len(rejected)) for reason, rows in by_reason.items()
    )
    advice = (
        f"Lower the threshold of datasets.{dataset}, min_score or min_confidence,"
        if BELOW in by_reason
        else "Correct the corpus or its tables"
    )
    return SpeechmillError(
        f"no clip is left in {', '.join(f'{dataset}-{name}' for name in sets)}: {reasons}. {advice} and run snakemake"
        f" again, or remove the split from datasets.{dataset}; the column `detail` of"
        f" results/data/{dataset}/*/rows-*.parquet has the reason for each clip"
    )


def format_rejections(status: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each set and reason for which clips of a dataset were rejected, with an example."""
    sentences = []
    for name, reasons in status["rejections"].items():
        listed = status["sets"][name]
        for reason, rejected in reasons.items():
            # How many have a low score is a matter of the threshold.
            is_fault = reason != BELOW and rejected["clips"] > _MAX_REJECTED_SHARE * listed
            warning = "WARNING: " if is_fault else ""
            sentences.append(f"{warning}{status['dataset']}-{name}: {_format_rejection(reason, rejected, listed)}")
    return sentences


def _format_rejection(reason: str, rejected: Mapping[str, Any], listed: int) -> str:
    clips = rejected["clips"]
    return (
        f"{clips:,} of {listed:,} clips ({clips / listed:.2%}) are rejected as {reason}, such as"
        f" {_one_line(rejected['example'])}"
    )


def _one_line(text: str) -> str:
    """Return text of a corpus for one line of a terminal: line breaks, and other invisible characters, as escapes."""
    shown = text if len(text) <= _MAX_EXAMPLE_LENGTH else f"{text[:_MAX_EXAMPLE_LENGTH]}…"
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in shown)


def format_differences(expected: dict[str, Expected], found: dict[str, dict[str, Any]]) -> list[str]:
    """Return a sentence for each number that differs from the expected one by more than its tolerance."""
    sentences = []
    for split, numbers in expected.items():
        for kind, value in numbers.model_dump(exclude_none=True).items():
            number = found[split][kind]
            if abs(number - value) > _TOLERANCES[kind] * value:
                formatted = f"{number:,.2f}" if kind == "hours" else f"{number:,}"
                sentences.append(f"{split} has {formatted} {kind}, but {value:,} were expected")
    return sentences


def main() -> None:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=StatusSettings.model_validate_json, required=True)
    parser.add_argument("--raw", type=Path, required=True, help="the folder of raw shards")
    parser.add_argument("--rows", type=Path, nargs="+", required=True)
    parser.add_argument("--rejected", type=Path, required=True)
    parser.add_argument("--status", type=Path, required=True)
    args = parser.parse_args()
    source = read_json(args.raw / "source.json")
    rejected, status = count_clips(args.settings, source, ((path.parent.name, path) for path in args.rows))
    write_table(rejected, REJECTED, args.rejected)
    write_json(status, args.status)
    for sentence in [*([status["why"]] if status["why"] else []), *status["differences"]]:
        print(printable(f"{args.settings.dataset}: {sentence}"))
    if "parts" in status["about"]:
        print(printable(f"{args.settings.dataset}: {format_parts(status['about'])}"))
    for sentence in format_rejections(status):
        print(sentence)
    if rejected:
        print(f"all {len(rejected):,} rejected clips are listed in {args.rejected}")


if __name__ == "__main__":
    run_command(main)
