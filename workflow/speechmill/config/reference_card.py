"""Section `runs.*.reference_card`: the contents of the published model card that a run reproduces."""

from typing import Literal

from pydantic import Field, model_validator

from speechmill.config.base import EvalSet, Section
from speechmill.config.evaluation import Decoder, Protocol

TRAINING_COLUMNS = ["Training Loss", "Epoch", "Step", "Validation Loss"]
"""The first columns of the training table in every card written by the Trainer; metrics follow."""


class ReferenceMetric(Section):
    """A metric in the `model-index` of the published card."""

    type: str = Field(description="id of the metric; `wer` and `cer` are compared to those of the run")
    name: str | None = Field(None, description="name of the metric, such as `Test WER`")
    value: float = Field(description="value in the card; WER and CER in percent")
    decoder: Decoder = Field("greedy", description="decoder behind the value; `lm` with a language model")


class ReferenceResult(Section):
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
    metrics: list[ReferenceMetric] = Field(min_length=1, description="metrics on the dataset")
    protocol: Protocol = Field(
        "robust_speech_event", description="protocol of the run that scores texts as the published evaluation did"
    )
    remark: str | None = Field(None, description="other differences from how this run scores the set, for the card")


class ReferenceEvaluation(Section):
    """The results at the top of the card's body: those of the Trainer, comparable to the protocol `plain`."""

    set: EvalSet | None = Field(None, description="set of `evaluation.sets` to compare the results to, if there is one")
    loss: float | None = Field(None, ge=0, description="`Loss`")
    wer: float | None = Field(None, ge=0, description="`Wer`, as a fraction")
    cer: float | None = Field(None, ge=0, description="`Cer`, as a fraction")
    remark: str | None = Field(None, description="differences from how this run scores the set, for the card")


class ReferenceTraining(Section):
    """The table `Training results` in the card."""

    columns: list[str] = Field(
        [*TRAINING_COLUMNS, "Wer"],
        description="column names: `" + "`, `".join(TRAINING_COLUMNS) + "`, then the metrics",
    )
    rows: list[list[int | float | Literal["No log"]]] = Field(
        min_length=1, description="one list of numbers per row; `No log` where no training loss had been logged yet"
    )

    @model_validator(mode="after")
    def _rows_fit_the_columns(self) -> "ReferenceTraining":
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


class ReferenceCard(Section):
    """The contents of a card written by the Trainer; omit what the card does not contain."""

    model: str = Field(pattern=r"^[\w.-]+/[\w.-]+$", description="id of the model on the Hub, `owner/name`")
    title: str = Field(description="name of the model in its `model-index`")
    language: str | list[str] | None = Field(None, description="`language` of its front matter")
    licence: str | None = Field(None, description="`license` of its front matter")
    library: str | None = Field(None, description="`library_name` of its front matter")
    base_model: str | None = Field(None, description="`base_model` of its front matter")
    tags: list[str] = Field(default_factory=list, description="`tags` of its front matter")
    datasets: list[str] = Field(default_factory=list, description="`datasets` of its front matter")
    metrics: list[str] = Field(default_factory=list, description="`metrics` of its front matter")
    results: list[ReferenceResult] = Field(default_factory=list, description="entries of its `model-index`")
    base: str | None = Field(None, description="base model named in its body (`fine-tuned version of …`)")
    trained_on: str | None = Field(None, description="training data named in its body, word for word")
    evaluation: ReferenceEvaluation | None = Field(
        None, description="results at the top of its body, on `the evaluation set`"
    )
    hyper_parameters: dict[str, int | float | str] = Field(
        default_factory=dict, description="list `Training hyperparameters` of its body, in the same order"
    )
    training: ReferenceTraining | None = Field(None, description="table `Training results` of its body")
    versions: dict[str, str] = Field(
        default_factory=dict, description="list `Framework versions` of its body, in the same order"
    )

    @property
    def sets(self) -> list[str]:
        """The evaluation sets whose scores are compared to the card."""
        return [each.set for each in (self.evaluation, *self.results) if each is not None and each.set is not None]
