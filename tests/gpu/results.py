"""The results of the checks: JSON lines, one for each measurement and each finished step, and the table of them.

A line is on the disk as soon as it is known, so that a run that is cut short keeps what it has measured. The table
is made from the lines alone: `python -m gpu.results FILE` prints it after a run that was killed.
"""

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

# The columns of a row: the name of the step and of the measurement, and its values.
_WIDTH = 50
# A line of the table shows this much of the output of a failed step; the JSON line has more.
_SHOWN_OUTPUT = 600


def append(file: Path, line: Mapping[str, Any]) -> None:
    """Append a line to the results, and wait until it is on the disk."""
    with file.open("a", encoding="utf-8") as out:
        out.write(json.dumps(line, ensure_ascii=False) + "\n")
        out.flush()
        os.fsync(out.fileno())


def read(file: Path) -> list[dict[str, Any]]:
    """Return the lines of a file of results; the last one is left out if a kill has truncated it."""
    rows = file.read_text(encoding="utf-8").split("\n")
    return [json.loads(row) for row in rows[:-1] if row]


def table(lines: Iterable[Mapping[str, Any]]) -> str:
    """Return the results as a table, with one row for each measurement, and the outcome after those of its step."""
    return "\n".join(row for line in lines for row in _rows(line))


def _rows(line: Mapping[str, Any]) -> Iterator[str]:
    if "outcome" not in line:
        values = "  ".join(f"{key} {_shown(value)}" for key, value in line["values"].items())
        yield f"{line['step'] + ': ' + line['name']:<{_WIDTH}}  {values}"
        return
    yield f"{line['step'] + ': ' + line['outcome'].upper():<{_WIDTH}}  {line['seconds']:.0f} of {line['limit']:.0f} s"
    if line["outcome"] != "ok":
        yield from (f"    {row}" for row in line["output"][-_SHOWN_OUTPUT:].splitlines())


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else str(value)


if __name__ == "__main__":
    print(table(read(Path(sys.argv[1]))))
