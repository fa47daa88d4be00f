"""status: what a dataset publishes, what of it is kept, and what could not be read."""

import argparse
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from speechmill.config.datasets import DrawnSplit, Expected
from speechmill.core.command import SpeechmillError, run_command
from speechmill.core.tables import REJECTED, SAMPLE_RATE, read_json, read_table, write_json, write_table
from speechmill.corpus.splits import splits_of

# Hours are published rounded, and the bytes of a split are mostly worked out from those of the archive.
_TOLERANCES = {"clips": 0.0, "hours": 0.05, "bytes": 0.25}


class StatusSettings(BaseModel):
    """The slice of a dataset's section that this stage reads."""

    dataset: str
    splits: list[str]
    drawn: dict[str, DrawnSplit]
    expected: dict[str, Expected]


def account(
    settings: StatusSettings, source: dict[str, Any], tables: Iterable[tuple[str, Path]]
) -> tuple[list[dict[str, str]], dict[str, Any]]:
    """The rejected clips, and the counts of distinct clips a split.

    `source` is what ingest has put down of the corpus, `tables` gives the split and the file of each shard's rows.
    `published`, `kept` and `rejected` are by split as the corpus lists them, where a clip that several splits have
    counts in each; `sets` holds the published clips of each split that a run can name, where a drawn split has taken
    its clips away from the others; `memberships` counts kept clips by all the splits that they are in.
    Raises SpeechmillError if two clips have the same id, or if clips that the corpus publishes are not in the tables.
    """
    counts = {kind: Counter[str]() for kind in ("listed", "kept", "rejected")}
    samples: Counter[str] = Counter()
    encoded: Counter[str] = Counter()
    sets: Counter[str] = Counter()
    memberships: Counter[tuple[str, ...]] = Counter()
    rejected: list[dict[str, str]] = []
    seen: set[str] = set()
    columns = ["id", "splits", "speaker_id", "sentence", "num_samples", "encoded_bytes", "reason", "detail"]
    for split, path in tables:
        for row in read_table(path, columns).to_pylist():
            if row["id"] in seen:
                raise SpeechmillError(f"the dataset {settings.dataset} has two clips with the id {row['id']}")
            seen.add(row["id"])
            member_of = splits_of(row, settings.drawn)
            sets.update(member_of)
            if row["reason"] is None:
                memberships[member_of] += 1
            else:
                rejected.append({"id": row["id"], "split": split, "reason": row["reason"], "detail": row["detail"]})
            for having in row["splits"]:
                counts["listed"][having] += 1
                counts["kept" if row["reason"] is None else "rejected"][having] += 1
                samples[having] += row["num_samples"] or 0
                encoded[having] += row["encoded_bytes"] or 0
    for split in settings.splits:
        if counts["listed"][split] != source["listed"][split]:
            raise SpeechmillError(
                f"the dataset {settings.dataset} publishes {source['published'][split]} clips in {split}, but"
                f" {counts['kept'][split]} are kept and {counts['rejected'][split]} rejected: delete"
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
            f"datasets.{settings.dataset}.drawn.{empty[0]} draws no clip at all; raise its `share` or change its `seed`"
        )
    return rejected, {
        "dataset": settings.dataset,
        "available": source["available"],
        "why": source["why"],
        **{kind: {split: counter[split] for split in settings.splits} for kind, counter in counts.items()},
        "reasons": dict(sorted(Counter(row["reason"] for row in rejected).items())),
        "sets": {name: sets[name] for name in [*settings.splits, *settings.drawn]},
        "memberships": [{"splits": list(splits), "kept": kept} for splits, kept in sorted(memberships.items())],
        "found": found,
        "differences": differences(settings.expected, found) if source["available"] else [],
        "about": source["about"],
    }


def differences(expected: dict[str, Expected], found: dict[str, dict[str, Any]]) -> list[str]:
    """A sentence for each figure that is not as expected: clips exactly, hours and bytes about."""
    sentences = []
    for split, figures in expected.items():
        for kind, value in figures.model_dump(exclude_none=True).items():
            given = found[split][kind]
            if abs(given - value) > _TOLERANCES[kind] * value:
                shown = f"{given:,.2f}" if kind == "hours" else f"{given:,}"
                sentences.append(f"{split} has {shown} {kind}, expected were {value:,}")
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
    rejected, status = account(args.settings, source, ((path.parent.name, path) for path in args.rows))
    write_table(rejected, REJECTED, args.rejected)
    write_json(status, args.status)
    for sentence in [*([status["why"]] if status["why"] else []), *status["differences"]]:
        print(f"{args.settings.dataset}: {sentence}")


if __name__ == "__main__":
    run_command(main)
