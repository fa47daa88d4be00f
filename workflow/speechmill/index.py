"""index: the kept clips of one split, and where each is stored."""

import argparse
from pathlib import Path

import pyarrow as pa

from speechmill.command import run_command
from speechmill.tables import INDEX, read_table, write_table


def main() -> None:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=Path, nargs="+", required=True)
    parser.add_argument("--index", type=Path, required=True)
    args = parser.parse_args()
    rows = pa.concat_tables([read_table(path) for path in args.rows]).to_pylist()
    write_table((row for row in rows if row["reason"] is None), INDEX, args.index)


if __name__ == "__main__":
    run_command(main)
