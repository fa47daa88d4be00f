"""The runs of a sweep that differ only in their seeds, and paired tests between all runs on the same clips."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from pydantic import BaseModel

from speechmill.config.evaluation import ErrorRate
from speechmill.report.breakdown import compare, load_clips, load_speaker_metadata
from speechmill.scoring.significance import holm
from speechmill.scoring.systems import System, base_set


class SweepEntry(BaseModel):
    """A sweep of the configuration."""

    name: str
    runs: dict[str, dict[str, str]]
    """The runs that were made of it, each with its values by key, without the seed."""
    compares_models: bool
    """Whether the initial model is one of the keys."""

    @property
    def keys(self) -> list[str]:
        """The keys of the sweep, without the seed."""
        return list(next(iter(self.runs.values())))

    @property
    def combinations(self) -> list[tuple[dict[str, str], list[str]]]:
        """Each combination of values with its runs, which differ only in their seeds."""
        found: list[tuple[dict[str, str], list[str]]] = []
        for run, values in self.runs.items():
            known = next((runs for each, runs in found if each == values), None)
            if known is None:
                found.append((values, [run]))
            else:
                known.append(run)
        return found


class Difference(NamedTuple):
    """The error rate of one run minus that of another, fractions."""

    difference: float | None
    """None if no reference has words."""
    interval: tuple[float, float] | None
    """The 95 % confidence interval, not corrected."""
    p_value: float | None
    corrected: float | None
    """The p-value after Holm's correction for the number of pairs on this set by this decoder."""


@dataclass(frozen=True)
class RunPairs:
    """All pairs of the runs that scored the same clips with the same references."""

    set: str
    decoder: str
    metric: ErrorRate
    runs: list[str]
    differences: dict[tuple[str, str], Difference] = field(default_factory=dict)
    """By two runs, the later one in `runs` first: its error rate minus that of the other."""


def compare_runs(hypotheses: Mapping[str, Mapping[System, Path]], metrics: Mapping[str, ErrorRate]) -> list[RunPairs]:
    """Return the paired tests of each set and decoder that at least two runs have in common.

    The test is that of the card, see `significance.paired_difference`. The p-values of one set and decoder are
    corrected together.

    Args:
        hypotheses: By run, in the order of the result: the hypotheses of its selected checkpoint.
        metrics: The error rate that each run is judged by; CER is compared if it is that of one of the runs.
    """
    no_metadata = load_speaker_metadata([])
    keys = dict.fromkeys((each.set, each.decoder) for files in hypotheses.values() for each in files)
    found = []
    for name, decoder in keys:
        if base_set(name) != name:
            continue
        groups: list[tuple[list[str], list[tuple[System, pd.DataFrame]]]] = []
        for run, files in hypotheses.items():
            system = next((each for each in files if (each.set, each.decoder) == (name, decoder)), None)
            clips = None if system is None else load_clips(files[system], no_metadata)
            if system is None or clips is None or clips.empty:
                continue
            same = next((group for group in groups if _same_clips(group[1][0][1], clips)), None)
            if same is None:
                same = ([], [])
                groups.append(same)
            same[0].append(run)
            same[1].append((system, clips))
        for runs, systems in groups:
            if len(runs) > 1:
                metric: ErrorRate = "cer" if "cer" in {metrics[run] for run in runs} else "wer"
                found.append(_compare_pairs(RunPairs(name, decoder, metric, runs), systems))
    return found


def _same_clips(first: pd.DataFrame, second: pd.DataFrame) -> bool:
    columns = ["dataset", "id", "scored_reference"]
    return first[columns].equals(second[columns])


def _compare_pairs(pairs: RunPairs, systems: Sequence[tuple[System, pd.DataFrame]]) -> RunPairs:
    rows = {
        (later[0], earlier[0]): compare("runs", earlier[1], later[1], pairs.metric)
        for earlier, later in itertools.combinations(zip(pairs.runs, systems, strict=True), 2)
    }
    corrected = iter(holm([row["p_value"] for row in rows.values() if row["p_value"] is not None]))
    for names, row in rows.items():
        p_value = row["p_value"]
        pairs.differences[names] = Difference(
            difference=row["difference"],
            interval=row["interval"] and tuple(row["interval"]),
            p_value=p_value,
            corrected=None if p_value is None else next(corrected),
        )
    return pairs
