"""What makes hypotheses, a checkpoint with a decoder on a set, and where in a run's evaluation they lie."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

SELECTED = "selected"
"""The folder of what is scored at the selected checkpoint alone; other folders are named by the step."""


class System(NamedTuple):
    """A checkpoint's step and a decoder, on a set."""

    set: str
    step: int
    decoder: str


def systems(files: Iterable[Path], selected: int) -> dict[System, Path]:
    """The system of each of the files `…/{step}/{set}/{decoder}/hypotheses.parquet`, where `selected` is selected."""
    found = {}
    for path in files:
        step, name, decoder = path.parts[-4:-1]
        found[System(name, selected if step == SELECTED else int(step), decoder)] = path
    return found


def base_set(name: str) -> str:
    """The set `{dataset}-{split}` that a set is, or that it is a changed copy of, `{dataset}-{split}-{effect}`."""
    return "-".join(name.split("-")[:2])
