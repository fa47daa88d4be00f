"""SpecAugment masks on the training device."""

from types import MethodType
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from speechmill.core.command import SpeechmillError


def spec_augment_on_device(model: PreTrainedModel) -> None:
    """Make a model draw its SpecAugment masks on its own device; transformers draws them on the CPU.

    The model's configuration (`apply_spec_augment`, `mask_time_*`, `mask_feature_*`) applies unchanged, and masks are
    used in training only. Models that do not pass on their attention mask (HuBERT, SEW) count the padding as a part of
    the clip. Random numbers come from torch's generator of the device, which the Trainer saves with its state. A model
    without SpecAugment is left unchanged.

    Raises:
        SpeechmillError: A feature mask is wider than the features.
    """
    base: Any = model.base_model
    config = model.config
    if not hasattr(base, "_mask_hidden_states"):
        return
    if config.mask_feature_prob > 0 and config.mask_feature_length > config.hidden_size:
        raise SpeechmillError(
            f"the model's mask_feature_length is {config.mask_feature_length}, more than its {config.hidden_size}"
            " features; set a smaller value in runs.*.model"
        )
    base._mask_hidden_states = MethodType(_mask_hidden_states, base)


def span_mask(lengths: Tensor, size: int, probability: float, span: int, min_spans: int) -> Tensor:
    """Return a mask of spans that may overlap: booleans, shape (clips, size), on the device of `lengths`.

    The distribution is that of transformers' `_compute_mask_indices`: a clip has `probability * length / span` spans,
    randomly rounded up or down, the same way for all clips of a call; they start at different positions, drawn
    uniformly from those where a complete span fits into the clip. A clip shorter than a span has no mask, where
    transformers masks the last position of its padding, which has no effect.

    Args:
        lengths: The length of each clip, shape (clips,).
        size: The length of the longest clip with padding.
        probability: The share of a clip that would be masked if no spans overlapped.
        span: The length of a span.
        min_spans: The minimum number of spans of a clip, as far as they fit.
    """
    if span > size:
        return torch.zeros(len(lengths), size, dtype=torch.bool, device=lengths.device)
    valid_starts = (lengths - span + 1).clamp(min=0)
    wanted = (probability * lengths / span + torch.rand(1, device=lengths.device)).long()
    spans = wanted.clamp(min=min_spans).clamp(max=size // span).minimum(valid_starts)
    starts = size - span + 1
    scores = torch.rand(len(lengths), starts, device=lengths.device)
    invalid = torch.arange(starts, device=lengths.device) >= valid_starts[:, None]
    ranks = scores.masked_fill(invalid, 1.0).argsort(dim=1).argsort(dim=1)
    # A position is masked if a span starts there or at one of the `span - 1` positions before.
    is_start = torch.nn.functional.pad((ranks < spans[:, None]).float(), (span - 1, span - 1))
    return torch.nn.functional.max_pool1d(is_start, span, stride=1) > 0


def _mask_hidden_states(
    base: Any,
    hidden_states: Tensor,
    mask_time_indices: Tensor | None = None,
    attention_mask: Tensor | None = None,
) -> Tensor:
    """Replace the method of this name; shapes (clips, frames, features), (clips, frames) and (clips, frames)."""
    config = base.config
    if not getattr(config, "apply_spec_augment", True):
        return hidden_states
    clips, frames, features = hidden_states.shape
    full_lengths = torch.full((clips,), frames, device=hidden_states.device)
    if mask_time_indices is None and base.training and config.mask_time_prob > 0:
        lengths = full_lengths if attention_mask is None else attention_mask.sum(1)
        mask_time_indices = span_mask(
            lengths, frames, config.mask_time_prob, config.mask_time_length, config.mask_time_min_masks
        )
    if mask_time_indices is not None:
        hidden_states = torch.where(
            mask_time_indices[..., None], base.masked_spec_embed.to(hidden_states.dtype), hidden_states
        )
    if base.training and config.mask_feature_prob > 0:
        masked = span_mask(
            torch.full_like(full_lengths, features),
            features,
            config.mask_feature_prob,
            config.mask_feature_length,
            # WavLM's configuration lacks this key.
            getattr(config, "mask_feature_min_masks", 0),
        )
        hidden_states = hidden_states.masked_fill(masked[:, None], 0)
    return hidden_states
