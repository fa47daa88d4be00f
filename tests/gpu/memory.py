"""memory: the memory that the plan predicts for training, against what training takes, for batches of three sizes."""

import torch

from gpu.step import Step, device_gib, free_memory, peak_gib
from gpu.training import planned

# Of the largest batch that the plan says fits.
_SHARES = (0.25, 0.5, 0.8)


def main(step: Step) -> None:
    """Record predicted and measured memory by batch size."""
    memory = {"precision": "bf16", "gradient_checkpointing": False, "workers": 0 if step.small else 8}
    batch = {"batch": {"seconds": 20.0}, "gradient_accumulation": 1}
    fitting = planned(step, "ru_common_voice_8", 1, {"plan": batch, "finetune": memory}).plan["fits_seconds"]
    for share in _SHARES:
        seconds = share * (30.0 if step.small else fitting["without_checkpointing"])
        changed = {"plan": batch | {"batch": {"seconds": max(20.0, seconds)}}, "finetune": memory}
        training = planned(step, "ru_common_voice_8", 3, changed)
        free_memory()
        training(step)
        predicted = training.plan["memory_bytes"] / 2**30
        values: dict[str, float] = {"predicted_gib": predicted, "tensors_gib": peak_gib(step.device)}
        if not step.small:
            # The allocator keeps what it has reserved, and the context of CUDA takes the rest.
            free, total = torch.cuda.mem_get_info()
            used = (total - free) / 2**30
            values |= {"used_gib": used, "predicted_to_used": predicted / used}
        largest = training.plan["largest_batch_seconds"]
        step.measured(f"batches of up to {largest:.0f} s", **values, device_gib=device_gib(step.device))
