"""Section `runs.*.leakage`: what is done about training clips that collide with a set that the run is scored on."""

from typing import Literal

from pydantic import Field, model_validator

from speechmill.config.base import Section

Action = Literal["remove", "report", "fail"]


class LeakageRule(Section):
    """What is done about a collision, by what collides; one word for all three is understood."""

    speaker: Action = Field("report", description="the clips have the same speaker")
    sentence: Action = Field("report", description="the clips have the same text after the run's normalisation")
    audio: Action = Field("report", description="the clips have the same file, or the same samples once decoded")

    @model_validator(mode="before")
    @classmethod
    def _one_word_for_all(cls, value: object) -> object:
        return dict.fromkeys(("speaker", "sentence", "audio"), value) if isinstance(value, str) else value


class LeakageConfig(Section):
    """`remove` leaves a training clip out, `report` counts it, `fail` stops the run; one word is for the test sets."""

    test: LeakageRule = Field(
        LeakageRule(), description="collisions with an evaluation set other than `dev`, across all datasets of the run"
    )
    dev: LeakageRule = Field(LeakageRule(), description="collisions with the set that choices are made on")

    @model_validator(mode="before")
    @classmethod
    def _one_word_for_test(cls, value: object) -> object:
        return {"test": value} if isinstance(value, str) else value
