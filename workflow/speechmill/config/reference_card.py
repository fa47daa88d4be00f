"""Section `runs.*.reference_card`: what a published card says of the model that a run makes again, figure by figure."""

from typing import Literal

from pydantic import Field, model_validator

from speechmill.config.base import EvalSet, Section
from speechmill.config.evaluation import Decoder, Protocol

TRAINING_COLUMNS = ["Training Loss", "Epoch", "Step", "Validation Loss"]
"""The columns that the training table of every card of the Trainer begins with; those of the metrics follow."""


class ReferenceMetric(Section):
    """A figure of the published card's `model-index`."""

    type: str = Field(description="the metric's id: `wer` and `cer` are held against this run's")
    name: str | None = Field(None, description="the metric's name: `Test WER`")
    value: float = Field(description="the figure as the card has it; WER and CER in percent")
    decoder: Decoder = Field("greedy", description="how the published model decoded: `lm` with a language model")


class ReferenceResult(Section):
    """An entry of the published card's `model-index`: what is said of one dataset."""

    set: EvalSet | None = Field(
        None, description="the one of `evaluation.sets` that its figures are held against, where there is one"
    )
    name: str = Field(description="the dataset's name")
    type: str = Field(description="the dataset's id on the Hugging Face Hub")
    args: str | dict[str, str] | None = Field(None, description="`args` of the dataset, as older cards have it: `ru`")
    config: str | None = Field(None, description="the dataset's configuration")
    split: str | None = Field(None, description="the dataset's split")
    revision: str | None = Field(None, description="the dataset's revision")
    task: str = Field("automatic-speech-recognition", description="the task's id")
    task_name: str | None = Field("Automatic Speech Recognition", description="the task's name")
    metrics: list[ReferenceMetric] = Field(min_length=1, description="its figures")
    protocol: Protocol = Field(
        "robust_speech_event", description="which of the run's protocols for the set compares texts as was done there"
    )
    remark: str | None = Field(None, description="what else differs from how this run scores the set")


class ReferenceEvaluation(Section):
    """The figures that the body of the card opens with: the Trainer's own, by the protocol `plain`."""

    set: EvalSet | None = Field(
        None, description="the one of `evaluation.sets` that they are held against, where there is one"
    )
    loss: float | None = Field(None, ge=0, description="`Loss`")
    wer: float | None = Field(None, ge=0, description="`Wer`, a fraction")
    cer: float | None = Field(None, ge=0, description="`Cer`, a fraction")
    remark: str | None = Field(None, description="what differs from how this run scores the set")


class ReferenceTraining(Section):
    """The table `Training results` of the card."""

    columns: list[str] = Field(
        [*TRAINING_COLUMNS, "Wer"],
        description="the headings: `" + "`, `".join(TRAINING_COLUMNS) + "`, then those of the metrics",
    )
    rows: list[list[int | float | Literal["No log"]]] = Field(
        min_length=1, description="a list of numbers a row; `No log` where no training loss had been logged yet"
    )

    @model_validator(mode="after")
    def _rows_fit_the_columns(self) -> "ReferenceTraining":
        first = len(TRAINING_COLUMNS)
        if self.columns[:first] != TRAINING_COLUMNS or len(set(self.columns)) < len(self.columns):
            raise ValueError(f"`columns` begin with {', '.join(TRAINING_COLUMNS)}, and none is listed twice")
        for number, row in enumerate(self.rows, 1):
            if len(row) != len(self.columns):
                raise ValueError(f"row {number} of `rows` has {len(row)} cells, and `columns` are {len(self.columns)}")
            if "No log" in row[1:]:
                raise ValueError(f"row {number} of `rows` says `No log` elsewhere than in its first cell")
        steps = [row[2] for row in self.rows if isinstance(row[2], int)]
        if len(steps) < len(self.rows) or steps != sorted(set(steps)):
            raise ValueError("the steps, in the third cell of each of `rows`, are whole numbers that grow")
        return self


class ReferenceCard(Section):
    """All that a card made by the Trainer says; what it leaves out is left out here."""

    model: str = Field(pattern=r"^[\w.-]+/[\w.-]+$", description="the model's id on the Hugging Face Hub, `owner/name`")
    title: str = Field(description="the name in its `model-index`")
    language: str | list[str] | None = Field(None, description="`language` of its front matter")
    licence: str | None = Field(None, description="`license` of its front matter")
    library: str | None = Field(None, description="`library_name` of its front matter")
    base_model: str | None = Field(None, description="`base_model` of its front matter")
    tags: list[str] = Field(default_factory=list, description="`tags` of its front matter")
    datasets: list[str] = Field(default_factory=list, description="`datasets` of its front matter")
    metrics: list[str] = Field(default_factory=list, description="`metrics` of its front matter")
    results: list[ReferenceResult] = Field(default_factory=list, description="the entries of its `model-index`")
    base: str | None = Field(None, description="the model that it is a fine-tuned version of, as its body has it")
    trained_on: str | None = Field(None, description="what it was trained on, as its body words it")
    evaluation: ReferenceEvaluation | None = Field(
        None, description="the results that its body opens with, on `the evaluation set`"
    )
    hyper_parameters: dict[str, int | float | str] = Field(
        default_factory=dict, description="the list `Training hyperparameters` of its body, in its order"
    )
    training: ReferenceTraining | None = Field(None, description="the table `Training results` of its body")
    versions: dict[str, str] = Field(
        default_factory=dict, description="the list `Framework versions` of its body, in its order"
    )

    @property
    def sets(self) -> list[str]:
        """The evaluation sets that figures are held against."""
        return [each.set for each in (self.evaluation, *self.results) if each is not None and each.set is not None]
