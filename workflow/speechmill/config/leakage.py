"""Section `runs.*.leakage`: what happens to training clips that overlap with an evaluation set."""

from typing import Literal

from pydantic import Field, model_validator

from speechmill.config.base import Section

Action = Literal["remove", "report", "fail"]


class LeakageRule(Section):
    """The action per kind of overlap; a single word stands for all of them."""

    speaker: Action = Field("report", description="the clips have the same speaker")
    sentence: Action = Field("report", description="the clips have the same normalised text")
    audio: Action = Field(
        "report",
        description="the clips have the same file or the same decoded samples, or are parts of one recording that"
        " overlap in time",
    )
    recording: Action = Field("report", description="the clips are parts of one recording that do not overlap in time")

    @model_validator(mode="before")
    @classmethod
    def _same_action_for_all(cls, value: object) -> object:
        return dict.fromkeys(cls.model_fields, value) if isinstance(value, str) else value


class LeakageConfig(Section):
    """`remove` excludes the training clip, `report` counts it, `fail` stops the run; a single word is for `test`."""

    test: LeakageRule = Field(
        LeakageRule(), description="overlap with an evaluation set other than `dev`, across all datasets of the run"
    )
    dev: LeakageRule = Field(LeakageRule(), description="overlap with the set that checkpoints are selected on")

    @model_validator(mode="before")
    @classmethod
    def _single_word_is_test(cls, value: object) -> object:
        return {"test": value} if isinstance(value, str) else value
