"""runs_table: a page with all runs of the configuration side by side."""

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import jinja2
import pandas as pd
from pydantic import BaseModel

from speechmill.config.evaluation import Decoder, Protocol
from speechmill.config.reference_card import ReferenceCard
from speechmill.core.command import atomic_write, run_command
from speechmill.core.page import STYLE
from speechmill.core.tables import read_json
from speechmill.report.reference_comparison import side_by_side

_TEMPLATE = Path(__file__).parents[2] / "templates" / "runs.html.j2"

# What batch normalisation counts is stored beside the parameters, and is none.
_COUNTED = ("running_mean", "running_var", "num_batches_tracked")


Key = tuple[str, str, str]
"""A set, a decoder and a protocol, by their names."""


class SetAbout(BaseModel):
    """An evaluation set, or a changed copy of one."""

    name: str
    title: str


class RunAbout(BaseModel):
    """What the page says of a run beside what was measured."""

    name: str
    start: str
    """What it starts from, or with `trained_on` empty, the model that it scores."""
    trained_on: list[str]
    """The titles of the sets."""
    reference_card: ReferenceCard | None = None


class RunsTableSettings(BaseModel):
    """The slice of the configuration that this stage reads; runs and sets in the order of the page."""

    runs: list[RunAbout]
    sets: list[SetAbout]

    @property
    def reference_cards(self) -> dict[str, ReferenceCard]:
        """What published cards say, by their models, each once."""
        return {run.reference_card.model: run.reference_card for run in self.runs if run.reference_card is not None}

    def set_title(self, name: str) -> str:
        """What a set is called for people."""
        return next(each.title for each in self.sets if each.name == name)


@dataclass(frozen=True)
class Score:
    """A score of a run's selected checkpoint; rates are fractions, and None where there is none."""

    wer: float | None
    cer: float | None
    interval: tuple[float, float] | None
    scored: int
    published: int
    clips: str
    """The digest of the clips and of their texts."""
    unavailable: str | None = None
    best: frozenset[str] = frozenset()
    """Of `wer` and `cer`, those that are the lowest of their row."""


@dataclass(frozen=True)
class Row:
    """A set, a decoder and a protocol, with the score of each run that has one."""

    title: str
    decoder: str
    protocol: str
    scores: dict[str, Score]
    published: dict[str, dict[str, float]] = field(default_factory=dict)
    """The `wer` and `cer`, fractions, that the cards of published models have, by model."""
    unlike: list[list[str]] = field(default_factory=list)
    """The runs by the clips and texts that they were scored on, where these are not all the same."""


def scores(best: pd.DataFrame) -> dict[Key, Score]:
    """The scores of the selected checkpoint, from its rows of a run's table of scores.

    An interval is known of a set's first protocol alone.
    """
    found = {}
    for row in best.to_dict("records"):
        for protocol in get_args(Protocol):
            first = protocol == row["protocol"]
            wer, cer = (_known(row[rate if first else f"{rate}_{protocol}"]) for rate in ("wer", "cer"))
            if not first and wer is None and cer is None:
                continue
            low, high = _known(row["wer_low"]), _known(row["wer_high"])
            found[str(row["set"]), str(row["decoder"]), protocol] = Score(
                wer=wer,
                cer=cer,
                interval=(low, high) if first and low is not None and high is not None else None,
                scored=int(row["clips_scored"]),
                # Unknown where the set could not be had.
                published=0 if pd.isna(row["clips_expected"]) else int(row["clips_expected"]),
                clips=str(row["eval_set_sha256"]),
                unavailable=None if pd.isna(row["unavailable"]) else str(row["unavailable"]),
            )
    return found


def _known(value: float) -> float | None:
    return None if pd.isna(value) else float(value)


def published_rates(card: ReferenceCard) -> dict[Key, dict[str, float]]:
    """The `wer` and `cer`, fractions, that a published card has of sets that are scored here."""
    found: dict[Key, dict[str, float]] = {}
    body = card.evaluation
    if body is not None and body.set is not None:
        told = {"wer": body.wer, "cer": body.cer}
        found[body.set, "greedy", "plain"] = {rate: value for rate, value in told.items() if value is not None}
    for result in card.results:
        for metric in result.metrics:
            if result.set is not None and metric.type in ("wer", "cer"):
                found.setdefault((result.set, metric.decoder, result.protocol), {})[metric.type] = metric.value / 100
    return found


def rows(settings: RunsTableSettings, runs: Mapping[str, Mapping[Key, Score]]) -> list[Row]:
    """A row a set, decoder and protocol, of what `scores` gives of each run, by its name, and of what was published.

    The lowest rates of a row are marked where two or more runs were scored on the same clips with the same texts, and
    none where any run was scored on others.
    """
    cards = {model: published_rates(card) for model, card in settings.reference_cards.items()}
    found = []
    for each in settings.sets:
        for decoder in get_args(Decoder):
            for protocol in get_args(Protocol):
                key = (each.name, decoder, protocol)
                of = {run.name: runs[run.name][key] for run in settings.runs if key in runs[run.name]}
                told = {model: rates[key] for model, rates in cards.items() if rates.get(key)}
                if of or told:
                    found.append(_compared(Row(each.title, decoder, protocol, of, told)))
    return found


def _compared(row: Row) -> Row:
    by_clips: dict[str, list[str]] = {}
    for name, score in row.scores.items():
        if score.unavailable is None:
            by_clips.setdefault(score.clips, []).append(name)
    if len(by_clips) > 1:
        return replace(row, unlike=list(by_clips.values()))
    best: dict[str, set[str]] = {name: set() for name in row.scores}
    for rate in ("wer", "cer"):
        rates = {name: value for name, score in row.scores.items() if (value := getattr(score, rate)) is not None}
        if len(rates) > 1:
            for name in (name for name, value in rates.items() if value == min(rates.values())):
                best[name].add(rate)
    return replace(row, scores={name: replace(score, best=frozenset(best[name])) for name, score in row.scores.items()})


def stored_parameters(folder: Path) -> int | None:
    """How many parameters the model in a folder has; None where its weights are in no `.safetensors`.

    Source: safetensors' format, eight bytes that say how long the header is, and the header, JSON with all shapes.
    """
    files = sorted(folder.glob("*.safetensors"))
    count = 0
    for path in files:
        with path.open("rb") as file:
            tensors = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        tensors.pop("__metadata__", None)
        count += sum(math.prod(each["shape"]) for name, each in tensors.items() if not name.endswith(_COUNTED))
    return count if files else None


def page(
    settings: RunsTableSettings,
    about: Mapping[str, Mapping[str, Any]],
    table: Sequence[Row],
    beside: Mapping[str, Sequence[Sequence[str]]],
) -> str:
    """The page.

    Args:
        settings: The runs, in order.
        about: Of each run, by its name, `parameters`, `step`, and where it was trained `hours` of speech,
            `wall_seconds`, `device`, `steps` and `epochs`.
        table: What `rows` gives.
        beside: Of each run that has published figures, the rows of `side_by_side`.
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["percent"] = lambda value: "–" if value is None else f"{100 * value:.2f}"
    environment.filters["duration"] = _duration
    environment.filters["size"] = lambda value: "not known" if value is None else _size(value)
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        settings=settings, about=about, rows=table, beside=beside, style=STYLE
    )


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:,.2f} hours" if seconds >= 3600 else f"{seconds / 60:.1f} minutes"


def _size(parameters: int) -> str:
    return f"{parameters / 1e6:,.1f} M" if parameters >= 1e5 else f"{parameters:,}"


def _trained(training: dict[str, Any], counts: dict[str, Any]) -> dict[str, Any]:
    planned = training["hyper_parameters"]
    return {
        "parameters": training["parameters"],
        "hours": counts["seconds"] / 3600,
        "wall_seconds": training["wall_seconds"],
        "device": training["hardware"]["device"],
        "steps": planned["training_steps"],
        "epochs": planned["num_epochs"],
    }


def main() -> None:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=RunsTableSettings.model_validate_json, required=True)
    parser.add_argument("--summaries", type=Path, nargs="+", required=True, help="the scores of each run, in order")
    parser.add_argument("--selections", type=Path, nargs="+", required=True, help="the selected step of each run")
    parser.add_argument("--trainings", type=Path, nargs="*", required=True, help="of each run that trains, in order")
    parser.add_argument("--counts", type=Path, nargs="*", required=True, help="the counts of these runs' clips")
    parser.add_argument("--models", type=Path, nargs="*", required=True, help="the folder of each other run's model")
    parser.add_argument("--page", type=Path, required=True)
    args = parser.parse_args()
    settings: RunsTableSettings = args.settings
    trained = zip(args.trainings, args.counts, strict=True)
    models = iter(args.models)
    about, found, beside = {}, {}, {}
    for run, summary, selection in zip(settings.runs, args.summaries, args.selections, strict=True):
        step = read_json(selection)["step"]
        if run.trained_on:
            training, counts = map(read_json, next(trained))
            facts = _trained(training, counts)
        else:
            facts = {"parameters": stored_parameters(next(models))}
        about[run.name] = facts | {"step": step}
        table = pd.read_parquet(summary)
        best = table[table["step"] == step]
        found[run.name] = scores(best)
        if run.reference_card is not None:
            beside[run.name] = side_by_side(run.reference_card, best, settings.set_title)
    with atomic_write(args.page) as written:
        written.write_text(page(settings, about, rows(settings, found), beside), encoding="utf-8")


if __name__ == "__main__":
    run_command(main)
