"""kernels: the rounding errors of the kernels that speechmill uses on a GPU, and those of transformers' kernels.

Both are measured against fp32 on a padded batch. The step fails if speechmill's errors are much larger.
"""

from typing import NamedTuple

import torch
from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

from gpu.clips import LABELS, batch_of, clip_lengths
from gpu.models import SMALL, XLS_R_1B
from gpu.step import Step
from speechmill.model.attention_masks import attention_masks_on_device
from speechmill.model.ctc import clip_losses
from speechmill.model.devices import allow_tf32
from speechmill.model.gpu_kernels import use_gpu_kernels
from speechmill.model.models import INPUT_KEYS, forward, output_frames

# Few layers, without anything random.
_CHANGES = {"num_hidden_layers": 4, "layerdrop": 0.0, "hidden_dropout": 0.0, "attention_dropout": 0.0}
_CHANGES |= {"feat_proj_dropout": 0.0, "mask_time_prob": 0.0}
_SECONDS, _SMALL_SECONDS = 80.0, 8.0
_LARGEST_RATIO = 1.5


class Result(NamedTuple):
    """What a training step computes."""

    logits: torch.Tensor
    """Those of all frames of all clips, without padding, in one dimension."""
    gradients: torch.Tensor
    """Those of all weights, in one dimension."""

    def errors(self, exact: "Result") -> dict[str, float]:
        """Return the norms of the differences from `exact`, as shares of its norms, in percent."""
        pairs = zip(self._fields, self, exact, strict=True)
        return {f"{name}_percent": float(100 * (one - other).norm() / other.norm()) for name, one, other in pairs}


def computed(step: Step, dtype: torch.dtype, ours: bool) -> Result:
    """Return the logits and gradients of a model with random weights that are always the same."""
    torch.manual_seed(0)
    settings = (SMALL if step.small else XLS_R_1B) | _CHANGES
    with step.device:
        model = Wav2Vec2ForCTC(Wav2Vec2Config(**settings, vocab_size=LABELS)).train().to(step.device)
    model.freeze_feature_encoder()
    attention_masks_on_device(model)
    if ours:
        use_gpu_kernels(model, step.device)
    batch = batch_of(clip_lengths(_SMALL_SECONDS if step.small else _SECONDS))
    inputs = {key: batch[key].to(step.device) for key in INPUT_KEYS if key in batch}
    with torch.autocast(step.device.type, dtype, enabled=dtype is not torch.float32):
        logits = forward(model, inputs)
    frames = output_frames(model, batch["num_samples"])
    clip_losses(logits, frames, batch["labels"]).mean().backward()
    valid = [of_clip[:n].flatten() for of_clip, n in zip(logits.detach().float(), frames.tolist(), strict=True)]
    gradients = [weight.grad.flatten() for weight in model.parameters() if weight.grad is not None]
    return Result(torch.cat(valid), torch.cat(gradients))


def main(step: Step) -> None:
    """Record the errors."""
    allow_tf32(False)
    exact = computed(step, torch.float32, ours=False)
    errors = {
        name: computed(step, dtype, ours).errors(exact)
        for name, dtype, ours in (
            ("transformers in bf16", torch.bfloat16, False),
            ("speechmill in bf16", torch.bfloat16, True),
            ("speechmill in fp32", torch.float32, True),
        )
    }
    for name, values in errors.items():
        step.measured(name, **values)
    usual, ours, _ = errors.values()
    for key, error in ours.items():
        if error > _LARGEST_RATIO * usual[key]:
            raise RuntimeError(
                f"{key} is {error:.2g} with speechmill's kernels and {usual[key]:.2g} with the usual ones"
            )
