"""Evaluated systems, each a checkpoint with a decoder on a set, and the paths of their hypotheses."""

from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from speechmill.core.selection import averaged_column, selected_mean

SELECTED = "selected"
"""The name of the folder for sets that only the selected checkpoint is scored on; other folders are named by step."""

AVERAGE = "average"
"""The name of the folder with the scores of the mean of several checkpoints."""


class System(NamedTuple):
    """A set, the step of a checkpoint, and a decoder."""

    set: str
    step: int
    """Of a mean of several checkpoints, the newest of their steps."""
    decoder: str
    averaged: tuple[int, ...] = ()
    """The steps of the checkpoints whose mean it is, if it is one."""

    def is_selected(self, selection: Mapping[str, Any]) -> bool:
        """Return whether it is the checkpoint that `selection.json` names."""
        return self.step == selection["step"] and self.averaged == selected_mean(selection)

    def record(self) -> dict[str, Any]:
        """Return the set, step and decoder for a JSON file, and the steps of a mean."""
        mean = {"averaged": list(self.averaged)} if self.averaged else {}
        return {"set": self.set, "step": self.step, "decoder": self.decoder, **mean}


def systems(files: Iterable[Path], selection: Mapping[str, Any]) -> dict[System, Path]:
    """Map the system of each file `…/{step}/{set}/{decoder}/hypotheses.parquet` to its path.

    `selection` is the content of `selection.json`.
    """
    paths = {}
    for path in files:
        step, name, decoder = path.parts[-4:-1]
        if step == SELECTED:
            system = System(name, selection["step"], decoder, selected_mean(selection))
        elif step == AVERAGE:
            averaged = tuple(selection["average"]["steps"])
            system = System(name, averaged[-1], decoder, averaged)
        else:
            system = System(name, int(step), decoder)
        paths[system] = path
    return paths


def selected_systems(files: Iterable[Path], selection: Mapping[str, Any]) -> dict[System, Path]:
    """Return those of `systems` that are the checkpoint that `selection.json` names."""
    return {system: path for system, path in systems(files, selection).items() if system.is_selected(selection)}


def selected_rows(scores: pd.DataFrame, selection: Mapping[str, Any]) -> pd.DataFrame:
    """Return the rows of a summary with the scores of the selected checkpoint."""
    rows: pd.DataFrame = scores[scores["step"] == selection["step"]]
    return rows[rows["averaged"] == averaged_column(selected_mean(selection))] if "averaged" in rows else rows


def system_row(scores: pd.DataFrame, set_name: str, decoder: str) -> dict[Hashable, Any]:
    """Return the only row of a set and a decoder, among rows with the scores of one checkpoint."""
    (row,) = scores[(scores["set"] == set_name) & (scores["decoder"] == decoder)].to_dict("records")
    return row


def with_word_counts(clips: pd.DataFrame) -> pd.DataFrame:
    """Return scored clips with the columns `words`, in the reference, and `errors`, of words."""
    words = clips["hits"] + clips["substitutions"] + clips["deletions"]
    return clips.assign(words=words, errors=clips["substitutions"] + clips["deletions"] + clips["insertions"])


def saved_checkpoints(scores: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of a summary without those of a mean of several checkpoints."""
    return scores[scores["averaged"] == ""] if "averaged" in scores else scores


def base_set(name: str) -> str:
    """Return the set `{dataset}-{split}` that a perturbed copy `{dataset}-{split}-{effect}` was created from."""
    return "-".join(name.split("-")[:2])
