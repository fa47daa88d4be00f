"""The masks of SpecAugment on the device that trains; needs torch and transformers alone."""

from types import MethodType
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from speechmill.core.command import SpeechmillError


def spec_augment_on_device(model: PreTrainedModel) -> None:
    """Let a model make the masks of SpecAugment on its own device, where transformers makes them on the CPU.

    Its configuration is read as ever (`apply_spec_augment`, `mask_time_*`, `mask_feature_*`), and as ever it masks in
    training only; where a model does not hand its mask of the padding on (HuBERT, SEW), the padding counts as a part of
    the clip. What is drawn comes from torch's generator of the device, which the Trainer keeps with its state. A model
    that has no such masks is left as it is.

    Raises SpeechmillError where a mask of features is wider than there are features.
    """
    base: Any = model.base_model
    config = model.config
    if not hasattr(base, "_mask_hidden_states"):
        return
    if config.mask_feature_prob > 0 and config.mask_feature_length > config.hidden_size:
        raise SpeechmillError(
            f"the model's mask_feature_length is {config.mask_feature_length}, more than its {config.hidden_size}"
            " features; set a smaller one in runs.*.model"
        )
    base._mask_hidden_states = MethodType(_mask_hidden_states, base)


def span_mask(lengths: Tensor, size: int, probability: float, span: int, min_spans: int) -> Tensor:
    """Which places are masked, in spans that may overlap: booleans, shape (clips, size), on the device of `lengths`.

    The distribution is that of transformers' `_compute_mask_indices`: a clip has `probability * length / span` spans,
    rounded at random, the same way for all clips of a call; they start at different places, drawn evenly from those
    at which a whole span fits into the clip's length. A clip that no span fits into has none; transformers masks the
    last place of its padding, which nothing hears.

    Args:
        lengths: The length of each clip in places, shape (clips,).
        size: The places of the longest.
        probability: The share that would be masked if no spans met.
        span: The places of a span.
        min_spans: The fewest spans of a clip, where so many fit.
    """
    if span > size:
        return torch.zeros(len(lengths), size, dtype=torch.bool, device=lengths.device)
    possible = (lengths - span + 1).clamp(min=0)
    asked = (probability * lengths / span + torch.rand(1, device=lengths.device)).long()
    spans = asked.clamp(min=min_spans).clamp(max=size // span).minimum(possible)
    starts = size - span + 1
    drawn = torch.rand(len(lengths), starts, device=lengths.device)
    impossible = torch.arange(starts, device=lengths.device) >= possible[:, None]
    ranks = drawn.masked_fill(impossible, 1.0).argsort(dim=1).argsort(dim=1)
    # A place is masked if a span starts there or less than a span before.
    begun = torch.nn.functional.pad((ranks < spans[:, None]).float(), (span - 1, span - 1))
    return torch.nn.functional.max_pool1d(begun, span, stride=1) > 0


def _mask_hidden_states(
    base: Any,
    hidden_states: Tensor,
    mask_time_indices: Tensor | None = None,
    attention_mask: Tensor | None = None,
) -> Tensor:
    """Takes the place of the method of this name; shapes (clips, frames, features), (clips, frames) twice."""
    config = base.config
    if not getattr(config, "apply_spec_augment", True):
        return hidden_states
    clips, frames, features = hidden_states.shape
    whole = torch.full((clips,), frames, device=hidden_states.device)
    if mask_time_indices is None and base.training and config.mask_time_prob > 0:
        lengths = whole if attention_mask is None else attention_mask.sum(1)
        mask_time_indices = span_mask(
            lengths, frames, config.mask_time_prob, config.mask_time_length, config.mask_time_min_masks
        )
    if mask_time_indices is not None:
        hidden_states = torch.where(
            mask_time_indices[..., None], base.masked_spec_embed.to(hidden_states.dtype), hidden_states
        )
    if base.training and config.mask_feature_prob > 0:
        masked = span_mask(
            torch.full_like(whole, features),
            features,
            config.mask_feature_prob,
            config.mask_feature_length,
            # WavLM's configuration has no such key.
            getattr(config, "mask_feature_min_masks", 0),
        )
        hidden_states = hidden_states.masked_fill(masked[:, None], 0)
    return hidden_states
