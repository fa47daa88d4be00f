"""Whether scores belong to the checkpoint that `selection.json` names.

The model of a run is a checkpoint that training saved, or the mean of the weights of several (`select.average`). The
step of a mean is that of the newest of them, so that the step alone does not identify it.
"""

from collections.abc import Iterable, Mapping
from typing import Any


def selected_mean(selection: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the steps of the checkpoints whose mean is the selected model; none if it is a single checkpoint."""
    average = selection.get("average")
    return tuple(average["steps"]) if average and average["selected"] else ()


def averaged_column(steps: Iterable[int]) -> str:
    """Return the value of the column `averaged` for a mean of the checkpoints at these steps; empty without any."""
    return " ".join(map(str, steps))


def is_selected(row: Mapping[str, Any], selection: Mapping[str, Any]) -> bool:
    """Return whether a row of a summary has scores of the selected checkpoint."""
    averaged = row.get("averaged") or ""
    return bool(row["step"] == selection["step"] and averaged == averaged_column(selected_mean(selection)))
