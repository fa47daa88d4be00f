"""Section `runs.*.checkpoints`: which of the plan's checkpoints are kept."""

from pydantic import Field

from speechmill.config.base import Section


class CheckpointConfig(Section):
    """All, or the best on dev."""

    best: int | None = Field(
        None,
        gt=0,
        description="keep so many, those whose greedy WER on the whole dev set, taken in training, is lowest; unless"
        " given, all are kept, scored and shown",
    )
    dev_clips: int = Field(
        32, ge=0, description="clips of dev on which each checkpoint is tried while training goes on; with `best`, all"
    )
