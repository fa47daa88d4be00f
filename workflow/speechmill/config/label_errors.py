"""Section `runs.*.label_errors`: the search for wrong sentences of training clips."""

from pydantic import Field

from speechmill.config.base import Section


class LabelErrorsConfig(Section):
    """After training, each training clip is scored by the model, and the most suspicious clips are listed."""

    clips: int = Field(200, gt=0, description="number of clips in `suspicious.html` and `suspicious.csv`")
