"""Sections `runs.*.evaluation` and `runs.*.select`: what is scored, and how a checkpoint is selected."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from speechmill.config.base import EvalSet, Name, Section
from speechmill.config.lm import LmConfig
from speechmill.config.robustness import RobustnessConfig

Decoder = Literal["greedy", "lm"]

Protocol = Literal["plain", "robust_speech_event"]

ErrorRate = Literal["wer", "cer"]

Metric = Literal[ErrorRate, "loss"]


class SetConfig(Section):
    """An evaluation set and how it is scored; can be given as its name only."""

    set: EvalSet = Field(description="name of the evaluation set, `{dataset}-{split}`")
    protocols: list[Protocol] = Field(
        ["plain"],
        min_length=1,
        description="scoring protocols: `plain` compares reference and hypothesis after the run's text rules,"
        " `robust_speech_event` does it as `eval.py` of the Robust Speech Event; plots and the selection use the first",
    )
    chunk_seconds: float | None = Field(
        None, gt=0, description="length of the chunks in which recordings are processed; default: no chunks"
    )
    stride_seconds: float | None = Field(
        None,
        ge=0,
        description="context on each side of a chunk, whose output is discarded; default: a sixth of `chunk_seconds`,"
        " as in the pipeline of transformers",
    )
    checkpoints: Literal["all", "selected"] = Field(
        "all", description="checkpoints that are scored on it: all that are kept, or only the selected one"
    )

    @model_validator(mode="after")
    def _chunks_advance(self) -> "SetConfig":
        if self.chunk_seconds is None and self.stride_seconds is not None:
            raise ValueError("`stride_seconds` needs `chunk_seconds`: give both, or neither")
        if self.chunk_seconds is not None and 2 * (self.stride_seconds or 0) >= self.chunk_seconds:
            raise ValueError(
                "`stride_seconds` must be less than half of `chunk_seconds`: it is on both sides of a chunk"
            )
        if len(set(self.protocols)) < len(self.protocols):
            raise ValueError("`protocols` lists a protocol twice")
        return self

    @property
    def stride(self) -> float:
        """The context on each side of a chunk, in seconds."""
        return (self.chunk_seconds or 0) / 6 if self.stride_seconds is None else self.stride_seconds


class GenerationConfig(Section):
    """How a model that generates text, such as Whisper, is asked to transcribe; a CTC model has no such settings."""

    language: str | None = Field(
        None, description="language of the speech, by its code in the model; default: the run's `language`"
    )
    task: Literal["transcribe", "translate"] | None = Field(
        None, description="`translate` gives English text; default: `transcribe`"
    )
    num_beams: int | None = Field(
        None, gt=0, description="width of the beam search; default: that of the pipeline of transformers"
    )


def _from_name(value: object) -> object:
    return {"set": value} if isinstance(value, str) else value


class EvaluationConfig(Section):
    """The evaluation of every checkpoint: sets, decoders and precision."""

    sets: list[Annotated[SetConfig, BeforeValidator(_from_name, json_schema_input_type=SetConfig | EvalSet)]] = Field(
        min_length=1, description="evaluation sets, each a name `{dataset}-{split}` or a section with `set`"
    )
    decoders: list[Decoder] = Field(
        ["greedy"],
        min_length=1,
        description="how CTC outputs become text: `greedy`, or `lm`, a beam search with an n-gram language model",
    )
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        "fp32", description="precision of the forward pass; on a GPU, 16 bits are several times as fast"
    )
    batch_seconds: float = Field(120.0, gt=0, description="seconds of audio per forward pass, including padding")
    lm: LmConfig | None = Field(None, description="language model of the decoder `lm`")
    generation: GenerationConfig | None = Field(
        None,
        description="for `training: none` with a model that generates text, such as Whisper: language and task; models"
        " that take neither are scored without it",
    )
    robustness: RobustnessConfig | None = Field(
        None, description="perturbed copies of evaluation sets, on which the selected checkpoint is scored as well"
    )
    compare: list[Name] = Field(
        default_factory=list,
        description="other runs to compare this one with in its card, on the sets that both score: error rates side by"
        " side, and a paired test of the difference; these runs need the same `text` and the same first protocol",
    )
    worst_clips: int = Field(
        20, ge=0, description="number of clips on the page with the worst clips of each set; 0 writes no pages"
    )

    @model_validator(mode="after")
    def _listed_once(self) -> "EvaluationConfig":
        if len(set(self.set_names)) < len(self.sets):
            raise ValueError("`sets` lists a set twice")
        if len(set(self.decoders)) < len(self.decoders):
            raise ValueError("`decoders` lists a decoder twice")
        if len(set(self.compare)) < len(self.compare):
            raise ValueError("`compare` lists a run twice")
        return self

    @model_validator(mode="after")
    def _sections_are_used(self) -> "EvaluationConfig":
        if self.lm is not None and "lm" not in self.decoders:
            raise ValueError("the section `lm` needs the decoder `lm`: add it to `decoders`, or remove the section")
        for name in self.robustness.sets if self.robustness else []:
            if name not in self.set_names:
                raise ValueError(f"`robustness.sets` has {name}, which is not in `sets`; add it there")
        return self

    @property
    def set_names(self) -> list[str]:
        """The names of the evaluation sets."""
        return [each.set for each in self.sets]

    @property
    def language_model(self) -> LmConfig | None:
        """The settings of the language model, or None if no decoder needs one."""
        return (self.lm or LmConfig()) if "lm" in self.decoders else None

    def set_config(self, name: str) -> SetConfig:
        """Return how the set with this name is scored; a perturbed copy is scored like its original."""
        original = "-".join(name.split("-")[:2])
        return next((each for each in self.sets if each.set == original), SetConfig(set=original))


class SelectConfig(Section):
    """How the checkpoint that becomes the model is selected."""

    set: EvalSet | None = Field(None, description="evaluation set to select on; default: the run's `dev`")
    decoder: Decoder = Field("greedy", description="decoder to select by")
    average: int | None = Field(
        None,
        ge=2,
        description="number of checkpoints, those with the lowest `metric`, whose weights are averaged; their mean is"
        " scored like a checkpoint, and is selected only if it is better than each of them; default: none",
    )
    metric: Metric | None = Field(
        None,
        description="metric to minimise wherever something is chosen: the checkpoint, those that `checkpoints.best`"
        " keeps, and the weights of the language model; also the error rate that cards, pages and plots show first;"
        " default: `wer`, or `cer` if `language` is written without spaces between words, such as Chinese or Thai",
    )
