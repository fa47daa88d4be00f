"""Section `runs.*.checkpoints`: which checkpoints are kept."""

from pydantic import Field

from speechmill.config.base import Section


class CheckpointConfig(Section):
    """Which of the saved checkpoints are kept and scored: all of them, or the best on dev."""

    best: int | None = Field(
        None,
        gt=0,
        description="number of checkpoints to keep, those with the lowest `select.metric` of greedy decoding on the"
        " complete dev set during training; default: all",
    )
    dev_clips: int = Field(
        32,
        ge=0,
        description="number of dev clips on which each checkpoint is evaluated during training; with `best`, all",
    )
