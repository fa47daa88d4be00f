"""Sections `runs.*.evaluation` and `runs.*.select`: what is scored, and which checkpoint is taken."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from speechmill.config.base import EvalSet, Section
from speechmill.config.lm import LmConfig
from speechmill.config.robustness import RobustnessConfig

Decoder = Literal["greedy", "lm"]


Protocol = Literal["plain", "robust_speech_event"]


class SetConfig(Section):
    """An evaluation set and how it is scored; its name alone is understood."""

    set: EvalSet = Field(description="the evaluation set, `{dataset}-{split}`")
    protocols: list[Protocol] = Field(
        ["plain"],
        min_length=1,
        description="which texts are compared: `plain`, reference and hypothesis after the run's text rules, or"
        " `robust_speech_event`, as `eval.py` of the Robust Speech Event has it; the first gives the figure that plots"
        " and choices go by",
    )
    chunk_seconds: float | None = Field(
        None, gt=0, description="the model hears a recording in chunks of this length; unless given, as a whole"
    )
    stride_seconds: float | None = Field(
        None,
        ge=0,
        description="what neighbouring chunks have in common on each side of where they are joined; unless given, a"
        " sixth of `chunk_seconds`, as in the pipeline of transformers",
    )
    checkpoints: Literal["all", "selected"] = Field(
        "all", description="which checkpoints are scored on it: each that was kept, or the one that became the model"
    )

    @model_validator(mode="after")
    def _chunks_advance(self) -> "SetConfig":
        if self.chunk_seconds is None and self.stride_seconds is not None:
            raise ValueError("`stride_seconds` belongs to `chunk_seconds`: give both, or neither")
        if self.chunk_seconds is not None and 2 * (self.stride_seconds or 0) >= self.chunk_seconds:
            raise ValueError("twice `stride_seconds` must be less than `chunk_seconds`, which leaves no chunk to keep")
        if len(set(self.protocols)) < len(self.protocols):
            raise ValueError("a protocol is listed twice")
        return self

    @property
    def stride(self) -> float:
        """What neighbouring chunks have in common on each side, in seconds."""
        return (self.chunk_seconds or 0) / 6 if self.stride_seconds is None else self.stride_seconds


def _named(value: object) -> object:
    return {"set": value} if isinstance(value, str) else value


class EvaluationConfig(Section):
    """What every checkpoint is scored on, and how."""

    sets: list[Annotated[SetConfig, BeforeValidator(_named, json_schema_input_type=SetConfig | EvalSet)]] = Field(
        min_length=1, description="the evaluation sets, each `{dataset}-{split}`, or a section with such a `set`"
    )
    decoders: list[Decoder] = Field(
        ["greedy"],
        min_length=1,
        description="how frames become text: `greedy`, or `lm`, by beam search with an n-gram language model",
    )
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        "fp32", description="the precision of the forward pass; on a GPU the 16-bit ones are several times as fast"
    )
    batch_seconds: float = Field(
        120.0, gt=0, description="seconds of audio a forward pass of the evaluation, padding included"
    )
    lm: LmConfig | None = Field(None, description="the language model of the decoder `lm`")
    robustness: RobustnessConfig | None = Field(
        None, description="changed copies of evaluation sets that the selected checkpoint is scored on as well"
    )

    worst_clips: int = Field(
        20, ge=0, description="clips with the most errors on the page that shows those of each set; 0 makes no pages"
    )

    @model_validator(mode="after")
    def _listed_once(self) -> "EvaluationConfig":
        if len(set(self.set_names)) < len(self.sets):
            raise ValueError("`sets` lists a set twice")
        if len(set(self.decoders)) < len(self.decoders):
            raise ValueError("`decoders` lists a decoder twice")
        return self

    @model_validator(mode="after")
    def _what_is_said_is_used(self) -> "EvaluationConfig":
        if self.lm is not None and "lm" not in self.decoders:
            raise ValueError("`lm` belongs to the decoder `lm`: list it in `decoders`, or leave the section out")
        for name in self.robustness.sets if self.robustness else []:
            if name not in self.set_names:
                raise ValueError(f"`robustness.sets` has {name}, which `sets` lacks: copies are held against it")
        return self

    @property
    def set_names(self) -> list[str]:
        """The names of the evaluation sets."""
        return [each.set for each in self.sets]

    @property
    def language_model(self) -> LmConfig | None:
        """How the language model is made, where one of the decoders needs one."""
        return (self.lm or LmConfig()) if "lm" in self.decoders else None

    def settings_of(self, name: str) -> SetConfig:
        """How the set, or the changed copy, with this name is scored; a copy is scored as its original is."""
        original = "-".join(name.split("-")[:2])
        return next((each for each in self.sets if each.set == original), SetConfig(set=original))


class SelectConfig(Section):
    """Which checkpoint becomes the model."""

    set: EvalSet | None = Field(None, description="the evaluation set that decides; by default the run's `dev`")
    decoder: Decoder = Field("greedy", description="the decoder that decides")
    metric: Literal["wer", "cer", "loss"] = Field("wer", description="the figure that must be smallest")
