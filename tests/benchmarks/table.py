"""The table that `make bench` prints: measured figures and their required minimum."""

from collections.abc import Iterable
from typing import NamedTuple


class Row(NamedTuple):
    """A measured figure, of which higher is better; `make bench` fails if it is below `minimum`."""

    name: str
    value: float
    minimum: float | None = None
    unit: str = "×"

    @property
    def passed(self) -> bool:
        """Whether the value reaches the minimum; NaN does not."""
        return self.minimum is None or self.value >= self.minimum


def show(rows: Iterable[Row]) -> bool:
    """Print the rows as they are measured; return whether all of them passed."""
    passed = True
    for row in rows:
        minimum = "" if row.minimum is None else f"  {'at least' if row.passed else 'BELOW'} {row.minimum:,.2f}"
        print(f"{row.name:<72}{row.value:>10,.2f} {row.unit:<6}{minimum}", flush=True)
        passed &= row.passed
    return passed
