"""What all sections of the configuration share."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A closed, immutable section: an unknown key is an error, never ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)
