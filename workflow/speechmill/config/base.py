"""Types that all sections of the configuration share."""

import difflib
from collections.abc import Iterable
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

MAX_NAME_LENGTH = 50

Name = Annotated[str, Field(pattern=r"^[a-z0-9_]+$", max_length=MAX_NAME_LENGTH)]
"""A name that is safe in paths and on either side of the hyphen of `{dataset}-{split}`.

The longest name of a file has those of a run, a dataset, a split and an effect, and may have 255 bytes.
"""

EvalSet = Annotated[str, Field(pattern=r"^[a-z0-9_]+-[a-z0-9_]+$")]
"""The name of an evaluation set, `{dataset}-{split}`."""


class Section(BaseModel):
    """An immutable section in which unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def nearest(word: str, known: Iterable[str], before: str = "") -> str:
    """Return a clause that suggests the one of `known` that is most like `word`, or nothing if none is.

    `before` is the path of the section with the known keys, which is written before the suggestion.
    """
    close = difflib.get_close_matches(word, known, n=1)
    return f" did you mean `{before}{close[0]}`?" if close else ""
