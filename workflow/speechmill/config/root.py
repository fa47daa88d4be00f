"""The complete configuration, which the Snakefile validates before any job runs."""

import itertools
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Self

from pydantic import Field, ModelWrapValidatorHandler, PrivateAttr, ValidationError, model_validator

from speechmill.config.architectures import adapter_errors, export_errors
from speechmill.config.augment import AugmentConfig
from speechmill.config.base import EvalSet, Name, Section, nearest
from speechmill.config.card import CardConfig
from speechmill.config.checkpoints import CheckpointConfig
from speechmill.config.circles import find_circle
from speechmill.config.clips import ClipConfig
from speechmill.config.datasets import (
    Dataset,
    IngestedDataset,
    SegmentDataset,
    TranscribeDataset,
    with_inherited,
)
from speechmill.config.evaluation import ErrorRate, EvaluationConfig, Metric, SelectConfig
from speechmill.config.export import ExportPrecision
from speechmill.config.finetune import Device, FinetuneConfig
from speechmill.config.hub_metadata import HubLanguage
from speechmill.config.label_errors import LabelErrorsConfig
from speechmill.config.languages import separates_words
from speechmill.config.leakage import LeakageConfig
from speechmill.config.lm import LmUnit
from speechmill.config.mixing import MixingConfig
from speechmill.config.model import ModelConfig
from speechmill.config.plan import PlanConfig
from speechmill.config.publish import PublishConfig
from speechmill.config.published import PublishedList
from speechmill.config.speak import SpeakConfig
from speechmill.config.sweep import Sweep, check_references, expand
from speechmill.config.text import TextConfig, with_casing
from speechmill.config.texts import TextSource
from speechmill.config.vocab import Vocab
from speechmill.core.command import SpeechmillError

# Keys that a run with training needs, and keys that a run without training must not have.
_REQUIRED_FOR_TRAINING = ("train", "dev", "plan", "finetune", "card")
_ONLY_FOR_TRAINING = (
    *(key for key in _REQUIRED_FOR_TRAINING if key != "dev"),
    *("gpus", "gpu_memory_gib", "clips", "leakage", "mixing", "augment", "checkpoints", "select", "label_errors"),
    "publish",
    "vocab",
)

# Former names of keys.
_RENAMED = {
    "look_alikes": "map_confusables",
    "otherwise": "default",
    "probe_clips": "dev_clips",
    "published_splits": "source_splits",
    "put": "replacement",
    "reference_card": "published",
    "seconds": "rt60_seconds",
}


class Run(Section):
    """A model with its data, training, evaluation and card; or an existing model with its evaluation."""

    training: Literal["finetune", "none"] = Field(
        "finetune",
        description="with `none`, the model of `model.base` or `model.run` is only scored, with its own vocabulary;"
        " `train`, `plan`, `finetune`, `card` and all other keys for training must be absent",
    )
    language: HubLanguage = Field(
        description="language code in the card, of ISO 639-1, -2 or -3, such as `ru`; the Hugging Face Hub takes no"
        " locales, such as `sv-SE`, which belong into `datasets.*.language`; for a language without spaces between"
        " words, such as `zh` or `th`, it changes the defaults of `select.metric` and `evaluation.lm.unit`"
    )
    device: Device = Field("gpu", description="device for the model; `auto` uses a GPU if there is one")
    gpus: int = Field(
        1, gt=0, description="number of GPUs for training, with one process each; with `device: cpu`, processes"
    )
    gpu_memory_gib: float = Field(
        78,
        gt=0,
        description="memory of one GPU as shown by `nvidia-smi`, which the plan compares its estimate to, also on a"
        " machine without a GPU; the default is the memory available to a job on an H100",
    )
    train: list[EvalSet] | None = Field(
        None, min_length=1, description="training sets, each `{dataset}-{split}`; required for training"
    )
    dev: EvalSet | None = Field(
        None,
        description="development set, `{dataset}-{split}`, for the selection of a checkpoint and for tuning; required"
        " for training and for the decoder `lm`",
    )
    text: TextConfig = Field(TextConfig(), description="how sentences are normalised")
    clips: ClipConfig = Field(ClipConfig(), description="filters of the training clips")
    leakage: LeakageConfig = Field(
        LeakageConfig(), description="what happens to training clips that overlap with an evaluation set"
    )
    mixing: MixingConfig | None = Field(
        None,
        description="how often an epoch goes through the clips of each dataset, language or speaker; default: once"
        " through all clips",
    )
    model: ModelConfig = Field(description="weights that training starts from")
    vocab: Vocab = Field(
        "characters",
        description="tokens of the model: `characters` of the training text; `keep`, those of a base that was"
        " fine-tuned, with its tokenizer and its head; or `sentencepiece`, subwords of the training text",
    )
    plan: PlanConfig | None = Field(None, description="length of training and batch size; required for training")
    finetune: FinetuneConfig | None = Field(None, description="optimiser and precision; required for training")
    augment: AugmentConfig = Field(
        AugmentConfig(), description="random changes of the training audio, drawn anew in every epoch"
    )
    checkpoints: CheckpointConfig = Field(CheckpointConfig(), description="which checkpoints are kept")
    evaluation: EvaluationConfig = Field(description="evaluation sets, decoders and protocols")
    select: SelectConfig = Field(SelectConfig(), description="how the checkpoint that becomes the model is selected")
    label_errors: LabelErrorsConfig | None = Field(
        None,
        description="if given, also as `{}`, the training clips whose sentences are probably wrong are listed in"
        " `results/runs/{run}/label_errors/`: a page to listen to, and a file for `clips.corrections`",
    )
    card: CardConfig | None = Field(
        None, description="parts of the model card that only the author can write; required for training"
    )
    published: PublishedList = Field(
        default_factory=list,
        description="published results to compare those of the run to: the contents of the card of the same model,"
        " and figures of others on the same data",
    )
    export: list[ExportPrecision] = Field(
        [],
        description="the selected model in ONNX, `fp32` or `int8` or both, with a program that needs no torch, in"
        " `results/runs/{run}/model/onnx/`; each is scored on all sets, on the CPU, and compared with the checkpoint by"
        " greedy decoding; only CTC models can be exported",
        exclude_if=lambda precisions: not precisions,
    )
    publish: PublishConfig | None = Field(
        None,
        description="repository that `snakemake publish`, and nothing else, uploads the model folder to;"
        " `snakemake publish_dry_run` lists the files without network access",
    )

    sweep: dict[str, list[Any]] | None = Field(
        None,
        description="lists of values by key, such as `{finetune.learning_rate: [1e-5, 3e-5], seed: [1, 2, 3]}`: the run"
        " is replaced by one run for each combination, such as `NAME_lr1e_5_seed1`; a key is the path of a key or of a"
        " section within the run, and `seed` is short for `plan.seed`; the page of all runs shows means over the seeds",
    )

    @property
    def trains(self) -> bool:
        """Whether a model is trained, not only scored."""
        return self.training == "finetune"

    @property
    def sets(self) -> dict[str, list[str]]:
        """The sets that the run reads, by the key that lists them."""
        return {
            "train": self.train or [],
            "dev": [self.dev] if self.dev else [],
            "evaluation.sets": self.evaluation.set_names,
        }

    @property
    def datasets(self) -> list[str]:
        """The names of the datasets that the run reads, each once."""
        return _datasets(itertools.chain.from_iterable(self.sets.values()))

    @property
    def train_datasets(self) -> list[str]:
        """The datasets of the training sets."""
        return _datasets(self.train or [])

    @property
    def select_set(self) -> str | None:
        """The evaluation set that the checkpoint is selected on."""
        return self.select.set or self.dev

    @model_validator(mode="before")
    @classmethod
    def _case_follows_the_language(cls, values: Any) -> Any:
        return with_casing(values)

    @property
    def select_metric(self) -> Metric:
        """The metric that decides: the configured one, or the default for the language."""
        return self.select.metric or self._default_error_rate

    @property
    def error_rate(self) -> ErrorRate:
        """The error rate that decides; if the loss decides on the checkpoint, the default for the language."""
        return self._default_error_rate if self.select_metric == "loss" else self.select_metric

    @property
    def _default_error_rate(self) -> ErrorRate:
        return "wer" if separates_words(self.language) else "cer"

    @property
    def lm_unit(self) -> LmUnit:
        """The unit of the language model's n-grams: the configured one, or the default for the language."""
        unit = self.evaluation.lm.unit if self.evaluation.lm else None
        return unit or ("words" if separates_words(self.language) else "characters")

    @model_validator(mode="after")
    def _training_is_complete_or_absent(self) -> "Run":
        if self.trains:
            if self.evaluation.generation is not None:
                raise ValueError("`evaluation.generation` is only for `training: none`: training makes a CTC model")
            missing = [f"`{key}`" for key in _REQUIRED_FOR_TRAINING if getattr(self, key) is None]
            if missing:
                raise ValueError(
                    f"{_listed(missing)} required for training; to only score a model, set `training: none`"
                )
            return self
        defaults = {key: field.get_default() for key, field in type(self).model_fields.items()}
        # The metric also decides on the weights of the language model, and what pages and plots show first.
        given = self.model_copy(update={"select": self.select.model_copy(update={"metric": None})})
        extra = [f"`{key}`" for key in _ONLY_FOR_TRAINING if getattr(given, key) != defaults[key]]
        if extra:
            raise ValueError(f"{_listed(extra)} only for training: remove it, or `training: none`")
        if self.model.init is not None or self.model.config:
            raise ValueError(
                "with `training: none` the model is scored unchanged: give `model.base` or `model.run`, without `init`"
                " and `config`"
            )
        if self.evaluation.compare:
            raise ValueError(
                "`evaluation.compare` is for the card, and a run with `training: none` has none: remove it; the page of"
                " all runs compares any two"
            )
        if any(each.checkpoints == "selected" for each in self.evaluation.sets):
            raise ValueError(
                "with `training: none` there is nothing to select: remove `checkpoints` from `evaluation.sets`"
            )
        lm = self.evaluation.language_model
        if lm is not None and (self.dev is None or "training" in lm.text):
            raise ValueError(
                "with `training: none` the decoder `lm` needs `dev`, to tune its weights on, and `evaluation.lm` with"
                " `text: files` or `text: texts`, because there are no training clips"
            )
        return self

    @model_validator(mode="after")
    def _optimizer_runs_on_the_device(self) -> "Run":
        if self.finetune is not None and self.finetune.optimizer == "adamw_8bit" and self.device == "cpu":
            raise ValueError("`finetune.optimizer: adamw_8bit` needs a CUDA GPU: remove it, or `device: cpu`")
        return self

    @model_validator(mode="after")
    def _vocabulary_fits(self) -> "Run":
        if self.vocab == "keep" and not self.model.has_base:
            raise ValueError(
                "`vocab: keep` keeps the vocabulary of a base: give `model.base` or `model.run` instead of"
                " `model.init`, or remove `vocab`"
            )
        if self.vocab != "characters" and self.text.clusters:
            raise ValueError(
                "`text.clusters` adds tokens to a vocabulary of characters: remove it, or set `vocab: characters`"
            )
        return self

    @model_validator(mode="after")
    def _selection_is_evaluated(self) -> "Run":
        if not self.trains:
            return self
        select_set = self.evaluation.set_config(str(self.select_set))
        if self.select_set not in self.evaluation.set_names:
            raise ValueError(f"`evaluation.sets` lacks {self.select_set}, which the checkpoint is selected on; add it")
        if select_set.checkpoints != "all":
            raise ValueError(
                f"the checkpoint is selected on {self.select_set}: set `checkpoints: all` for it in `evaluation.sets`"
            )
        if self.select.decoder not in self.evaluation.decoders:
            raise ValueError(f"`evaluation.decoders` lacks {self.select.decoder}, the decoder to select by; add it")
        best, average = self.checkpoints.best, self.select.average
        if best is not None and average is not None and average > best:
            raise ValueError(
                f"`select.average` is {average}, but `checkpoints.best` keeps {best}: raise `best`, or lower `average`"
            )
        return self

    @model_validator(mode="after")
    def _exports_are_compared(self) -> "Run":
        if len(set(self.export)) < len(self.export):
            raise ValueError("`export` lists a precision twice")
        if self.export and "greedy" not in self.evaluation.decoders:
            raise ValueError(
                "`export` compares greedy hypotheses: add greedy to `evaluation.decoders`, or remove `export`"
            )
        return self

    @model_validator(mode="after")
    def _published_results_are_comparable(self) -> "Run":
        names = [each.name for each in self.published]
        for each in self.published:
            if names.count(each.name) > 1:
                raise ValueError(f"`published` lists {each.name} twice; put all its figures into one entry")
            for name in each.compared_sets:
                if name not in self.evaluation.set_names:
                    raise ValueError(
                        f"`published` of {each.name} refers to {name}, which `evaluation.sets` lacks;"
                        f"{nearest(name, self.evaluation.set_names)} add it, or remove `set` from `published`"
                    )
        return self


class Config(Section):
    """The configuration file."""

    speak: dict[Name, SpeakConfig] = Field(
        default_factory=dict,
        description="corpora that espeak-ng synthesises, packed like published ones; use `results/speak/{name}.tar.gz`"
        " as the `path` of a dataset",
    )
    datasets: dict[Name, Dataset] = Field(min_length=1, description="corpora by name")
    texts: dict[Name, TextSource] = Field(
        default_factory=dict, description="texts for language models by name, which `evaluation.lm.texts` lists"
    )
    runs: dict[Name, Run] = Field(min_length=1, description="models by name")

    _sweeps: list[Sweep] = PrivateAttr(default_factory=list)

    @model_validator(mode="wrap")
    @classmethod
    def _sweeps_become_runs(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        runs = values.get("runs") if isinstance(values, Mapping) else None
        if not isinstance(runs, Mapping):
            return handler(values)
        expanded, sweeps = expand(runs, Run)
        check_references({**values, "runs": expanded}, sweeps)
        config = handler({**values, "runs": expanded})
        config._sweeps.extend(sweeps)
        return config

    @property
    def sweeps(self) -> list[Sweep]:
        """The sweeps, each with the runs that were made of it."""
        return self._sweeps

    def sweep_of(self, run: str) -> Sweep | None:
        """Return the sweep that a run was made of, or None."""
        return next((sweep for sweep in self.sweeps if run in sweep.points), None)

    @model_validator(mode="before")
    @classmethod
    def _pieces_inherit(cls, values: Any) -> Any:
        datasets = values.get("datasets") if isinstance(values, Mapping) else None
        if not isinstance(datasets, Mapping):
            return values
        return {**values, "datasets": {name: with_inherited(name, datasets) for name in datasets}}

    @model_validator(mode="after")
    def _pieces_have_text_shards_and_models(self) -> "Config":
        for name, dataset in self.pieces.items():
            recordings = self.datasets[dataset.of]
            if isinstance(dataset, SegmentDataset) and not recordings.has_text:
                raise ValueError(
                    f"datasets.{name}.of: the recordings of {dataset.of} have no text to align, because"
                    f" datasets.{dataset.of}.columns.sentence is null; name the field with the transcripts there, or"
                    f" use `source: transcribe` for {name}"
                )
            for split in dataset.splits:
                if dataset.shard_count(split) != recordings.shard_count(split):
                    raise ValueError(
                        f"datasets.{name}.shards: it has as many shards as {dataset.of}; remove the key, and change"
                        f" datasets.{dataset.of}.shards instead"
                    )
            if dataset.model_run is not None and dataset.model_run not in self.runs:
                key = "by" if isinstance(dataset, TranscribeDataset) else "model.run"
                raise ValueError(
                    f"datasets.{name}.{key}: there is no run {dataset.model_run};"
                    f"{nearest(dataset.model_run, list(self.runs))} known runs are {', '.join(self.runs)}"
                )
        return self

    @property
    def pieces(self) -> dict[str, SegmentDataset | TranscribeDataset]:
        """The datasets that are made from the recordings of other datasets."""
        return {**self.segmented, **self.transcribed}

    @property
    def segmented(self) -> dict[str, SegmentDataset]:
        """The datasets that are made by alignment of transcripts."""
        return {name: each for name, each in self.datasets.items() if isinstance(each, SegmentDataset)}

    @property
    def transcribed(self) -> dict[str, TranscribeDataset]:
        """The datasets that the models of runs transcribe."""
        return {name: each for name, each in self.datasets.items() if isinstance(each, TranscribeDataset)}

    def cut_from(self, names: Iterable[str]) -> dict[str, str]:
        """Return the dataset that each of these datasets is cut from, and where that is cut from another, this too."""
        of = {name: self.pieces[name].of for name in names if name in self.pieces}
        return of | self.cut_from(of.values()) if of else {}

    def made_of(self, run: str) -> tuple[list[str], list[str]]:
        """Return the runs and the datasets that a run is made of, with itself: what comes first is listed first."""
        parts: list[str] = []

        def add(part: str) -> None:
            if part not in parts:
                for each in self._parts(part):
                    add(each)
                parts.append(part)

        add(f"runs.{run}")
        runs = [part.removeprefix("runs.") for part in parts if part.startswith("runs.")]
        return runs, [part.removeprefix("datasets.") for part in parts if part.startswith("datasets.")]

    def _parts(self, part: str) -> list[str]:
        """Return the runs and datasets that a run or dataset is directly made of, such as `runs.demo`."""
        kind, name = part.split(".")
        if kind == "runs":
            run = self.runs[name]
            return [
                *([f"runs.{run.model.run}"] if run.model.run else []),
                *(f"datasets.{each}" for each in run.datasets),
            ]
        pieces = self.pieces.get(name)
        if pieces is None:
            return []
        return [f"datasets.{pieces.of}", *([f"runs.{pieces.model_run}"] if pieces.model_run else [])]

    def ingested(self, name: str) -> IngestedDataset:
        """Return the dataset with the recordings of a dataset: itself, or the one that it is made from."""
        dataset = self.datasets[name]
        return self.ingested(dataset.of) if isinstance(dataset, SegmentDataset | TranscribeDataset) else dataset

    @model_validator(mode="after")
    def _sets_exist(self) -> "Config":
        known = [f"{name}-{split}" for name, dataset in self.datasets.items() for split in dataset.set_names]
        for run_name, run in self.runs.items():
            for key, sets in run.sets.items():
                for missing in sorted(set(sets) - set(known)):
                    raise ValueError(
                        f"runs.{run_name}.{key}: no dataset has the set {missing};{nearest(missing, known)} known sets"
                        f" are {', '.join(known)}"
                    )
            for key, name in (
                *((needs, each) for needs in ("train", "dev") for each in run.sets[needs]),
                *(("select.set", each) for each in [run.select.set] if each),
            ):
                if self.datasets[name.split("-")[0]].optional:
                    raise ValueError(
                        f"runs.{run_name}.{key}: {name} belongs to an optional dataset, but a run needs it; set"
                        f" datasets.{name.split('-')[0]}.optional to false"
                    )
        return self

    @model_validator(mode="after")
    def _sets_have_text(self) -> "Config":
        for run_name, run in self.runs.items():
            for key, sets in run.sets.items():
                for name in _datasets(sets):
                    if not self.datasets[name].has_text:
                        raise ValueError(
                            f"runs.{run_name}.{key}: the recordings of {name} have no text, because"
                            f" datasets.{name}.columns.sentence is null; use a dataset with `source: transcribe` and"
                            f" `of: {name}`"
                        )
        return self

    @model_validator(mode="after")
    def _mixed_groups_exist(self) -> "Config":
        for name, run in self.runs.items():
            if run.mixing is None:
                continue
            datasets, by = run.train_datasets, run.mixing.by
            known = datasets if by == "dataset" else list(dict.fromkeys(self.datasets[d].language for d in datasets))
            for missing in sorted(set(run.mixing.weights) - set(known)):
                raise ValueError(
                    f"runs.{name}.mixing.weights: `train` has no {by} {missing};{nearest(missing, known)} it has"
                    f" {', '.join(known)}"
                )
        return self

    @model_validator(mode="after")
    def _base_runs_exist(self) -> "Config":
        bases = {name: run.model.run for name, run in self.runs.items() if run.model.run is not None}
        for name, base in bases.items():
            if base not in self.runs:
                raise ValueError(
                    f"runs.{name}.model.run: there is no run {base};{nearest(base, list(self.runs))} known runs are"
                    f" {', '.join(self.runs)}"
                )
            if circle := find_circle(name, lambda each: [bases[each]] if each in bases else []):
                raise ValueError(f"runs.{circle[0]}.model.run: circular, {' starts from '.join(circle)}")
            if not self.runs[base].trains:
                raise ValueError(f"runs.{name}.model.run: the run {base} trains no model; use its `model.base` instead")
        return self

    @model_validator(mode="after")
    def _compared_runs_are_comparable(self) -> "Config":
        for name, run in self.runs.items():
            for other in run.evaluation.compare:
                key = f"runs.{name}.evaluation.compare"
                if other == name:
                    raise ValueError(f"{key}: it lists the run itself; remove {name}")
                if other not in self.runs:
                    raise ValueError(
                        f"{key}: there is no run {other};{nearest(other, list(self.runs))} known runs are"
                        f" {', '.join(self.runs)}"
                    )
                self._check_comparison(key, run, other)
        return self

    def _check_comparison(self, key: str, run: Run, other: str) -> None:
        """Raise ValueError if the scores of two runs can be compared on no set, or on one of them not."""
        evaluation, theirs = run.evaluation, self.runs[other].evaluation
        shared = [name for name in evaluation.set_names if name in theirs.set_names]
        if not shared:
            raise ValueError(
                f"{key}: {other} scores none of the same sets, which are {', '.join(evaluation.set_names)}; add one to"
                f" runs.{other}.evaluation.sets"
            )
        # What the units of the models are changes no reference.
        rules = TextConfig.model_fields.keys() - {"units", "clusters"}
        differing = [each for each in rules if getattr(run.text, each) != getattr(self.runs[other].text, each)]
        if differing:
            raise ValueError(
                f"{key}: {other} has other text rules, `text.{'`, `text.'.join(sorted(differing))}`, so that its"
                f" references are others; give runs.{other}.text the same values"
            )
        for name in shared:
            protocols = [each.set_config(name).protocols[0] for each in (evaluation, theirs)]
            if protocols[0] != protocols[1]:
                raise ValueError(
                    f"{key}: {other} scores {name} by the protocol {protocols[1]}, and this run by {protocols[0]}; list"
                    " the same protocol first in `protocols` of both"
                )

    @model_validator(mode="after")
    def _nothing_is_made_of_itself(self) -> "Config":
        # After the checks that all sets and runs exist, which it follows.
        for name in self.pieces:
            if circle := find_circle(f"datasets.{name}", self._parts):
                raise ValueError(
                    f"{circle[0]}: circular, {' is made of '.join(circle)}; let another run align or transcribe, such"
                    " as one that is trained without that dataset"
                )
        return self

    @model_validator(mode="after")
    def _texts_exist(self) -> "Config":
        for name, run in self.runs.items():
            lm = run.evaluation.language_model
            for missing in sorted(set(lm.texts if lm else []) - set(self.texts)):
                raise ValueError(
                    f"runs.{name}.evaluation.lm.texts: there is no text {missing};"
                    f"{nearest(missing, list(self.texts))} known texts are {', '.join(self.texts) or 'none'}"
                )
        return self

    @model_validator(mode="after")
    def _settings_fit_the_architecture(self) -> "Config":
        for name, run in self.runs.items():
            init = self.start(name).init
            for error in export_errors(init["model_type"]) if init is not None and run.export else []:
                raise ValueError(f"runs.{name}.{error}")
            if init is not None and run.finetune is not None:
                for error in adapter_errors(init | run.model.config, run.finetune):
                    raise ValueError(f"runs.{name}.{error}")
        return self

    def start(self, run: str) -> ModelConfig:
        """Return the section with the base or the random weights that a run starts from, perhaps through other runs."""
        return self.runs[[run, *self.base_runs(run)][-1]].model

    def base_runs(self, run: str) -> list[str]:
        """Return the runs that a run starts from, the nearest first."""
        base = self.runs[run].model.run
        return [] if base is None else [base, *self.base_runs(base)]


def load(raw: Mapping[str, Any]) -> Config:
    """Return the typed configuration for the values of the YAML files and the command line.

    Raises:
        SpeechmillError: The configuration is invalid; the message has one line for each error, with the key and what to
            write instead.
    """
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        lines = [f"  {_message(dict(each))}" for each in error.errors()]
        raise SpeechmillError("\n".join(["the configuration is invalid:", *lines])) from error


def _message(error: dict[str, Any]) -> str:
    tags = {"common_voice", "folder", "hub", "segment", "transcribe", "zeroth"}
    path = [str(part) for i, part in enumerate(error["loc"]) if not (i == 2 and part in tags)]
    key = ".".join(path) or "configuration"
    if error["type"] == "extra_forbidden":
        known = _known_keys(error["loc"])
        if (renamed := _RENAMED.get(path[-1])) in known:
            return f"{key}: unknown key `{path[-1]}`; it is called `{renamed}` now"
        return f"{key}: unknown key `{path[-1]}`;{nearest(path[-1], known)} known keys are {', '.join(known)}"
    if error["type"] == "missing":
        return f"{key}: this key is required"
    message = error["msg"].removeprefix("Value error, ")
    return f"{key}: {message}" + (
        f" (found {error['input']!r})" if isinstance(error["input"], str | int | float) else ""
    )


def _datasets(sets: Iterable[str]) -> list[str]:
    """Return the names of the datasets of `sets`, each once."""
    return list(dict.fromkeys(name.split("-")[0] for name in sets))


def _listed(keys: list[str]) -> str:
    return f"{' and '.join(keys)} {'is' if len(keys) == 1 else 'are'}"


def _known_keys(location: tuple[str | int, ...]) -> list[str]:
    """Return the keys of the section that contains the key at `location`, a location in an error of pydantic."""
    schema = Config.model_json_schema()
    node: dict[str, Any] = schema
    for part in location[:-1]:
        node = _resolve(node, schema)
        if "oneOf" in node and str(part) in node.get("discriminator", {}).get("mapping", {}):
            node = {"$ref": node["discriminator"]["mapping"][str(part)]}
        elif str(part) in node.get("properties", {}):
            node = node["properties"][str(part)]
        elif str(part) in schema["$defs"]:
            # Where a value can have several types, pydantic adds the type to the location.
            node = schema["$defs"][str(part)]
        elif isinstance(part, int):
            node = node["items"]
        else:
            # A mapping with free names, whose values all have the same schema.
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
