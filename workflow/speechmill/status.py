"""status: what a dataset publishes, what of it is kept, and what could not be read."""

import argparse
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from speechmill.command import SpeechmillError, run_command
from speechmill.tables import REJECTED, read_table, write_json, write_table


def account(
    dataset: str, splits: list[str], tables: Iterable[tuple[str, Path]]
) -> tuple[list[dict[str, str]], dict[str, Any]]:
    """The rejected clips, and the counts of distinct clips a split.

    `tables` gives the split and the file of each shard's rows. A clip that several splits have counts in each of them.
    Raises SpeechmillError if two clips have the same id.
    """
    counts = {kind: Counter[str]() for kind in ("published", "kept", "rejected")}
    rejected: list[dict[str, str]] = []
    seen: set[str] = set()
    for split, path in tables:
        for row in read_table(path, ["id", "splits", "reason", "detail"]).to_pylist():
            if row["id"] in seen:
                raise SpeechmillError(f"the dataset {dataset} has two clips with the id {row['id']}")
            seen.add(row["id"])
            if row["reason"] is not None:
                rejected.append({"id": row["id"], "split": split, "reason": row["reason"], "detail": row["detail"]})
            for having in row["splits"]:
                counts["published"][having] += 1
                counts["kept" if row["reason"] is None else "rejected"][having] += 1
    return rejected, {
        "dataset": dataset,
        "available": True,
        "why": None,
        **{kind: {split: counter[split] for split in splits} for kind, counter in counts.items()},
        "reasons": dict(sorted(Counter(row["reason"] for row in rejected).items())),
    }


def main() -> None:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--splits", nargs="+", required=True)
    parser.add_argument("--rows", type=Path, nargs="+", required=True)
    parser.add_argument("--rejected", type=Path, required=True)
    parser.add_argument("--status", type=Path, required=True)
    args = parser.parse_args()
    rejected, status = account(args.dataset, args.splits, ((path.parent.name, path) for path in args.rows))
    write_table(rejected, REJECTED, args.rejected)
    write_json(status, args.status)


if __name__ == "__main__":
    run_command(main)
