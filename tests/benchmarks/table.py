"""The table that `make bench` prints: what was measured, and what is promised of it."""

from collections.abc import Iterable
from typing import NamedTuple


class Row(NamedTuple):
    """A measured figure. Higher is better; below `promised`, where that is given, `make bench` fails."""

    what: str
    measured: float
    promised: float | None = None
    unit: str = "×"

    @property
    def kept(self) -> bool:
        """Whether the promise holds; a figure that is not a number keeps none."""
        return self.promised is None or self.measured >= self.promised


def show(rows: Iterable[Row]) -> bool:
    """Print the rows as they come; whether all promises are kept."""
    kept = True
    for row in rows:
        promise = "" if row.promised is None else f"  {'at least' if row.kept else 'BELOW'} {row.promised:,.2f}"
        print(f"{row.what:<72}{row.measured:>10,.2f} {row.unit:<6}{promise}", flush=True)
        kept &= row.kept
    return kept
