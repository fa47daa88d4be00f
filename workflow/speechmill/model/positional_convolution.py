"""The convolution over positions, computed with the fast Fourier transform.

wav2vec 2.0 and its relatives add to each frame the output of a grouped convolution over 128 frames. The kernels of
cuDNN compute it at a small fraction of a GPU's speed: in XLS-R 1B, its gradients alone took 60 % of a training step on
an H200. A product of spectra needs a hundredth of the arithmetic.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.fft import irfft, rfft
from transformers import PreTrainedModel

from speechmill.model.devices import autocast_dtype

# With narrower kernels, as those of data2vec (19), cuDNN is fast.
_NARROWEST = 64


def convolve_positions_by_fft(model: PreTrainedModel, narrowest: int = _NARROWEST) -> int:
    """Compute the convolutions over `narrowest` positions or more with the Fourier transform, and return their number.

    Weights and their names do not change, and outputs and gradients only by rounding: the transform is in fp32 in any
    precision.
    """
    embedding = getattr(getattr(model.base_model, "encoder", None), "pos_conv_embed", None)
    modules = [] if embedding is None else [each for each in embedding.modules() if isinstance(each, nn.Conv1d)]
    convolutions = [
        each
        for each in modules
        # SEW's convolution has a stride.
        if each.stride == each.dilation == (1,)
        and each.padding_mode == "zeros"
        and isinstance(each.padding, tuple)
        and each.padding[0] < each.kernel_size[0]
        and each.kernel_size[0] >= narrowest
    ]
    for each in convolutions:
        # Called with the weight, which weight normalisation computes anew in each step.
        each._conv_forward = partial(_convolution, int(each.padding[0]), each.groups)  # type: ignore[method-assign]
    return len(convolutions)


def _convolution(padding: int, groups: int, frames: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    output: Tensor = _Convolution.apply(frames, weight, padding, groups)  # type: ignore[no-untyped-call]
    if bias is not None:
        output = output + bias[:, None]
    return output.to(autocast_dtype(frames.device) or frames.dtype)


class _Convolution(torch.autograd.Function):
    """`conv1d` without a bias, with stride 1 and padding on both sides; shapes as there, the output in fp32.

    With K the width of the kernel and p the padding, output t is the sum over k of `weight[k] * frames[t + k - p]`.
    All products of spectra are over the channels of a group or over clips, separately for each group and frequency.
    """

    @staticmethod
    def forward(ctx: Any, frames: Tensor, weight: Tensor, padding: int, groups: int) -> Tensor:
        ctx.save_for_backward(frames, weight)
        ctx.padding, ctx.groups = padding, groups
        width, outputs = weight.shape[2], frames.shape[2] + 2 * padding - weight.shape[2] + 1
        size = _transform_size(max(frames.shape[2], outputs) + width)
        spectrum = _grouped(rfft(frames.float(), size), groups)
        # A convolution with the reversed kernel, whose first `width - 1 - padding` outputs are before those wanted.
        kernel = _kernel(rfft(weight.float().flip(2), size), groups)
        product = torch.matmul(spectrum, kernel.transpose(2, 3))
        start = width - 1 - padding
        output: Tensor = irfft(_joined(product), size)[..., start : start + outputs]
        return output.contiguous()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        frames, weight = ctx.saved_tensors
        padding, groups, width = ctx.padding, ctx.groups, weight.shape[2]
        size = _transform_size(max(frames.shape[2], gradient.shape[2]) + width)
        of_output = _grouped(rfft(gradient.float(), size), groups)
        of_frames = of_weight = None
        if ctx.needs_input_grad[0]:
            kernel = _kernel(rfft(weight.float(), size), groups)
            full = irfft(_joined(torch.matmul(of_output, kernel)), size)
            of_frames = full[..., padding : padding + frames.shape[2]].to(frames.dtype)
        if ctx.needs_input_grad[1]:
            spectrum = _grouped(rfft(frames.float(), size), groups)
            product = torch.matmul(of_output.conj().transpose(2, 3), spectrum)
            # From (groups, frequencies, outputs, inputs) to the shape of the kernel.
            shifts = irfft(product.permute(0, 2, 3, 1).flatten(0, 1), size)
            # Shifts below 0 are at the end.
            of_weight = shifts.roll(padding, 2)[..., :width].to(weight.dtype)
        return of_frames, of_weight, None, None


def _transform_size(least: int) -> int:
    """Return the smallest size of at least `least` that is 4, 5 or 6 times a power of two.

    The transform is fast for these, and a plan is kept for each size.
    """
    power = 1 << max(0, (least - 1).bit_length() - 3)
    return next(factor * power for factor in (4, 5, 6, 8) if factor * power >= least)


def _grouped(spectrum: Tensor, groups: int) -> Tensor:
    """Return a spectrum of shape (clips, channels, frequencies) as (groups, frequencies, clips, channels)."""
    clips, _, frequencies = spectrum.shape
    return spectrum.reshape(clips, groups, -1, frequencies).permute(1, 3, 0, 2)


def _joined(spectrum: Tensor) -> Tensor:
    """Return a spectrum of shape (groups, frequencies, clips, channels) as (clips, channels, frequencies)."""
    return spectrum.permute(2, 0, 3, 1).flatten(1, 2)


def _kernel(spectrum: Tensor, groups: int) -> Tensor:
    """Return a spectrum of shape (outputs, inputs of a group, frequencies), the groups and frequencies first."""
    _, inputs, frequencies = spectrum.shape
    return spectrum.reshape(groups, -1, inputs, frequencies).permute(0, 3, 1, 2)
