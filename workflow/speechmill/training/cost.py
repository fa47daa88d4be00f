"""The FLOP and the memory that training takes, estimated from the shape of the model without running it."""

import math
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedConfig

from speechmill.config.finetune import MemoryConfig
from speechmill.core.schemas import SAMPLE_RATE
from speechmill.model.lora import is_lora
from speechmill.model.models import empty_model, encoder_config, encoder_stride
from speechmill.model.training_setup import freeze_parameters
from speechmill.model.variable_length_attention import can_attend_within_clips

# Activation memory that autograd keeps for the backward pass, measured with saved-tensor hooks on wav2vec2 with dropout
# (transformers 5.23, torch 2.11, CUDA autocast). A layer of hidden size h has 12 h² parameters and keeps 46 h bytes per
# frame in 16 bits, 70 h in 32 bits. Scaling by parameters estimates the other layers of w2v-BERT 2.0 within 12 %.
_LAYER_BYTES = {16: 46 / 12, 32: 70 / 12}
# The mask of the dropout after the activation function, a byte for each of 4 h values.
_ACTIVATION_DROPOUT_BYTES = 4 / 12
# The copies of the input of attention for keys and values, in 16 bits, which `attend_within_clips` does not make.
_COPIES_BYTES = 4 / 12
# Bytes per output value of a convolution of the feature encoder, if it is trained.
_CONVOLUTION_BYTES = {16: 10, 32: 12}
# Bytes per pair of frames of a clip and attention head, which `eager` attention keeps and `sdpa` does not.
_PAIR_BYTES = {16: 7, 32: 9}
# Transient bytes per output value of the widest convolution, including its norm and activation function.
_TRANSIENT_BYTES = 12
# The CUDA context, library workspaces, and memory lost to fragmentation.
_OVERHEAD = 10**9

OPTIMIZER_BYTES = {"adamw": 8.0, "adamw_8bit": 2 + 8 / 256}
"""Bytes of the two moment estimates of a trained parameter.

In 8 bits, each block of 256 values has a scale in 32 bits; source: `AdamW8bit` of bitsandbytes.
"""


@dataclass(frozen=True)
class Cost:
    """The cost of training: memory in bytes, arithmetic in floating-point operations."""

    parameters: int
    """Of the model, which contains no low-rank matrices."""
    trained: int
    """Parameters that are trained, low-rank matrices included."""
    trained_share: float
    """Their share of all parameters, low-rank matrices included."""
    flop_per_audio_second: float
    """Of forward and backward pass, without the recomputation of gradient checkpointing."""
    weights: int
    gradients: int
    optimizer: int
    """The two moment estimates of the optimiser."""
    other: int
    accumulates: bool
    """Whether a step has several batches."""
    activations: dict[bool, float]
    """Bytes per padded second that are kept until the backward pass; by whether gradient checkpointing is used."""
    recomputed: dict[bool, float]
    """Bytes per padded second of the one layer that gradient checkpointing recomputes at a time, likewise."""

    @property
    def fixed(self) -> int:
        """The bytes that are always in use."""
        return self.weights + self.optimizer + self.other

    def activations_and_gradients(self, seconds: float, checkpointing: bool) -> int:
        """Return the most bytes that both take at once for a batch of `seconds`, padding included.

        The backward pass frees activations as it creates gradients. A step begins without gradients, but its further
        batches with those of the first.
        """
        activations = self.activations[checkpointing] * seconds
        largest = self.gradients + activations if self.accumulates else max(self.gradients, activations)
        return int(largest + self.recomputed[checkpointing] * seconds)

    def memory(self, seconds: float, checkpointing: bool) -> int:
        """Return the bytes for a batch of `seconds`, padding included."""
        return self.fixed + self.activations_and_gradients(seconds, checkpointing)

    def fitting_seconds(self, memory: float, checkpointing: bool) -> float:
        """Return the padded seconds of the largest batch that fits into `memory` bytes."""
        left, recomputed = memory - self.fixed, self.recomputed[checkpointing]
        all_activations = self.activations[checkpointing] + recomputed
        beside_gradients = left - self.gradients
        if beside_gradients < 0:
            return 0.0
        if self.accumulates:
            return beside_gradients / all_activations
        return min(left / all_activations, beside_gradients / recomputed if recomputed else math.inf)


def training_cost(
    config: PreTrainedConfig,
    settings: MemoryConfig,
    *,
    has_base: bool,
    processes: int,
    accumulates: bool,
    mean_seconds: float,
    longest_seconds: float,
) -> Cost:
    """Return the cost of training a model of this configuration on clips of these lengths.

    If it `accumulates`, a step has several batches.

    A multiplication and an addition count as two operations. For each frame, each weight takes part in one of both in
    the forward pass, in another for the gradient of its input, and in another for its own gradient if it is trained.
    Attention adds two products for every pair of frames of a clip.

    Raises:
        SpeechmillError: The model lacks the parts that the settings freeze or train.
    """
    model = empty_model(config)
    freeze_parameters(model, settings, has_base)
    encoder, frames = encoder_config(config), SAMPLE_RATE / encoder_stride(model)
    layers, hidden, heads = encoder.num_hidden_layers, encoder.hidden_size, encoder.num_attention_heads
    feature_encoder = getattr(model.base_model, "feature_extractor", None)
    feature_encoder_ids = (
        {id(p) for p in feature_encoder.parameters()} if isinstance(feature_encoder, nn.Module) else set()
    )
    parameters = sum(p.numel() for name, p in model.named_parameters() if not is_lora(name))
    held = sum(p.numel() for p in model.parameters())
    rest = sum(p.numel() for p in model.parameters() if id(p) not in feature_encoder_ids)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    trained_rest = sum(p.numel() for p in model.parameters() if p.requires_grad and id(p) not in feature_encoder_ids)
    frozen = trained == trained_rest
    values, feature_encoder_flop = _convolutions(feature_encoder)

    bits = 32 if settings.precision == "fp32" else 16
    parameter_bytes = _LAYER_BYTES[bits]
    if not getattr(encoder, "activation_dropout", 0.0):
        parameter_bytes -= _ACTIVATION_DROPOUT_BYTES
    if bits == 16 and settings.attention == "sdpa" and can_attend_within_clips(config):
        parameter_bytes -= _COPIES_BYTES
    layer_bytes = frames * parameter_bytes * rest / hidden
    if settings.attention == "eager" or not model._supports_sdpa:
        layer_bytes += _PAIR_BYTES[bits] * layers * heads * frames**2 * longest_seconds
    feature_encoder_bytes = 0.0 if frozen else _CONVOLUTION_BYTES[bits] * sum(values)
    # Gradient checkpointing keeps the input of each layer, in 32 bits.
    checkpointed = frames * layers * hidden * 4
    transient = _TRANSIENT_BYTES * max(values, default=0.0)
    return Cost(
        parameters=parameters,
        trained=trained,
        trained_share=trained / held,
        flop_per_audio_second=frames * (4 * rest + 2 * trained_rest)
        + 12 * layers * hidden * frames**2 * mean_seconds
        + feature_encoder_flop * (1 if frozen else 3),
        weights=4 * held,
        gradients=4 * trained,
        optimizer=int(OPTIMIZER_BYTES[settings.optimizer] * trained),
        # Autocast caches the weights in 16 bits; DistributedDataParallel gathers gradients in separate buckets.
        other=_OVERHEAD + (2 * held if bits == 16 else 0) + (4 * trained if processes > 1 else 0),
        accumulates=accumulates,
        activations={
            False: max(feature_encoder_bytes + layer_bytes, transient),
            True: max(feature_encoder_bytes + checkpointed, transient),
        },
        recomputed={False: 0.0, True: layer_bytes / layers},
    )


def _convolutions(feature_encoder: object) -> tuple[list[float], float]:
    """Return the values that each convolution outputs per second of audio, and the operations of all of them."""
    values, operations, rate = [], 0.0, float(SAMPLE_RATE)
    for layer in feature_encoder.modules() if isinstance(feature_encoder, nn.Module) else ():
        if isinstance(layer, nn.Conv1d):
            rate /= layer.stride[0]
            values.append(rate * layer.out_channels)
            operations += 2 * rate * layer.weight.numel()
    return values, operations
