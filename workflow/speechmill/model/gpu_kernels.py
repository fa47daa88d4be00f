"""The parts of a model that other kernels compute faster on a GPU than those that transformers uses."""

import torch
from transformers import PreTrainedModel

from speechmill.model.positional_convolution import convolve_positions_by_fft
from speechmill.model.sample_convolutions import convolve_samples_as_products
from speechmill.model.variable_length_attention import attend_within_clips


def use_gpu_kernels(model: PreTrainedModel, device: torch.device) -> None:
    """Set up a model for its device. On a CPU, and if it is called again, nothing changes.

    Weights and their names do not change, and outputs and gradients only by rounding and by the random numbers of
    dropout in attention.
    """
    if device.type == "cuda":
        convolve_positions_by_fft(model)
        convolve_samples_as_products(model)
        attend_within_clips(model)
