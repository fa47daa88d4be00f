"""Section `runs.*.clips`: which clips a run trains on."""

from pydantic import Field

from speechmill.config.base import Section


class ClipConfig(Section):
    """Filters and corrections of the training clips; evaluation sets are never changed."""

    min_seconds: float = Field(0.1, ge=0, description="shorter training clips are excluded, reason `short`")
    max_seconds: float = Field(20.0, gt=0, description="longer training clips are excluded, reason `long`")
    frame_seconds: float = Field(
        0.02,
        gt=0,
        description="time between two output frames of the model; a training clip with fewer frames than CTC needs for"
        " its text is excluded, reason `infeasible`",
    )
    corrections: str | None = Field(
        None,
        description="CSV file with corrected sentences of training clips, and with clips to exclude, reason"
        " `label_error`: an edited `suspicious.csv` of this or another run, see `label_errors`",
    )
