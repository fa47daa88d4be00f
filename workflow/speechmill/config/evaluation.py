"""Sections `runs.*.evaluation` and `runs.*.select`: what is scored, and which checkpoint is taken."""

from typing import Annotated, Literal

from pydantic import Field

from speechmill.config.base import Section

EvalSet = Annotated[str, Field(pattern=r"^[a-z0-9_]+-[a-z0-9_]+$")]
"""The name of an evaluation set: `{dataset}-{split}`."""

Decoder = Literal["greedy"]


class EvaluationSettings(Section):
    """What every checkpoint is scored on."""

    sets: list[EvalSet] = Field(min_length=1, description="the evaluation sets, each `{dataset}-{split}`")
    decoders: list[Decoder] = Field(["greedy"], min_length=1, description="how frames become text")
    batch_seconds: float = Field(
        120.0, gt=0, description="seconds of audio a forward pass of the evaluation, padding included"
    )


class SelectSettings(Section):
    """Which checkpoint becomes the model."""

    set: EvalSet | None = Field(None, description="the evaluation set that decides; by default the run's `dev`")
    decoder: Decoder = Field("greedy", description="the decoder that decides")
    metric: Literal["wer", "cer", "loss"] = Field("wer", description="the figure that must be smallest")
