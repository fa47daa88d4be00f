"""Section `runs.*.mixing`: how often an epoch goes through the clips of each dataset, language or speaker."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from speechmill.config.base import Section


class MixingConfig(Section):
    """What the training clips are grouped by, and how often an epoch goes through each group."""

    by: Literal["dataset", "language", "speaker"] = Field(
        "dataset",
        description="what the training clips are grouped by: their dataset, the `language` of their dataset, or their"
        " speaker. By speaker, clips without a speaker occur once in each epoch",
    )
    weights: dict[str, Annotated[float, Field(le=1000, allow_inf_nan=False)]] = Field(
        {},
        description="how often an epoch goes through the clips of a group, by name of the dataset or language: 2.0 is"
        " twice; 0.5 is half of them, and the other half in the next epoch. Groups that are not named have 1",
    )
    temperature: float | None = Field(
        None,
        ge=1,
        allow_inf_nan=False,
        description="instead of `weights`: the share of a group in an epoch is proportional to its seconds to the power"
        " of 1/temperature, and the epoch keeps its length. 1 changes nothing; higher values bring the shares of small"
        " and large groups closer together",
    )

    @field_validator("weights")
    @classmethod
    def _positive(cls, weights: dict[str, float]) -> dict[str, float]:
        for name, weight in weights.items():
            if weight == 0:
                raise ValueError(f"the weight of {name} is 0: to leave it out, remove it from `train`")
            if weight < 0:
                raise ValueError(f"the weight of {name} is {weight:g}, but must be positive")
        return weights

    @model_validator(mode="after")
    def _weights_or_temperature(self) -> "MixingConfig":
        if bool(self.weights) == (self.temperature is not None):
            raise ValueError("give either `weights` or `temperature`")
        if self.by == "speaker" and self.weights:
            raise ValueError("`by: speaker` needs `temperature`; `weights` are for datasets and languages")
        return self


class MixingSettings(MixingConfig):
    """The section with the group of each dataset of `train`; by speaker, the namespace of its speaker ids."""

    groups: dict[str, str]
