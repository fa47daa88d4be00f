"""Types that all sections of the configuration share."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]
"""A name that is safe in paths and on either side of the hyphen of `{dataset}-{split}`."""

EvalSet = Annotated[str, Field(pattern=r"^[a-z0-9_]+-[a-z0-9_]+$")]
"""The name of an evaluation set, `{dataset}-{split}`."""


class Section(BaseModel):
    """An immutable section in which unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)
