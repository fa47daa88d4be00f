"""Section `runs.*.published`: published results, such as those of a model card, to compare the results of a run to."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Field, model_validator

from speechmill.config.base import EvalSet, Section, nearest
from speechmill.config.evaluation import Decoder, Protocol

TRAINING_COLUMNS = ["Training Loss", "Epoch", "Step", "Validation Loss"]
"""The first columns of the training table in every card written by the Trainer; metrics follow."""


class PublishedMetric(Section):
    """A metric in the `model-index` of the published card."""

    type: str = Field(description="id of the metric; `wer` and `cer` are compared to those of the run")
    name: str | None = Field(None, description="name of the metric, such as `Test WER`")
    value: float = Field(description="value in the card; WER and CER in percent")
    decoder: Decoder = Field("greedy", description="decoder behind the value; `lm` with a language model")


class PublishedResult(Section):
    """An entry in the `model-index` of the published card: the metrics on one dataset."""

    set: EvalSet | None = Field(None, description="set of `evaluation.sets` to compare the metrics to, if there is one")
    name: str = Field(description="name of the dataset")
    type: str = Field(description="id of the dataset on the Hugging Face Hub")
    args: str | dict[str, str] | None = Field(None, description="`args` of the dataset, in older cards, such as `ru`")
    config: str | None = Field(None, description="configuration of the dataset")
    split: str | None = Field(None, description="split of the dataset")
    revision: str | None = Field(None, description="revision of the dataset")
    task: str = Field("automatic-speech-recognition", description="id of the task")
    task_name: str | None = Field("Automatic Speech Recognition", description="name of the task")
    metrics: list[PublishedMetric] = Field(min_length=1, description="metrics on the dataset")
    protocol: Protocol = Field(
        "robust_speech_event", description="protocol of the run that scores texts as the published evaluation did"
    )
    remark: str | None = Field(None, description="other differences from how this run scores the set, for the card")


class PublishedEvaluation(Section):
    """The results at the top of the card's body: those of the Trainer, comparable to the protocol `plain`."""

    set: EvalSet | None = Field(None, description="set of `evaluation.sets` to compare the results to, if there is one")
    loss: float | None = Field(None, ge=0, description="`Loss`")
    wer: float | None = Field(None, ge=0, description="`Wer`, as a fraction")
    cer: float | None = Field(None, ge=0, description="`Cer`, as a fraction")
    remark: str | None = Field(None, description="differences from how this run scores the set, for the card")


class PublishedTraining(Section):
    """The table `Training results` in the card."""

    columns: list[str] = Field(
        [*TRAINING_COLUMNS, "Wer"],
        description="column names: `" + "`, `".join(TRAINING_COLUMNS) + "`, then the metrics",
    )
    rows: list[list[int | float | Literal["No log"]]] = Field(
        min_length=1, description="one list of numbers per row; `No log` where no training loss had been logged yet"
    )

    @model_validator(mode="after")
    def _rows_fit_the_columns(self) -> "PublishedTraining":
        first = len(TRAINING_COLUMNS)
        if self.columns[:first] != TRAINING_COLUMNS or len(set(self.columns)) < len(self.columns):
            raise ValueError(f"`columns` must start with {', '.join(TRAINING_COLUMNS)}, and list no column twice")
        for number, row in enumerate(self.rows, 1):
            if len(row) != len(self.columns):
                raise ValueError(f"row {number} of `rows` has {len(row)} cells for {len(self.columns)} `columns`")
            if "No log" in row[1:]:
                raise ValueError(f"row {number} of `rows` has `No log` outside the first cell")
        steps = [row[2] for row in self.rows if isinstance(row[2], int)]
        if len(steps) < len(self.rows) or steps != sorted(set(steps)):
            raise ValueError("the steps, in the third cell of each of `rows`, must be ascending integers")
        return self


class PublishedScore(Section):
    """WER and CER on one set, for figures that are in no `model-index`."""

    set: EvalSet = Field(description="set of `evaluation.sets` to compare the figures to")
    wer: float | None = Field(None, ge=0, description="WER in percent")
    cer: float | None = Field(None, ge=0, description="CER in percent")
    decoder: Decoder = Field("greedy", description="decoder to compare with; `lm` for figures with a language model")
    protocol: Protocol = Field(
        "plain", description="protocol of the run that is most like the scoring of the published evaluation"
    )
    remark: str | None = Field(None, description="other differences from how this run scores the set, for the card")

    @model_validator(mode="after")
    def _has_a_rate(self) -> "PublishedScore":
        if self.wer is None and self.cer is None:
            raise ValueError("give `wer`, `cer`, or both")
        return self


class Published(Section):
    """Published results of one model: the contents of its card, or figures from elsewhere."""

    model: str | None = Field(
        None, pattern=r"^[\w.-]+/[\w.-]+$", description="id of the model on the Hub, `owner/name`, if it is there"
    )
    title: str = Field(description="name of the model; with a card, that in its `model-index`")
    source: str | None = Field(
        None,
        description="where the figures are from, for the reader: a web address or the name of a document; default: the"
        " page of `model` on the Hub, or the name of the file `card`",
    )
    differs: str | None = Field(
        None,
        description="what differs from this run in training data, decoding or protocol, for the card; `remark` has what"
        " concerns one figure",
    )
    card: str | None = Field(
        None,
        description="path of the model card, a file in Markdown: `title` and `results` are read from it, unless given"
        " here; error rates in its `model-index` must be in percent, and are taken as those with a"
        " language model if their name has `LM`, as in `Test WER (+LM)`",
    )
    sets: dict[str, EvalSet] = Field(
        default_factory=dict,
        description="with `card`: set of `evaluation.sets` to compare the results on a dataset to, by the name of the"
        " dataset in the card",
    )
    scores: list[PublishedScore] = Field(default_factory=list, description="WER and CER by set, without a card")
    language: str | list[str] | None = Field(None, description="`language` of its front matter")
    licence: str | None = Field(None, description="`license` of its front matter")
    library: str | None = Field(None, description="`library_name` of its front matter")
    base_model: str | None = Field(None, description="`base_model` of its front matter")
    tags: list[str] = Field(default_factory=list, description="`tags` of its front matter")
    datasets: list[str] = Field(default_factory=list, description="`datasets` of its front matter")
    metrics: list[str] = Field(default_factory=list, description="`metrics` of its front matter")
    results: list[PublishedResult] = Field(default_factory=list, description="entries of its `model-index`")
    base: str | None = Field(None, description="base model named in its body (`fine-tuned version of …`)")
    trained_on: str | None = Field(None, description="training data named in its body, word for word")
    evaluation: PublishedEvaluation | None = Field(
        None, description="results at the top of its body, on `the evaluation set`"
    )
    hyper_parameters: dict[str, int | float | str] = Field(
        default_factory=dict, description="list `Training hyperparameters` of its body, in the same order"
    )
    training: PublishedTraining | None = Field(None, description="table `Training results` of its body")
    versions: dict[str, str] = Field(
        default_factory=dict, description="list `Framework versions` of its body, in the same order"
    )

    @model_validator(mode="before")
    @classmethod
    def _card_is_read(cls, values: Any) -> Any:
        # The evidence of a model contains this section without the file, so that the results replace its path.
        if not isinstance(values, Mapping) or values.get("card") is None:
            return values
        path = Path(str(values["card"]))
        given = {key: value for key, value in values.items() if key not in ("card", "sets")}
        source = {} if given.get("model") else {"source": path.name}
        return source | _read_card(path, values.get("sets") or {}) | given

    @model_validator(mode="after")
    def _has_a_source(self) -> "Published":
        if self.model is None and self.source is None:
            raise ValueError("give `source`, where the figures are from, or `model`, the id on the Hub")
        if self.sets:
            raise ValueError("`sets` needs `card`; otherwise give `set` with each of the figures")
        return self

    @property
    def name(self) -> str:
        """The id on the Hub, or the title of a model that is not there."""
        return self.model or self.title

    @property
    def where(self) -> str:
        """Where the figures are from: a web address, or the name of a document."""
        return self.source or f"https://huggingface.co/{self.model}"

    @property
    def address(self) -> str | None:
        """The web address of the source, if it has one."""
        return self.where if re.fullmatch(r"https?://[^\s<>()]+", self.where) else None

    @property
    def compared_sets(self) -> list[str]:
        """The evaluation sets whose scores are compared to the figures."""
        figures = (self.evaluation, *self.results, *self.scores)
        return [each.set for each in figures if each is not None and each.set is not None]


def _one_is_a_list(value: object) -> object:
    return [value] if isinstance(value, Mapping) else value


PublishedList = Annotated[list[Published], BeforeValidator(_one_is_a_list)]
"""Published results of several models; a single one needs no list, as in release 0.1.0."""


def _read_card(path: Path, sets: Mapping[str, str]) -> dict[str, Any]:
    """Return `title` and `results` of the card at `path`, with the set of each dataset in `sets`.

    Raises:
        ValueError: The file is missing or is no model card, or has no dataset of `sets`.
    """
    if not path.is_file():
        raise ValueError(f"`card`: there is no file {path}; paths are relative to the folder that snakemake runs in")
    try:
        parts = re.split(r"^---[ \t]*$", path.read_text(encoding="utf-8-sig"), maxsplit=2, flags=re.MULTILINE)
        (entry, *_) = yaml.safe_load(parts[1])["model-index"]
        results = [
            {
                key: value
                for key, value in (
                    ("set", sets.get(each["dataset"]["name"])),
                    *(
                        (key, each["dataset"].get(key))
                        for key in ("name", "type", "args", "config", "split", "revision")
                    ),
                    ("metrics", [_metric(metric) for metric in each["metrics"]]),
                )
                if value is not None
            }
            for each in entry["results"]
        ]
    except (yaml.YAMLError, LookupError, TypeError, ValueError) as error:
        raise ValueError(
            f"`card`: {path} has no front matter with a `model-index` and its results"
            f" ({type(error).__name__}: {error}); give the figures as `scores` instead"
        ) from error
    names = [each["name"] for each in results]
    for name in sets:
        if name not in names:
            raise ValueError(
                f"`sets`: {path} has no results on the dataset {name};{nearest(name, names)} it has {', '.join(names)}"
            )
    return {"title": entry["name"], "results": results}


def _metric(metric: Mapping[str, Any]) -> dict[str, Any]:
    name = str(metric.get("name") or "")
    with_lm = re.search(r"\bLM\b|language model", name, re.IGNORECASE)
    without = re.search(r"\b(no|without|w/o)\b", name, re.IGNORECASE)
    return {
        "type": metric["type"],
        **({"name": name} if name else {}),
        "value": metric["value"],
        "decoder": "lm" if with_lm and not without else "greedy",
    }
