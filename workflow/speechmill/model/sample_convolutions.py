"""The convolutions over samples in half precision, computed as matrix products.

The first layers of wav2vec 2.0 and its relatives turn samples into frames. As transformers runs them under autocast,
they alternate between two memory layouts, and normalise and activate in fp32: most of their time goes into copies. Here
the channels of a frame stay together in memory, as layer normalisation and matrix products need them, in the half
precision of autocast.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, linear, pad
from transformers import PreTrainedModel

from speechmill.model.devices import autocast_dtype

# Matrix products are fast if rows start at multiples of 16 bytes.
_ALIGNMENT = 8


def convolve_samples_as_products(model: PreTrainedModel) -> int:
    """Compute the convolutions over samples as matrix products under autocast, and return their number.

    A layer with another normalisation than over the channels of a frame is left as it is. Outputs and gradients change
    only by rounding to the precision of autocast.
    """
    extractor = getattr(model.base_model, "feature_extractor", None)
    layers = [each for each in getattr(extractor, "conv_layers", []) if _is_supported(each)]
    for layer in layers:
        layer.forward = partial(_forward, layer)
    return len(layers)


def _is_supported(layer: Any) -> bool:
    return (
        set(dict(layer.named_children())) <= {"conv", "layer_norm", "activation"}
        and layer.conv.padding == (0,)
        and layer.conv.dilation == (1,)
        and layer.conv.groups == 1
        and isinstance(getattr(layer, "layer_norm", None), nn.LayerNorm | None)
    )


def _forward(layer: Any, samples: Tensor) -> Tensor:
    """Run a layer on shape (clips, channels, samples); the same tensors with the channels last are contiguous."""
    dtype = autocast_dtype(samples.device)
    if dtype is None:
        return type(layer).forward(layer, samples)  # type: ignore[no-any-return]
    norm: nn.LayerNorm | None = getattr(layer, "layer_norm", None)
    with torch.autocast(samples.device.type, enabled=False):
        frames = _convolved(samples.transpose(1, 2).to(dtype).contiguous(), layer.conv, dtype)
        if norm is not None:
            # Computed in fp32, with inputs and outputs in half precision.
            weight, bias = (None if each is None else each.to(dtype) for each in (norm.weight, norm.bias))
            frames = layer_norm(frames, norm.normalized_shape, weight, bias, norm.eps)
        return layer.activation(frames).transpose(1, 2)  # type: ignore[no-any-return]


def _convolved(frames: Tensor, conv: nn.Conv1d, dtype: torch.dtype) -> Tensor:
    """Return the convolution of shape (clips, frames, channels).

    The kernel is split into parts of at most its stride, so that the frames that a part covers are, without a copy, the
    rows of a matrix.
    """
    width, stride = conv.kernel_size[0], conv.stride[0]
    outputs = (frames.shape[1] - width) // stride + 1
    # Shape (width, inputs, outputs).
    kernel = conv.weight.to(dtype).permute(2, 1, 0)
    bias = torch.zeros((), dtype=dtype, device=frames.device) if conv.bias is None else conv.bias.to(dtype)
    if frames.shape[2] % _ALIGNMENT:
        # The few channels of the samples themselves: these are copied.
        rows = frames.unfold(1, width, stride).transpose(2, 3).flatten(2)
        missing = -rows.shape[2] % _ALIGNMENT
        kernel = pad(kernel.flatten(0, 1), (0, 0, 0, missing))
        return linear(pad(rows, (0, missing)), kernel.t(), bias.expand(conv.out_channels))
    output = bias
    for start in range(0, width, stride):
        taps = min(stride, width - start)
        rows = frames[:, start:].unfold(1, taps, stride)[:, :outputs].transpose(2, 3).flatten(2)
        part = kernel[start : start + taps].flatten(0, 1)
        output = torch.baddbmm(output, rows, part.expand(len(rows), -1, -1))
    return output
