"""index: list the kept clips of one split, and where each is stored."""

import argparse
from pathlib import Path

from speechmill.core.command import run_command
from speechmill.core.schemas import INDEX
from speechmill.core.tables import read_rows, write_in_row_groups

# Both the writer and the readers of the index hold one row group in memory.
_ROW_GROUP = 8192


def main() -> None:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=Path, nargs="+", required=True)
    parser.add_argument("--index", type=Path, required=True)
    args = parser.parse_args()
    kept = (row for path in args.rows for row in read_rows(path) if row["reason"] is None)
    write_in_row_groups(kept, INDEX, args.index, _ROW_GROUP)


if __name__ == "__main__":
    run_command(main)
