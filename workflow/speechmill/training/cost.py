"""What training takes in arithmetic and memory, worked out from the shape of the model; nothing is computed with it."""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import AutoModelForCTC, PreTrainedConfig

from speechmill.config.finetune import MemoryConfig
from speechmill.core.tables import SAMPLE_RATE
from speechmill.model.models import encoder_config, frame_samples
from speechmill.model.step import freeze

# Bytes that the forward pass keeps for the backward pass: what autograd holds in transformers 5.23 and torch 2.11 under
# CUDA's autocast, counted by its hooks on wav2vec2 with dropout. A layer of a hidden size h has 12 h² parameters and
# keeps 46 h bytes a frame in 16 bits, 70 h in 32; by parameters, the other layers of w2v-BERT 2.0 are met to 12 %.
_LAYER_BYTES = {16: 46 / 12, 32: 70 / 12}
# The same for a value of a convolution that makes frames of samples, where it is trained.
_CONVOLUTION_BYTES = {16: 10, 32: 12}
# For a pair of frames of one clip and an attention head, which `eager` attention keeps and `sdpa` does not.
_PAIR_BYTES = {16: 7, 32: 9}
# For a value of the widest convolution while it is computed: with the norm and the activation behind it.
_PASSING_BYTES = 12
# A GPU's context, the workspaces of its libraries, and what lies unused between blocks.
_OVERHEAD = 10**9


@dataclass(frozen=True)
class Cost:
    """What training takes: memory in bytes, arithmetic in floating-point operations."""

    parameters: int
    flop_per_audio_second: float
    """Forward and backward, without what gradient checkpointing computes again."""
    weights: int
    gradients: int
    optimizer: int
    """The two moments of AdamW."""
    other: int
    activations: dict[bool, float]
    """For a padded second of a batch, without gradient checkpointing and with it."""

    @property
    def fixed(self) -> int:
        """The bytes that are there whatever the batch."""
        return self.weights + self.gradients + self.optimizer + self.other

    def memory(self, seconds: float, checkpointing: bool) -> int:
        """The bytes for a batch of so many padded seconds."""
        return int(self.fixed + self.activations[checkpointing] * seconds)

    def fitting_seconds(self, memory: float, checkpointing: bool) -> float:
        """The padded seconds of the largest batch that fits into `memory` bytes."""
        return max(0.0, memory - self.fixed) / self.activations[checkpointing]


def training_cost(
    config: PreTrainedConfig,
    settings: MemoryConfig,
    *,
    has_base: bool,
    processes: int,
    mean_seconds: float,
    longest_seconds: float,
) -> Cost:
    """The cost of training a model of this configuration on clips of these lengths.

    A multiplication and an addition are two operations. Each weight takes part in one of both for each frame in the
    forward pass, once more for the gradient of its input, and once more for its own if it is trained. Attention adds
    two products of every pair of a clip's frames.

    Raises SpeechmillError where the model has not got what the settings keep from training.
    """
    with torch.device("meta"):
        model = AutoModelForCTC.from_config(config)
    freeze(model, settings, has_base)
    encoder, frames = encoder_config(config), SAMPLE_RATE / frame_samples(config)
    layers, hidden, heads = encoder.num_hidden_layers, encoder.hidden_size, encoder.num_attention_heads
    front_end = getattr(model.base_model, "feature_extractor", None)
    in_front = {id(p) for p in front_end.parameters()} if isinstance(front_end, nn.Module) else set()
    parameters = sum(p.numel() for p in model.parameters())
    behind = sum(p.numel() for p in model.parameters() if id(p) not in in_front)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    trained_behind = sum(p.numel() for p in model.parameters() if p.requires_grad and id(p) not in in_front)
    frozen = trained == trained_behind
    values, front_flop = _convolutions(front_end)

    bits = 32 if settings.precision == "fp32" else 16
    in_layers = frames * _LAYER_BYTES[bits] * behind / hidden
    if settings.attention == "eager" or not model._supports_sdpa:
        in_layers += _PAIR_BYTES[bits] * layers * heads * frames**2 * longest_seconds
    in_front_end = 0.0 if frozen else _CONVOLUTION_BYTES[bits] * sum(values)
    # Gradient checkpointing keeps what goes into each layer, and all of one layer at a time.
    checkpointed = frames * layers * hidden * bits / 8 + in_layers / layers
    passing = _PASSING_BYTES * max(values, default=0.0)
    return Cost(
        parameters=parameters,
        flop_per_audio_second=frames * (4 * behind + 2 * trained_behind)
        + 12 * layers * hidden * frames**2 * mean_seconds
        + front_flop * (1 if frozen else 3),
        weights=4 * parameters,
        gradients=4 * trained,
        optimizer=8 * trained,
        # Autocast keeps the weights in 16 bits as well; several processes gather gradients in buckets of their own.
        other=_OVERHEAD + (2 * parameters if bits == 16 else 0) + (4 * trained if processes > 1 else 0),
        activations={
            False: max(in_front_end + in_layers, passing),
            True: max(in_front_end + checkpointed, passing),
        },
    )


def _convolutions(front_end: object) -> tuple[list[float], float]:
    """For each convolution over samples the values that it makes of a second; the operations of all of them for it."""
    values, operations, rate = [], 0.0, float(SAMPLE_RATE)
    for layer in front_end.modules() if isinstance(front_end, nn.Module) else ():
        if isinstance(layer, nn.Conv1d):
            rate /= layer.stride[0]
            values.append(rate * layer.out_channels)
            operations += 2 * rate * layer.weight.numel()
    return values, operations
