"""Types that all sections of the configuration share."""

import datetime
import difflib
import re
from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

MAX_NAME_LENGTH = 50

Name = Annotated[str, Field(pattern=r"^[a-z0-9_]+$", max_length=MAX_NAME_LENGTH)]
"""A name that is safe in paths and on either side of the hyphen of `{dataset}-{split}`.

The longest name of a file has those of a run, a dataset, a split and an effect, and may have 255 bytes.
"""

EvalSet = Annotated[str, Field(pattern=r"^[a-z0-9_]+-[a-z0-9_]+$")]
"""The name of an evaluation set, `{dataset}-{split}`."""


def _check_day(value: Any) -> Any:
    # pydantic would take a year, a number in YAML, for seconds since 1970.
    is_day = isinstance(value, datetime.date) and not isinstance(value, datetime.datetime)
    if not is_day and not (isinstance(value, str) and re.fullmatch(r"\d{4}-\d{2}-\d{2}", value)):
        raise ValueError("write year, month and day, such as 2022-01-19")
    return value


Day = Annotated[datetime.date, BeforeValidator(_check_day)]
"""A date, `YEAR-MONTH-DAY`."""


class Section(BaseModel):
    """An immutable section in which unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def nearest(word: str, known: Iterable[str], before: str = "") -> str:
    """Return a clause that suggests the one of `known` that is most like `word`, or nothing if none is.

    `before` is the path of the section with the known keys, which is written before the suggestion.
    """
    close = difflib.get_close_matches(word, known, n=1)
    return f" did you mean `{before}{close[0]}`?" if close else ""
