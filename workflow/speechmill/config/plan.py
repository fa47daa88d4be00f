"""Section `runs.*.plan`: length of training and batch size."""

from pydantic import Field, model_validator

from speechmill.config.base import Section


class Batch(Section):
    """The size of a forward pass: a budget of seconds, or a number of clips."""

    seconds: float | None = Field(
        None, gt=0, description="batches of clips of similar length, up to this many seconds including padding"
    )
    clips: int | None = Field(None, gt=0, description="instead of `seconds`: batches of this many random clips")
    by_length: bool = Field(
        False,
        description="with `clips`: put clips of similar length together, as `group_by_length` of the Trainer does",
    )

    @model_validator(mode="after")
    def _one_size(self) -> "Batch":
        if (self.seconds is None) == (self.clips is None):
            raise ValueError("give either `seconds` or `clips`")
        if self.by_length and self.clips is None:
            raise ValueError("`by_length` needs `clips`; batches by `seconds` are always grouped by length")
        return self


class PlanConfig(Section):
    """Settings that decide the number of steps and which of them are saved."""

    epochs: int = Field(gt=0, description="number of passes over the training clips")
    max_steps: int | None = Field(
        None,
        gt=0,
        # Runs without it do not train again: their settings do not change.
        exclude_if=lambda steps: steps is None,
        description="training ends after this many steps at most, as for a comparison of base models; the learning rate"
        " follows its schedule over these steps",
    )
    batch: Batch = Field(description="size of a forward pass")
    gradient_accumulation: int = Field(
        1, gt=0, description="forward passes per optimiser step, on each of the run's `gpus`"
    )
    pool_clips: int = Field(
        8192,
        gt=0,
        description="clips are shuffled and batched in pools of this many clips, whose row groups are read together:"
        " larger pools shuffle better, smaller ones need less memory and fewer reads",
    )
    save_steps: int = Field(gt=0, description="steps between two checkpoints; the last step is always saved")
    seed: int = Field(42, description="seed of the order of clips, of new weights and of dropout")
