"""Datasets that are made from another dataset: its recordings, cut into clips by a model."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from speechmill.config.base import Name, Section
from speechmill.config.finetune import Device
from speechmill.config.model import ModelConfig
from speechmill.config.text import TextConfig, with_casing


class _Pieces(Section):
    """What is cut, and how long the clips are."""

    of: Name = Field(description="dataset whose recordings are cut into clips")
    language: str = Field("", description="language code, such as `ru`; default: that of `of`")
    min_seconds: float = Field(1.0, gt=0, description="shortest clip")
    max_seconds: float = Field(20.0, gt=0, description="longest clip")

    @model_validator(mode="after")
    def _lengths_are_a_range(self) -> "_Pieces":
        if self.max_seconds < 2 * self.min_seconds:
            raise ValueError(
                f"`max_seconds` is {self.max_seconds:g} and `min_seconds` {self.min_seconds:g}: it must be at least"
                " twice as long, so that recordings of any length can be cut"
            )
        return self


class Segment(_Pieces):
    """Long recordings with their transcripts, cut into clips by forced alignment."""

    source: Literal["segment"] = Field(
        description="the clips are parts of the recordings of the dataset `of`, to which their transcripts are aligned"
    )
    model: ModelConfig = Field(
        description="CTC model that aligns: a `base` that is fine-tuned for the language, or a `run` of this"
        " configuration"
    )
    device: Device = Field("gpu", description="device for the model; `auto` uses a GPU if there is one")
    text: TextConfig | None = Field(
        None,
        description="how transcripts are normalised for the alignment, such as `{digits: ru}`; the clips have them as"
        " written. Afterwards they get the case of the model's vocabulary, without the characters that it lacks."
        " Default: as in the run `model.run`",
    )
    min_score: float = Field(
        -1.5,
        le=0,
        description="lowest score of a clip that is kept. The score is that of the worst part of the clip, of a few"
        " tokens: the mean log-probability (natural logarithm) of the text minus that of what the model prefers; 0 is a"
        " perfect match. To choose a value, listen to the clips in the dataset's audit; a change aligns nothing again",
    )

    @property
    def threshold(self) -> float:
        """The lowest score of a clip that is kept."""
        return self.min_score

    @property
    def model_run(self) -> str | None:
        """The run whose model aligns, if it is a run's."""
        return self.model.run

    @model_validator(mode="before")
    @classmethod
    def _case_follows_the_language(cls, values: Any) -> Any:
        # Without `text`, the rules are those of a run.
        return with_casing(values) if isinstance(values, Mapping) and "text" in values else values

    @model_validator(mode="after")
    def _model_is_used_unchanged(self) -> "Segment":
        if self.model.init is not None or self.model.config:
            raise ValueError("`model` aligns as it is: give `model.base` or `model.run`, without `init` and `config`")
        if self.model.trained_on or self.model.released:
            raise ValueError("`trained_on` and `released` are about models that are scored; remove them from `model`")
        return self


class Transcribe(_Pieces):
    """Recordings without text, cut at pauses and transcribed by the model of a run."""

    source: Literal["transcribe"] = Field(
        description="the clips are the speech in the recordings of the dataset `of`, with machine-made transcripts"
    )
    by: Name = Field(
        description="run whose model transcribes, with its language model if `evaluation.decoders` has `lm`"
    )
    min_confidence: float = Field(
        0.8,
        ge=0,
        le=1,
        description="lowest confidence of a clip that is kept, from 0 to 1: the probability that the model gives the"
        " hypothesis, as the geometric mean over its tokens; a change transcribes nothing again",
    )

    @property
    def threshold(self) -> float:
        """The lowest score of a clip that is kept."""
        return self.min_confidence

    @property
    def model_run(self) -> str:
        """The run whose model transcribes."""
        return self.by
