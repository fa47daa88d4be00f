"""runs_table: a page that compares all runs of the configuration."""

import argparse
import json
import math
import statistics
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import pandas as pd
from pydantic import BaseModel

from speechmill.config.evaluation import Decoder, ErrorRate, Protocol
from speechmill.config.published import Published
from speechmill.core.command import run_command
from speechmill.core.files import TEMPLATES, check_folder, read_json, write_text
from speechmill.core.page import STYLE, page_environment
from speechmill.core.selection import selected_mean
from speechmill.core.tables import read_table
from speechmill.report.breakdown import selected_hypotheses
from speechmill.report.contamination import BaseTraining, statements
from speechmill.report.published_comparison import comparison_table
from speechmill.report.sweeps import RunPairs, SweepEntry, compare_runs
from speechmill.scoring.spread import Spread, spread
from speechmill.scoring.systems import selected_rows

_TEMPLATE = TEMPLATES / "runs.html.j2"

# Statistics of batch normalisation are stored like parameters, but are not trained.
_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")

_RATES: tuple[ErrorRate, ...] = ("wer", "cer")

Key = tuple[str, str, str]
"""The names of a set, a decoder and a protocol."""


class SetEntry(BaseModel):
    """An evaluation set, or a perturbed copy of one."""

    name: str
    title: str


class RunEntry(BaseModel):
    """A run as the configuration describes it."""

    name: str
    start: str
    """The initial weights, or, if `trained_on` is empty, the model that the run scores."""
    trained_on: list[str]
    """The titles of the training sets."""
    transcribed_by: dict[str, str] = {}
    """The run that transcribed each training dataset with machine-made transcripts."""
    metric: ErrorRate = "wer"
    """The error rate that the run is judged by."""
    published: list[Published] = []
    base_training: BaseTraining | None = None
    """What is known about the training data of the model that it starts from or scores; None for random weights."""


class RunsTableSettings(BaseModel):
    """The settings of this stage; runs and sets are in the order of the page."""

    runs: list[RunEntry]
    sets: list[SetEntry]
    sweeps: list[SweepEntry] = []

    @property
    def published(self) -> dict[str, Published]:
        """The published results of all runs by model, each once."""
        return {each.name: each for run in self.runs for each in run.published}

    def set_title(self, name: str) -> str:
        """Return the title of a set."""
        return next(each.title for each in self.sets if each.name == name)


@dataclass(frozen=True)
class Score:
    """A score of a run's selected checkpoint; error rates are fractions, or None if there is none."""

    wer: float | None
    cer: float | None
    interval: tuple[float, float] | None
    """The confidence interval of the WER."""
    scored: int
    """The number of clips that were scored."""
    expected: int
    """The number of clips that the corpus lists for the set."""
    clips_digest: str
    """The digest of the clips and their texts."""
    unavailable: str | None = None
    """Why the set could not be scored."""
    cer_interval: tuple[float, float] | None = None
    """The confidence interval of the CER."""
    best: frozenset[str] = frozenset()
    """Which of `wer` and `cer` are the lowest of their row."""


@dataclass(frozen=True)
class Row:
    """The scores of all runs on a set, by one decoder and protocol."""

    title: str
    decoder: str
    protocol: str
    scores: dict[str, Score]
    """The scores by run."""
    published_rates: dict[str, dict[str, float]] = field(default_factory=dict)
    """The published `wer` and `cer`, fractions, by model."""
    incomparable: list[list[str]] = field(default_factory=list)
    """The runs, grouped by the clips and texts they were scored on; empty if these are the same for all."""
    metric: ErrorRate = "wer"
    """The error rate that is shown first."""


def selected_scores(summary: pd.DataFrame) -> dict[Key, Score]:
    """Return the scores in the rows of a run's summary at its selected step.

    Only the first protocol of a set has intervals.
    """
    scores = {}
    for row in summary.to_dict("records"):
        for protocol in get_args(Protocol):
            first = protocol == row["protocol"]
            wer, cer = (_or_none(row[rate if first else f"{rate}_{protocol}"]) for rate in ("wer", "cer"))
            if not first and wer is None and cer is None:
                continue
            scores[str(row["set"]), str(row["decoder"]), protocol] = Score(
                wer=wer,
                cer=cer,
                interval=_interval(row, "wer") if first else None,
                cer_interval=_interval(row, "cer") if first else None,
                scored=int(row["clips_scored"]),
                # Unknown if the set is not available.
                expected=0 if pd.isna(row["clips_expected"]) else int(row["clips_expected"]),
                clips_digest=str(row["eval_set_sha256"]),
                unavailable=None if pd.isna(row["unavailable"]) else str(row["unavailable"]),
            )
    return scores


def sweep_spreads(sweep: SweepEntry, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return a line for each combination of values: its `values`, `runs`, and the `cells` of each of the rows.

    A cell has the `Spread` of `wer` and `cer` over the runs, or is empty if they scored different clips.
    """
    lines = []
    for values, runs in sweep.combinations:
        cells: list[dict[str, Spread | None]] = []
        for row in rows:
            scores = [row.scores[run] for run in runs if run in row.scores and row.scores[run].unavailable is None]
            comparable = len({each.clips_digest for each in scores}) == 1
            rates = {rate: [value for each in scores if (value := getattr(each, rate)) is not None] for rate in _RATES}
            cells.append({rate: spread(each) for rate, each in rates.items()} if comparable else {})
        lines.append({"values": values, "runs": runs, "cells": cells})
    return lines


def compare_models(sweep: SweepEntry, facts: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a line for each combination of a sweep over models, that with the lowest mean on its selection set first.

    A line has the `values`, the `runs`, the `Spread` of what they were selected by, `rate`, and their mean
    `wall_seconds` and `steps`. Combinations without a score come last.
    """
    lines = [
        {
            "values": values,
            "runs": runs,
            "rate": spread([facts[run]["selected_by"] for run in runs if facts[run]["selected_by"] is not None]),
            **{
                key: statistics.fmean(facts[run][key] for run in runs if key in facts[run])
                for key in ("wall_seconds", "steps")
                if any(key in facts[run] for run in runs)
            },
        }
        for values, runs in sweep.combinations
    ]
    return sorted(lines, key=lambda line: line["rate"].mean if line["rate"] else math.inf)


def _interval(row: Mapping[Hashable, Any], rate: ErrorRate) -> tuple[float, float] | None:
    low, high = _or_none(row[f"{rate}_low"]), _or_none(row[f"{rate}_high"])
    return None if low is None or high is None else (low, high)


def _or_none(value: float) -> float | None:
    return None if pd.isna(value) else float(value)


def published_rates(published: Published) -> dict[Key, dict[str, float]]:
    """Return the published `wer` and `cer`, fractions, on sets of this configuration."""
    rates: dict[Key, dict[str, float]] = {}
    body = published.evaluation
    if body is not None and body.set is not None:
        reported = {"wer": body.wer, "cer": body.cer}
        rates[body.set, "greedy", "plain"] = {rate: value for rate, value in reported.items() if value is not None}
    for result in published.results:
        for metric in result.metrics:
            if result.set is not None and metric.type in _RATES:
                rates.setdefault((result.set, metric.decoder, result.protocol), {})[metric.type] = metric.value / 100
    for score in published.scores:
        found = rates.setdefault((score.set, score.decoder, score.protocol), {})
        found |= {rate: value / 100 for rate in _RATES if (value := getattr(score, rate)) is not None}
    return rates


def build_rows(settings: RunsTableSettings, scores: Mapping[str, Mapping[Key, Score]]) -> list[Row]:
    """Return a row for each set, decoder and protocol with scores; `scores` has those of each run, by its name.

    The lowest rates of a row are marked if at least two runs have one and all runs were scored on the same clips with
    the same texts.
    """
    published = {model: published_rates(each) for model, each in settings.published.items()}
    rows = []
    for each in settings.sets:
        for decoder in get_args(Decoder):
            for protocol in get_args(Protocol):
                key = (each.name, decoder, protocol)
                by_run = {run.name: scores[run.name][key] for run in settings.runs if key in scores[run.name]}
                by_model = {model: rates[key] for model, rates in published.items() if rates.get(key)}
                if by_run or by_model:
                    metrics = {run.metric for run in settings.runs if run.name in by_run}
                    metric: ErrorRate = "cer" if "cer" in metrics else "wer"
                    rows.append(_compare(Row(each.title, decoder, protocol, by_run, by_model, metric=metric)))
    return rows


def _compare(row: Row) -> Row:
    """Return the row with its lowest rates marked, or with its incomparable runs."""
    by_digest: dict[str, list[str]] = {}
    for name, score in row.scores.items():
        if score.unavailable is None:
            by_digest.setdefault(score.clips_digest, []).append(name)
    if len(by_digest) > 1:
        return replace(row, incomparable=list(by_digest.values()))
    best: dict[str, set[str]] = {name: set() for name in row.scores}
    for rate in ("wer", "cer"):
        rates = {name: value for name, score in row.scores.items() if (value := getattr(score, rate)) is not None}
        if len(rates) > 1:
            for name in (name for name, value in rates.items() if value == min(rates.values())):
                best[name].add(rate)
    return replace(row, scores={name: replace(score, best=frozenset(best[name])) for name, score in row.scores.items()})


def count_parameters(folder: Path) -> int | None:
    """Return the number of parameters of the model in a folder, or None if it has no `.safetensors` file.

    Source: the safetensors format: eight bytes with the length of the header, then the header, JSON with all shapes.
    """
    files = sorted(folder.glob("*.safetensors"))
    count = 0
    for path in files:
        with path.open("rb") as file:
            tensors = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        tensors.pop("__metadata__", None)
        count += sum(math.prod(each["shape"]) for name, each in tensors.items() if not name.endswith(_BUFFERS))
    return count if files else None


def render_page(
    settings: RunsTableSettings,
    facts: Mapping[str, Mapping[str, Any]],
    rows: Sequence[Row],
    comparisons: Mapping[str, Sequence[Sequence[str]]],
    pairs: Sequence[RunPairs] = (),
    base_cards: Mapping[str, dict[str, Any]] | None = None,
) -> str:
    """Return the HTML page.

    Args:
        settings: The runs and sets, in order.
        facts: By run: `parameters`, `step`, `averaged`, the steps of a selected mean of checkpoints, and for sweeps
            over models `selected_by`, the value that the checkpoint was selected by, and `selection`; for trained runs
            also `hours` of speech, those of each dataset in `hours_of`, `wall_seconds`, `device`, `steps`, `epochs`.
        rows: The rows of `build_rows`.
        comparisons: By run with published results: the rows of `comparison_table`.
        pairs: The paired tests of `compare_runs`.
        base_cards: By run that starts from a base: what the card of the base says.
    """
    environment = page_environment()
    environment.filters["percent"] = lambda value: "–" if value is None else f"{100 * value:.2f}"
    environment.filters["duration"] = _format_duration
    environment.filters["points"] = lambda value: f"{100 * value:+.2f}".replace("-", "−")
    environment.filters["size"] = lambda value: "unknown" if value is None else _format_size(value)
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        settings=settings,
        facts=facts,
        rows=rows,
        comparisons=comparisons,
        pairs=pairs,
        contamination={
            run.name: statements(run.base_training, (base_cards or {}).get(run.name))
            for run in settings.runs
            if run.base_training is not None
        },
        sweep_spreads=sweep_spreads,
        compare_models=compare_models,
        style=STYLE,
    )


def _format_duration(seconds: float) -> str:
    return f"{seconds / 3600:,.2f} hours" if seconds >= 3600 else f"{seconds / 60:.1f} minutes"


def _format_size(parameters: int) -> str:
    return f"{parameters / 1e6:,.1f} M" if parameters >= 1e5 else f"{parameters:,}"


def _training_facts(training: dict[str, Any], counts: dict[str, Any]) -> dict[str, Any]:
    hyper_parameters = training["hyper_parameters"]
    return {
        "parameters": training["parameters"],
        "hours": counts["seconds"] / 3600,
        "hours_of": {name: each["seconds"] / 3600 for name, each in counts.get("by_dataset", {}).items()},
        "wall_seconds": training["wall_seconds"],
        "device": training["hardware"]["device"],
        "steps": hyper_parameters["training_steps"],
        "epochs": hyper_parameters["num_epochs"],
    }


def _value(scores: pd.DataFrame, selection: Mapping[str, Any]) -> float | None:
    """Return the value that a checkpoint was selected by, or would be: a fraction, or a loss."""
    wanted = (scores["set"] == selection.get("set")) & (scores["decoder"] == selection.get("decoder"))
    values = scores[wanted]
    return None if values.empty else _or_none(values.iloc[0][selection["metric"]])


def main() -> None:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=RunsTableSettings.model_validate_json, required=True)
    parser.add_argument("--summaries", type=Path, nargs="+", required=True, help="the scores of each run, in order")
    parser.add_argument("--selections", type=Path, nargs="+", required=True, help="the selected step of each run")
    parser.add_argument(
        "--hypotheses", type=Path, nargs="*", default=[], help="of the selected checkpoints, below the runs' folders"
    )
    parser.add_argument("--trainings", type=Path, nargs="*", required=True, help="of each run that trains, in order")
    parser.add_argument("--counts", type=Path, nargs="*", required=True, help="the counts of these runs' clips")
    parser.add_argument("--models", type=Path, nargs="*", required=True, help="the folder of each other run's model")
    parser.add_argument("--base-cards", type=Path, nargs="*", default=[], help="of each run with a base, in order")
    parser.add_argument("--page", type=Path, required=True)
    args = parser.parse_args()
    settings: RunsTableSettings = args.settings
    trained = zip(args.trainings, args.counts, strict=True)
    models = iter(args.models)
    facts, scores, comparisons, hypotheses = {}, {}, {}, {}
    for run, summary, selection in zip(settings.runs, args.summaries, args.selections, strict=True):
        decided = read_json(selection)
        if run.trained_on:
            run_facts = _training_facts(*map(read_json, next(trained)))
        else:
            model = next(models)
            check_folder(model)
            run_facts = {"parameters": count_parameters(model)}
        all_steps = read_table(summary).to_pandas()
        selected = selected_rows(all_steps, decided)
        facts[run.name] = run_facts | {
            "step": decided["step"],
            "averaged": selected_mean(decided),
            "selection": decided,
            "selected_by": _value(selected, decided),
        }
        hypotheses[run.name] = selected_hypotheses(decided, selection.parent, args.hypotheses)
        scores[run.name] = selected_scores(selected)
        if run.published:
            comparisons[run.name] = comparison_table(run.published, selected, settings.set_title)
    pairs = compare_runs(hypotheses, {run.name: run.metric for run in settings.runs})
    based = [run.name for run in settings.runs if run.base_training is not None and run.base_training.base]
    base_cards = dict(zip(based, map(read_json, args.base_cards), strict=True))
    write_text(render_page(settings, facts, build_rows(settings, scores), comparisons, pairs, base_cards), args.page)


if __name__ == "__main__":
    run_command(main)
