"""Training of which one optimiser step runs in a context."""

from contextlib import AbstractContextManager
from typing import Any
from unittest.mock import patch

from transformers import TrainerCallback

from gpu.step import Step
from gpu.training import planned
from speechmill.training import finetune
from speechmill.training.trainer import CtcTrainer

# By then, kernels are chosen and memory is allocated.
WATCHED_STEP = 3


class _Watch(TrainerCallback):
    def __init__(self, context: AbstractContextManager[Any]) -> None:
        self._context = context

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step + 1 == WATCHED_STEP:
            self._context.__enter__()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == WATCHED_STEP:
            self._context.__exit__(None, None, None)


def train_watched(step: Step, seconds: float, context: AbstractContextManager[Any]) -> None:
    """Train with batches of `seconds`, and run one step after the warm-up in `context`.

    The step begins when its batch has been read and ends after the update of the weights. The settings are those of the
    Russian recipe, in bf16 without gradient checkpointing.
    """
    changes = {
        "plan": {"batch": {"seconds": seconds}, "gradient_accumulation": 1},
        "finetune": {"precision": "bf16", "gradient_checkpointing": False},
    }
    training = planned(step, "ru_common_voice_8", WATCHED_STEP, changes)

    class Watched(CtcTrainer):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.add_callback(_Watch(context))

    with patch.object(finetune, "CtcTrainer", Watched):
        training(step)
