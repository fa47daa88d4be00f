"""`make bench`: run the benchmarks of this folder, print one table, fail where a promise is not kept."""

import argparse
import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

# Before any library reads them. A core each, as other threads would share the work out; and nothing is fetched.
os.environ |= {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
}

from benchmarks.table import Row, show

MODULES = {path.stem.removeprefix("bench_"): path.stem for path in sorted(Path(__file__).parent.glob("bench_*.py"))}


def rows(chosen: list[str]) -> Iterator[Row]:
    """The rows of the benchmarks, one benchmark after the other."""
    for name in chosen:
        # Imported when its turn comes: each brings much with it.
        yield from importlib.import_module(f"benchmarks.{MODULES[name]}").rows()


def main() -> None:
    """Print the table; leave with an error where a promise is not kept."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("only", nargs="?", choices=MODULES, help="one of them")
    args = parser.parse_args()
    sys.exit(0 if show(rows([args.only] if args.only else list(MODULES))) else 1)


if __name__ == "__main__":
    main()
