"""The whole configuration: what the Snakefile validates before any job runs."""

import difflib
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from speechmill.config.augment import AugmentConfig
from speechmill.config.base import EvalSet, Name, Section
from speechmill.config.card import CardConfig
from speechmill.config.checkpoints import CheckpointConfig
from speechmill.config.clips import ClipConfig
from speechmill.config.datasets import Dataset
from speechmill.config.evaluation import EvaluationConfig, SelectConfig
from speechmill.config.finetune import Device, FinetuneConfig
from speechmill.config.leakage import LeakageConfig
from speechmill.config.model import ModelConfig
from speechmill.config.plan import PlanConfig
from speechmill.config.publish import PublishConfig
from speechmill.config.reference_card import ReferenceCard
from speechmill.config.speak import SpeakConfig
from speechmill.config.text import TextConfig
from speechmill.core.command import SpeechmillError

# What only a run that trains has; what it cannot do without comes first.
_TRAINING_NEEDS = ("train", "dev", "plan", "finetune", "card")
_OF_TRAINING = (
    *(key for key in _TRAINING_NEEDS if key != "dev"),
    *("gpus", "gpu_memory_gib", "clips", "leakage", "augment", "checkpoints", "select", "publish"),
)


class Run(Section):
    """One model: its data, its training, its evaluation, its card; or a model that is there, and its evaluation."""

    training: Literal["finetune", "none"] = Field(
        "finetune",
        description="with `none`, the model that `model.base` or `model.run` names is scored as it is, by its own"
        " vocabulary: `train`, `plan`, `finetune`, `card` and all else that is for training are left out",
    )
    language: str = Field(description="the language's code in the card: `ru`")
    device: Device = Field("gpu", description="where the model runs: `gpu`, `cpu`, or `auto`: a GPU where there is one")
    gpus: int = Field(
        1, gt=0, description="GPUs that training takes, with a process each; with `device: cpu`, processes alone"
    )
    gpu_memory_gib: float = Field(
        78,
        gt=0,
        description="the memory of one such GPU, as `nvidia-smi` shows it; the plan, which may be made where there is"
        " none, holds its estimate against it. 78 is what an H100 has for one job",
    )
    train: list[EvalSet] | None = Field(
        None, min_length=1, description="what it is trained on, each `{dataset}-{split}`; needed for training"
    )
    dev: EvalSet | None = Field(
        None,
        description="the set that choices are made on, `{dataset}-{split}`; needed for training and by the decoder"
        " `lm`",
    )
    text: TextConfig = Field(TextConfig(), description="how sentences are normalised")
    clips: ClipConfig = Field(ClipConfig(), description="which training clips are used")
    leakage: LeakageConfig = Field(
        LeakageConfig(), description="what is done about training clips that collide with a set that is scored"
    )
    model: ModelConfig = Field(description="what training starts from")
    plan: PlanConfig | None = Field(
        None, description="how long training lasts and what a batch is; needed for training"
    )
    finetune: FinetuneConfig | None = Field(None, description="how the weights are changed; needed for training")
    augment: AugmentConfig = Field(
        AugmentConfig(), description="how training clips are changed, differently each time that they are seen"
    )
    checkpoints: CheckpointConfig = Field(CheckpointConfig(), description="which checkpoints are kept")
    evaluation: EvaluationConfig = Field(description="what every checkpoint is scored on")
    select: SelectConfig = Field(SelectConfig(), description="which checkpoint becomes the model")
    card: CardConfig | None = Field(
        None, description="what only its author can say about the model; needed for training"
    )
    reference_card: ReferenceCard | None = Field(
        None, description="what a published card says of the same model, for the run's figures to be held against"
    )
    publish: PublishConfig | None = Field(
        None,
        description="where the model's folder is uploaded to by `snakemake publish`, and by nothing else;"
        " `snakemake publish_dry_run` shows what would go, without any network",
    )

    @property
    def trains(self) -> bool:
        """Whether a model is made, and not only scored."""
        return self.training == "finetune"

    @property
    def select_set(self) -> str | None:
        """The evaluation set that decides which checkpoint is taken."""
        return self.select.set or self.dev

    @model_validator(mode="after")
    def _training_is_whole_or_absent(self) -> "Run":
        if self.trains:
            missing = [f"`{key}`" for key in _TRAINING_NEEDS if getattr(self, key) is None]
            if missing:
                raise ValueError(f"{_listed(missing)} needed and absent; with `training: none` a model is only scored")
            return self
        defaults = {key: field.get_default() for key, field in type(self).model_fields.items()}
        extra = [f"`{key}`" for key in _OF_TRAINING if getattr(self, key) != defaults[key]]
        if extra:
            raise ValueError(f"{_listed(extra)} for training: leave that out, or `training: none`")
        if self.model.init is not None or self.model.config:
            raise ValueError(
                "with `training: none` a model is scored as it is: give `model.base` or `model.run`, without `init` or"
                " `config`"
            )
        if any(each.checkpoints == "selected" for each in self.evaluation.sets):
            raise ValueError("with `training: none` there is one model and no choice: leave `checkpoints` out")
        lm = self.evaluation.language_model
        if lm is not None and (self.dev is None or lm.text == "training"):
            raise ValueError(
                "with `training: none` the decoder `lm` needs `dev`, on which its weights are tuned, and"
                " `evaluation.lm` with `text: files`, since there are no training clips"
            )
        return self

    @model_validator(mode="after")
    def _selection_is_evaluated(self) -> "Run":
        if not self.trains:
            return self
        chosen_by = self.evaluation.settings_of(str(self.select_set))
        if self.select_set not in self.evaluation.set_names:
            raise ValueError(f"`evaluation.sets` lacks {self.select_set}, by which the checkpoint is selected")
        if chosen_by.checkpoints != "all":
            raise ValueError(
                f"`evaluation.sets` scores {self.select_set}, by which the checkpoint is selected, at the selected one"
                " alone: it needs `checkpoints: all`"
            )
        if self.select.decoder not in self.evaluation.decoders:
            raise ValueError(f"`evaluation.decoders` lacks {self.select.decoder}, by which the checkpoint is selected")
        return self

    @model_validator(mode="after")
    def _reference_sets_are_evaluated(self) -> "Run":
        for name in self.reference_card.sets if self.reference_card else []:
            if name not in self.evaluation.set_names:
                raise ValueError(
                    f"`reference_card` holds figures against {name}, which `evaluation.sets` lacks;"
                    f"{_nearest(name, self.evaluation.set_names)} leave `set` out where there is no such set"
                )
        return self


class Config(Section):
    """The configuration file."""

    speak: dict[Name, SpeakConfig] = Field(
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
            train, dev = run.train or [], [run.dev] if run.dev else []
            for key, sets in (("train", train), ("dev", dev), ("evaluation.sets", run.evaluation.set_names)):
                for missing in sorted(set(sets) - set(known)):
                    raise ValueError(
                        f"runs.{run_name}.{key} names {missing}, which no dataset has;{_nearest(missing, known)}"
                        f" known are {', '.join(known)}"
                    )
            for key, name in (
                *(("train", each) for each in train),
                *(("dev", each) for each in dev),
                *(("select.set", each) for each in [run.select.set] if each),
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
                if not self.runs[base].trains:
                    raise ValueError(
                        f"runs.{chain[-1]}.model.run is {base}, which makes no model: take its `model.base` yourself"
                    )
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


def _listed(keys: list[str]) -> str:
    return f"{' and '.join(keys)} {'is' if len(keys) == 1 else 'are'}"


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
