"""recipes: twenty steps of training with the settings of both published recipes."""

from gpu.step import Step, free_memory, peak_gib
from gpu.training import planned

RECIPES = ("ru_common_voice_8", "ko_zeroth")
_STEPS, _SMALL_STEPS = 20, 2


def main(step: Step) -> None:
    """Record the speed of the second half of the steps, and the memory."""
    for recipe in RECIPES:
        training = planned(step, recipe, _SMALL_STEPS if step.small else _STEPS)
        free_memory()
        _, row = [row for row in training(step) if "loss" in row]
        step.measured(
            recipe,
            steps=row["step"],
            loss=row["loss"],
            audio_seconds_per_second=row["audio_seconds_per_second"],
            batch_seconds=training.plan["seconds_per_batch"],
            overflows=row.get("overflows", 0),
            peak_gib=peak_gib(step.device),
            predicted_gib=training.plan["memory_bytes"] / 2**30,
        )
