"""Section `runs.*.plan`: how long training lasts and what a batch is."""

from pydantic import Field, model_validator

from speechmill.config.base import Section


class Batch(Section):
    """The size of one forward pass: a budget of padded seconds, or a number of clips."""

    seconds: float | None = Field(
        None,
        gt=0,
        description="fill each batch with clips of similar length up to this many seconds, padding included",
    )
    clips: int | None = Field(None, gt=0, description="instead: this many clips a batch, drawn at random")
    by_length: bool = Field(
        False, description="with `clips`: put clips of similar length together, as the Trainer's `group_by_length` does"
    )

    @model_validator(mode="after")
    def _one_of_both(self) -> "Batch":
        if (self.seconds is None) == (self.clips is None):
            raise ValueError("give either `seconds` or `clips`")
        if self.by_length and self.clips is None:
            raise ValueError("`by_length` belongs to `clips`; with `seconds`, batches are by length anyway")
        return self


class PlanConfig(Section):
    """What decides the number of steps and which of them are saved."""

    epochs: int = Field(gt=0, description="how often training sees each clip")
    batch: Batch = Field(description="the size of one forward pass")
    gradient_accumulation: int = Field(
        1, gt=0, description="forward passes a step of the optimiser, on each of the run's `gpus`"
    )
    pool_clips: int = Field(
        8192,
        gt=0,
        description="clips are shuffled and batched within pools of so many, whose row groups are read together: larger"
        " pools mix better, smaller ones need less memory and fewer reads",
    )
    save_steps: int = Field(gt=0, description="a checkpoint every so many steps; the last step is always saved")
    seed: int = Field(42, description="the seed of the order of clips, of the new weights and of dropout")
