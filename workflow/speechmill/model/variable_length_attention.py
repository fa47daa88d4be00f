"""Attention within the clips of a padded batch, without a mask.

A mask excludes the fastest kernels of scaled dot product attention. FlashAttention for sequences of variable length
needs none: the frames of a batch are one long sequence, which boundaries divide into the frames of each clip and its
padding. Nothing is packed, since padding only attends to padding.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig, PreTrainedModel

from speechmill.model.devices import autocast_dtype
from speechmill.model.models import encoder_layers

# The name of the implementation in transformers.
_NAME = "variable_length"
# Their attention adds nothing to the mask, unlike that of models with relative positions.
_ARCHITECTURES = {"wav2vec2", "hubert", "unispeech", "unispeech-sat", "data2vec-audio"}


def can_attend_within_clips(config: PreTrainedConfig) -> bool:
    """Return whether models of this configuration can use this attention."""
    if config.model_type not in _ARCHITECTURES:
        return False
    features = int(config.hidden_size) // int(config.num_attention_heads)
    # Source: `mha_varlen_fwd` of PyTorch, for which `scaled_dot_product_attention` pads other sizes, and its
    # `check_requires_grad_and_head_dim_gt192_constraints_on_sm86_89_or_120`.
    return features % 8 == 0 and features <= 192


def attend_within_clips(model: PreTrainedModel) -> bool:
    """Use this attention under autocast on a GPU in place of "sdpa", and return whether the model can.

    Elsewhere it is "sdpa", with its mask.
    """
    if not can_attend_within_clips(model.config) or model.config._attn_implementation not in ("sdpa", _NAME):
        return False
    AttentionMaskInterface.register(_NAME, _boundaries)
    AttentionInterface.register(_NAME, _attention)
    model.set_attn_implementation(_NAME)
    for layer in encoder_layers(model):
        attention: Any = layer.attention
        if _convert_once not in attention._forward_pre_hooks.values():
            attention.register_forward_pre_hook(_convert_once)
    return True


def _convert_once(_: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Convert the input of attention to the precision of autocast, which would do so for queries, keys and values."""
    dtype = autocast_dtype(args[0].device)
    return args if dtype is None else (args[0].to(dtype), *args[1:])


def _has_kernel(device: torch.device) -> bool:
    """Return whether the device has FlashAttention."""
    return (
        device.type == "cuda"
        and torch.version.hip is None
        and torch.backends.cuda.is_flash_attention_available()
        and torch.cuda.get_device_capability(device) >= (8, 0)
    )


def _boundaries(*args: Any, attention_mask: Tensor | None = None, **options: Any) -> Tensor | None:
    """Return 0 and then, for each clip, the ends of its frames and of its padding, given booleans (clips, frames).

    Outside of autocast or without the kernel, return the mask of "sdpa".
    """
    if (
        attention_mask is None
        or autocast_dtype(attention_mask.device) is None
        or not _has_kernel(attention_mask.device)
    ):
        mask: Tensor | None = AttentionMaskInterface()["sdpa"](*args, attention_mask=attention_mask, **options)
        return mask
    clips, frames = attention_mask.shape
    starts = torch.arange(0, clips * frames, frames, device=attention_mask.device)
    ends = torch.stack([starts + attention_mask.sum(1), starts + frames], 1)
    return pad(ends.flatten(), (1, 0)).to(torch.int32)


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend, given shapes (clips, heads, frames, features) and a result of `_boundaries`; frames come before heads."""
    if attention_mask is None or attention_mask.dim() > 1:
        attended = scaled_dot_product_attention(query, key, value, attention_mask, dropout, scale=scaling)
        return attended.transpose(1, 2), None
    clips, frames = query.shape[0], query.shape[2]
    dtype = autocast_dtype(query.device) or query.dtype
    query, key, value = (each.transpose(1, 2).flatten(0, 1).to(dtype) for each in (query, key, value))
    attended = _flash_attention(query, key, value, attention_mask, frames, dropout, scaling)
    return attended.view(clips, frames, *attended.shape[1:]), None


def _flash_attention(
    query: Tensor, key: Tensor, value: Tensor, boundaries: Tensor, longest: int, dropout: float, scaling: float | None
) -> Tensor:
    """Return the attention within the sequences between `boundaries`; shapes (frames of all, heads, features)."""
    # The public function of PyTorch for this, `varlen_attn`, has no dropout.
    output: Tensor = torch.ops.aten._flash_attention_forward(
        *(query, key, value, boundaries, boundaries, longest, longest, dropout, False, False), scale=scaling
    )[0]
    return output
