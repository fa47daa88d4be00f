"""What all sections of the configuration share."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]
"""A name that can stand in a path and on either side of the hyphen of `{dataset}-{split}`."""

EvalSet = Annotated[str, Field(pattern=r"^[a-z0-9_]+-[a-z0-9_]+$")]
"""The name of an evaluation set: `{dataset}-{split}`."""


class Section(BaseModel):
    """A closed, immutable section: an unknown key is an error, never ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)
