"""`make bench`: run the benchmarks of this folder, print a table, and fail if a figure is below its minimum."""

import argparse
import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

# Set before any library reads them: one thread, so that processor time is comparable, and no downloads.
os.environ |= {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
}

from benchmarks.table import Row, show

MODULES = {path.stem.removeprefix("bench_"): path.stem for path in sorted(Path(__file__).parent.glob("bench_*.py"))}


def rows(names: list[str]) -> Iterator[Row]:
    """Yield the rows of the named benchmarks, one benchmark after the other."""
    for name in names:
        # Imported only when needed, since each imports large libraries.
        yield from importlib.import_module(f"benchmarks.{MODULES[name]}").rows()


def main() -> None:
    """Print the table; exit with status 1 if a figure is below its minimum."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("only", nargs="?", choices=MODULES, help="run only this benchmark")
    args = parser.parse_args()
    sys.exit(0 if show(rows([args.only] if args.only else list(MODULES))) else 1)


if __name__ == "__main__":
    main()
