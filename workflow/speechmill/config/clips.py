"""Section `runs.*.clips`: which clips a run trains on."""

from pydantic import Field

from speechmill.config.base import Section


class ClipConfig(Section):
    """The filters of the training clips; an evaluation set is never filtered."""

    min_seconds: float = Field(0.1, ge=0, description="shorter training clips are left out, reason `short`")
    max_seconds: float = Field(20.0, gt=0, description="longer training clips are left out, reason `long`")
    frame_seconds: float = Field(
        0.02,
        gt=0,
        description="the time between two frames of the model's output; a training clip with fewer frames than CTC"
        " needs for its text is left out, reason `infeasible`",
    )
