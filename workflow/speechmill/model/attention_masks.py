"""Attention masks of padded batches, computed on the device without a synchronisation."""

from collections.abc import Callable
from functools import wraps
from types import MethodType
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import eager_mask, sdpa_mask


def attention_masks_on_device(model: PreTrainedModel) -> None:
    """Compute the attention masks of `model` without the two synchronisations per batch of transformers.

    The first is an assignment of a Python number to elements of a tensor, whose value is copied to the device; the
    second reads whether the mask masks anything. The Collator leaves out masks that mask no samples, so that this need
    not be tested again. The masks are the same, except that transformers drops one that masks no complete frame.

    The second change applies to all models of the process.
    """
    base: Any = model.base_model
    if hasattr(base, "_get_feature_vector_attention_mask"):
        base._get_feature_vector_attention_mask = MethodType(_frame_mask, base)
    AttentionMaskInterface.register("sdpa", _without_test(sdpa_mask))
    AttentionMaskInterface.register("eager", _without_test(eager_mask))


def _frame_mask(base: Any, frames: int, attention_mask: Tensor, add_adapter: bool | None = None) -> Tensor:
    """Replace the method of transformers: from shape (clips, samples) to booleans of shape (clips, frames)."""
    options = {} if add_adapter is None else {"add_adapter": add_adapter}
    lengths = base._get_feat_extract_output_lengths(attention_mask.sum(-1), **options)
    mask: Tensor = torch.arange(frames, device=attention_mask.device) < lengths[:, None]
    return mask


def _without_test(function: Callable[..., Tensor | None]) -> Callable[..., Tensor | None]:
    """Return a function of transformers for masks that uses a given mask without a test of its values."""

    @wraps(function)
    def mask(
        *args: Any, attention_mask: Tensor | None = None, allow_is_bidirectional_skip: bool = False, **options: Any
    ) -> Tensor | None:
        skip = allow_is_bidirectional_skip and attention_mask is None
        return function(*args, attention_mask=attention_mask, allow_is_bidirectional_skip=skip, **options)

    return mask
