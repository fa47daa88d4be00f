"""Evaluated systems, each a checkpoint with a decoder on a set, and the paths of their hypotheses."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

SELECTED = "selected"
"""The name of the folder for sets that only the selected checkpoint is scored on; other folders are named by step."""


class System(NamedTuple):
    """A set, the step of a checkpoint, and a decoder."""

    set: str
    step: int
    decoder: str


def systems(files: Iterable[Path], selected: int) -> dict[System, Path]:
    """Map the system of each file `…/{step}/{set}/{decoder}/hypotheses.parquet` to its path.

    `selected` is the step of the selected checkpoint.
    """
    paths = {}
    for path in files:
        step, name, decoder = path.parts[-4:-1]
        paths[System(name, selected if step == SELECTED else int(step), decoder)] = path
    return paths


def base_set(name: str) -> str:
    """Return the set `{dataset}-{split}` that a perturbed copy `{dataset}-{split}-{effect}` was created from."""
    return "-".join(name.split("-")[:2])
