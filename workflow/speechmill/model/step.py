"""What a step of training computes, and how fast: what learns, attention, checkpointing of activations, compilation."""

import os
import shutil
from typing import Any

import torch
from transformers import PreTrainedModel

from speechmill.config.finetune import MemoryConfig
from speechmill.core.command import SpeechmillError
from speechmill.model.models import adapters, head_name

# Compiled variants of a layer: with and without a mask, of one clip or more, for training and for the probe.
_VARIANTS = 32


def freeze(model: PreTrainedModel, settings: MemoryConfig, has_base: bool) -> None:
    """Leave out of training what the settings say: the convolutions over samples, or all but adapters and head.

    A base has learnt its convolutions from more audio than any fine-tuning has. At the rate of samples they are cheap
    in arithmetic, a twentieth of XLS-R 1B's, and dear in memory: kept for a backward pass, what they make of a second
    takes a third of what all layers take.

    Raises SpeechmillError where the model has not got what the settings name.
    """
    has_convolutions = hasattr(model, "freeze_feature_encoder")
    asked = settings.freeze_feature_encoder
    if asked and not has_convolutions:
        raise SpeechmillError(
            f"finetune.freeze_feature_encoder: {model.config.model_type} has no convolutions over samples; leave it out"
        )
    if has_convolutions and (settings.train_only_adapters or asked or (asked is None and has_base)):
        # More than `requires_grad`: the convolutions would otherwise ask for the gradient of the samples in training,
        # and so for the backward pass through all of them.
        model.freeze_feature_encoder()  # type: ignore[operator]
    if settings.train_only_adapters:
        learning = adapters(model)
        if not learning:
            raise SpeechmillError(
                "finetune.train_only_adapters: the model has no adapters; set model.config.adapter_attn_dim, which is"
                " 16 in MMS, or leave it out"
            )
        model.requires_grad_(False)
        for part in (*learning, getattr(model, head_name(model))):
            part.requires_grad_(True)


def set_attention(model: PreTrainedModel, wanted: str) -> str:
    """Make the model attend by the kernels `wanted`, "sdpa" or "eager"; which it is now.

    SDPA never writes the matrix of all pairs of frames to memory, which grows with the square of a clip's length.
    WavLM's attention, whose bias depends on what is heard, has no SDPA in transformers.
    """
    chosen = wanted if wanted == "eager" or model._supports_sdpa else "eager"
    model.set_attn_implementation(chosen)
    return chosen


def checkpoint_activations(model: PreTrainedModel) -> None:
    """Keep only each layer's input for the backward pass and compute the rest again: less memory, a third more work.

    Not reentrant: that variant needs an input with a gradient, which a frozen feature encoder does not give.
    """
    model.activation_checkpointing_enable({"use_reentrant": False})


def compile_layers(model: PreTrainedModel) -> None:
    """Compile each layer of the encoder, and nothing else.

    Layers are where the time goes, and they are alike, so one compilation serves all. What is around them would break
    the graph: masks of SpecAugment, layers that are dropped, and the CTC loss, which stays in fp32. Lengths are
    symbols in the compiled code, or each length of a batch would be compiled anew.

    Raises SpeechmillError where there is no C++ compiler.
    """
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise SpeechmillError(
            f"finetune.compile needs a C++ compiler, and there is no {compiler}: install one, name another in CXX, or"
            " set it to false"
        )
    torch._dynamo.config.recompile_limit = _VARIANTS
    encoder: Any = model.base_model.encoder
    for layer in encoder.layers:
        layer.compile(dynamic=True)
