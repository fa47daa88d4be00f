"""The gradient of the convolution over positions, computed as a convolution.

wav2vec 2.0 and its relatives add to each frame the output of a grouped convolution over 128 frames. With cuDNN, the
gradient of its input takes most of a training step: 60 % of the time of XLS-R 1B's on an H200. That gradient is itself
a convolution, of the gradient of the output with the kernel reversed in time and transposed between inputs and outputs,
so that the faster kernels of the forward pass compute it.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.autocast_mode import is_autocast_available
from torch.nn.functional import conv1d
from transformers import PreTrainedModel


def convolve_input_gradients(model: PreTrainedModel) -> int:
    """Compute the input gradients of the convolutions over positions as convolutions; return how many these are.

    Outputs, weights and their names do not change, and gradients only by rounding.
    """
    embedding = getattr(getattr(model.base_model, "encoder", None), "pos_conv_embed", None)
    modules = [] if embedding is None else [each for each in embedding.modules() if isinstance(each, nn.Conv1d)]
    # SEW's convolution has a stride, with which the gradient is another operation.
    convolutions = [each for each in modules if each.stride == each.dilation == (1,) and each.padding_mode == "zeros"]
    for each in convolutions:
        # Called with the weight, which weight normalisation computes anew in each step.
        each._conv_forward = partial(_convolution, int(each.padding[0]), each.groups)  # type: ignore[method-assign]
    return len(convolutions)


def _convolution(padding: int, groups: int, samples: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    device = samples.device.type
    if is_autocast_available(device) and torch.is_autocast_enabled(device):
        # Autocast does not see into the backward pass of a function.
        dtype = torch.get_autocast_dtype(device)
        samples, weight, bias = samples.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    return _Convolution.apply(samples, weight, bias, padding, groups)  # type: ignore[no-any-return, no-untyped-call]


class _Convolution(torch.autograd.Function):
    """`conv1d` of shape (clips, inputs, frames), with stride 1 and padding on both sides."""

    @staticmethod
    def forward(ctx: Any, samples: Tensor, weight: Tensor, bias: Tensor | None, padding: int, groups: int) -> Tensor:
        ctx.save_for_backward(samples, weight)
        ctx.padding, ctx.groups = padding, groups
        return conv1d(samples, weight, bias, padding=padding, groups=groups)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        samples, weight = ctx.saved_tensors
        needed = ctx.needs_input_grad
        of_samples = _input_gradient(gradient, weight, ctx.padding, ctx.groups) if needed[0] else None
        _, of_weight, of_bias = torch.ops.aten.convolution_backward(
            *(gradient, samples, weight, [len(weight)], [1], [ctx.padding], [1], False, [0], ctx.groups),
            [False, needed[1], needed[2]],
        )
        return of_samples, of_weight, of_bias, None, None


def _input_gradient(gradient: Tensor, weight: Tensor, padding: int, groups: int) -> Tensor:
    """Return the gradient of the input, given that of the output, shape (clips, outputs, frames).

    Args:
        gradient: The gradient of the output.
        weight: The kernel, shape (outputs, inputs of a group, width).
        padding: The padding of the forward convolution.
        groups: The number of groups.
    """
    width = weight.shape[2]
    transposed = weight.reshape(groups, -1, *weight.shape[1:]).transpose(1, 2).flatten(0, 1).flip(2)
    return conv1d(gradient, transposed, padding=width - 1 - padding, groups=groups)
