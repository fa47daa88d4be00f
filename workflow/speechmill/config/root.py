"""The whole configuration: what the Snakefile validates before any job runs."""

import difflib
from collections.abc import Mapping
from typing import Any

from pydantic import Field, ValidationError, model_validator

from speechmill.command import SpeechmillError
from speechmill.config.base import Section
from speechmill.config.card import CardSettings
from speechmill.config.checkpoints import CheckpointSettings
from speechmill.config.clips import ClipSettings
from speechmill.config.datasets import Dataset, Name
from speechmill.config.evaluation import EvalSet, EvaluationSettings, SelectSettings
from speechmill.config.finetune import Device, FinetuneSettings
from speechmill.config.leakage import LeakageSettings
from speechmill.config.model import ModelSettings
from speechmill.config.plan import PlanSettings
from speechmill.config.speak import SpeakSettings
from speechmill.config.text import TextSettings


class Run(Section):
    """One model: its data, its training, its evaluation, its card."""

    language: str = Field(description="the language's code in the card: `ru`")
    device: Device = Field("gpu", description="where the model runs: `gpu`, `cpu`, or `auto`: a GPU where there is one")
    gpus: int = Field(
        1, gt=0, description="GPUs that training takes, with a process each; with `device: cpu`, processes alone"
    )
    train: list[EvalSet] = Field(min_length=1, description="what it is trained on, each `{dataset}-{split}`")
    dev: EvalSet = Field(description="the set that choices are made on, `{dataset}-{split}`")
    text: TextSettings = Field(TextSettings(), description="how sentences are normalised")
    clips: ClipSettings = Field(ClipSettings(), description="which training clips are used")
    leakage: LeakageSettings = Field(
        LeakageSettings(), description="what is done about training clips that collide with a set that is scored"
    )
    model: ModelSettings = Field(description="what training starts from")
    plan: PlanSettings = Field(description="how long training lasts and what a batch is")
    finetune: FinetuneSettings = Field(description="how the weights are changed")
    checkpoints: CheckpointSettings = Field(CheckpointSettings(), description="which checkpoints are kept")
    evaluation: EvaluationSettings = Field(description="what every checkpoint is scored on")
    select: SelectSettings = Field(SelectSettings(), description="which checkpoint becomes the model")
    card: CardSettings = Field(description="what only its author can say about the model")

    @property
    def select_set(self) -> str:
        """The evaluation set that decides which checkpoint is taken."""
        return self.select.set or self.dev

    @model_validator(mode="after")
    def _selection_is_evaluated(self) -> "Run":
        if self.select_set not in self.evaluation.sets:
            raise ValueError(f"`evaluation.sets` lacks {self.select_set}, by which the checkpoint is selected")
        if self.select.decoder not in self.evaluation.decoders:
            raise ValueError(f"`evaluation.decoders` lacks {self.select.decoder}, by which the checkpoint is selected")
        return self


class Config(Section):
    """The configuration file."""

    speak: dict[Name, SpeakSettings] = Field(
        default_factory=dict,
        description="corpora that espeak-ng speaks, packed as published ones; `results/speak/{name}.tar.gz` is the"
        " `path` of a dataset",
    )
    datasets: dict[Name, Dataset] = Field(min_length=1, description="the corpora, by name")
    runs: dict[Name, Run] = Field(min_length=1, description="the models to make, by name")

    @model_validator(mode="after")
    def _sets_exist(self) -> "Config":
        known = [f"{name}-{split}" for name, dataset in self.datasets.items() for split in dataset.set_names]
        for run_name, run in self.runs.items():
            for key, sets in (
                ("train", run.train),
                ("dev", [run.dev]),
                ("evaluation.sets", run.evaluation.sets),
            ):
                for missing in sorted(set(sets) - set(known)):
                    raise ValueError(
                        f"runs.{run_name}.{key} names {missing}, which no dataset has;{_nearest(missing, known)}"
                        f" known are {', '.join(known)}"
                    )
            for key, name in (
                *(("train", each) for each in run.train),
                ("dev", run.dev),
                ("select.set", run.select_set),
            ):
                if self.datasets[name.split("-")[0]].optional:
                    raise ValueError(
                        f"runs.{run_name}.{key} names {name}, which is optional: a run cannot go on without"
                    )
        return self

    @model_validator(mode="after")
    def _bases_come_before(self) -> "Config":
        for name, run in self.runs.items():
            chain = [name]
            while (base := run.model.run) is not None:
                if base not in self.runs:
                    raise ValueError(
                        f"runs.{chain[-1]}.model.run is {base}, which is no run;{_nearest(base, list(self.runs))} known"
                        f" are {', '.join(self.runs)}"
                    )
                if base in chain:
                    raise ValueError(f"runs.{name}.model.run: {' starts from '.join([*chain, base])}, in a circle")
                chain.append(base)
                run = self.runs[base]
        return self


def load(raw: Mapping[str, Any]) -> Config:
    """The typed configuration of what the YAML files and the command line gave.

    Raises SpeechmillError with a line for each fault: the key, its place, and what to write instead.
    """
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        faults = [_fault(dict(each)) for each in error.errors()]
        raise SpeechmillError("the configuration is not right:\n" + "\n".join(f"  {f}" for f in faults)) from error


def _fault(error: dict[str, Any]) -> str:
    tags = {"common_voice", "folder", "hub", "zeroth"}
    place = [str(part) for i, part in enumerate(error["loc"]) if not (i == 2 and part in tags)]
    key = ".".join(place) or "configuration"
    if error["type"] == "extra_forbidden":
        known = _known_keys(place[:-1], error["loc"])
        return f"{key}: unknown key `{place[-1]}`;{_nearest(place[-1], known)} known are {', '.join(known)}"
    if error["type"] == "missing":
        return f"{key}: this key is needed and absent"
    message = error["msg"].removeprefix("Value error, ")
    return f"{key}: {message}" + (
        f" (found {error['input']!r})" if isinstance(error["input"], str | int | float) else ""
    )


def _nearest(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f" did you mean `{close[0]}`?" if close else ""


def _known_keys(place: list[str], loc: tuple[str | int, ...]) -> list[str]:
    """The keys of the section at `place`, found by walking the schema as the fault's location does."""
    schema = Config.model_json_schema()
    node: dict[str, Any] = schema
    for part in loc[: len(loc) - 1]:
        node = _resolve(node, schema)
        if "oneOf" in node and str(part) in node.get("discriminator", {}).get("mapping", {}):
            node = {"$ref": node["discriminator"]["mapping"][str(part)]}
        elif str(part) in node.get("properties", {}):
            node = node["properties"][str(part)]
        elif str(part) in schema["$defs"]:
            # One of several types of a value, which pydantic names in the fault's location.
            node = schema["$defs"][str(part)]
        elif isinstance(part, int):
            node = node["items"]
        else:
            # A mapping: its names are free, its values are all alike.
            node = next(iter(node.get("patternProperties", {}).values()), node.get("additionalProperties", {}))
    return sorted(_resolve(node, schema).get("properties", {}))


def _resolve(node: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    for choice in node.get("anyOf", []):
        if choice.get("type") != "null":
            node = choice
            break
    while "$ref" in node:
        node = schema["$defs"][node["$ref"].rsplit("/", 1)[1]]
    return node
