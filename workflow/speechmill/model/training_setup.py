"""Preparation of a model for training: trained weights, attention kernels, activation checkpointing, compilation."""

import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from transformers import PreTrainedModel

from speechmill.config.augment import AugmentConfig
from speechmill.config.finetune import MemoryConfig
from speechmill.core.command import SpeechmillError
from speechmill.model.architectures import architecture_errors
from speechmill.model.lora import add_lora
from speechmill.model.models import adapters, encoder_layers, head_name

# Compiled variants of a layer: with and without a mask, for one clip or more, for training and for dev evaluations.
_MAX_VARIANTS = 32


def freeze_parameters(model: PreTrainedModel, settings: MemoryConfig, has_base: bool) -> None:
    """Freeze the parameters that `settings` exclude from training.

    These are the convolutions over samples, which are frozen by default if there is a base, or all parameters except
    those of the adapters and the head. With `lora`, low-rank matrices are added and trained in place of the encoder's
    weights. A base has learnt its convolutions from more audio than fine-tuning provides.
    They take little arithmetic (a twentieth of XLS-R 1B's) but much memory: their activations of a second of audio,
    kept for the backward pass, take a third of the memory that those of all layers take.

    Raises:
        SpeechmillError: The model lacks the convolutions, adapters or layers that the settings refer to.
    """
    for error in architecture_errors(model.config.to_dict(), settings, AugmentConfig()):
        raise SpeechmillError(error)
    freeze_convolutions = settings.freeze_feature_encoder
    if hasattr(model, "freeze_feature_encoder") and (
        settings.train_only_adapters
        or settings.lora is not None
        or freeze_convolutions
        or (freeze_convolutions is None and has_base)
    ):
        # `requires_grad_(False)` alone would not do: in training, the convolutions request the gradient of the samples,
        # and with it a backward pass through all of them.
        model.freeze_feature_encoder()  # type: ignore[operator]
    if settings.train_only_adapters:
        model.requires_grad_(False)
        for module in (*adapters(model), getattr(model, head_name(model))):
            module.requires_grad_(True)
    if settings.lora is not None:
        add_lora(model, settings.lora)


def set_attention(model: PreTrainedModel, wanted: str) -> str:
    """Set the attention kernels of a model, "sdpa" or "eager", and return those that are now used.

    SDPA never writes the matrix of all pairs of frames to memory, which grows with the square of a clip's length.
    WavLM falls back to "eager": its attention bias depends on the input, and transformers has no SDPA for it.
    """
    chosen = wanted if wanted == "eager" or model._supports_sdpa else "eager"
    model.set_attn_implementation(chosen)
    return chosen


def checkpoint_activations(model: PreTrainedModel, compiled: bool = False) -> None:
    """Keep only each layer's input for the backward pass and recompute the rest: less memory, a third more work.

    The reentrant variant cannot be used: it needs an input with a gradient, which a frozen feature encoder lacks.
    With `compiled`, the layers will be compiled: compiled code updates running statistics in the forward pass only, and
    PyTorch cannot compile a `context_fn`.
    """
    if compiled:
        model.activation_checkpointing_enable({"use_reentrant": False})
        return
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm1d)]

    @contextmanager
    def recomputing() -> Iterator[None]:
        # Otherwise each batch would count twice in the running statistics, which are part of the model.
        before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
        for norm in norms:
            norm.momentum, norm.num_batches_tracked = 0.0, None
        try:
            yield
        finally:
            for norm, (momentum, batches) in zip(norms, before, strict=True):
                norm.momentum, norm.num_batches_tracked = momentum, batches

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), recomputing()

    model.activation_checkpointing_enable({"use_reentrant": False, "context_fn": contexts})


def compile_layers(model: PreTrainedModel) -> None:
    """Compile each layer of the encoder, and nothing else.

    The layers take most of the time, and they are alike, so that one compilation serves all. The code around them
    would break the graph: SpecAugment masks, layerdrop, and the CTC loss, which stays in fp32. Lengths are symbolic in
    the compiled code, since otherwise each batch length would need a compilation of its own.

    Raises:
        SpeechmillError: There is no C++ compiler.
    """
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise SpeechmillError(
            f"finetune.compile needs a C++ compiler, and {compiler} is not installed: install it, set CXX to another"
            " one, or set finetune.compile to false"
        )
    torch._dynamo.config.recompile_limit = _MAX_VARIANTS
    for layer in encoder_layers(model):
        layer.compile(dynamic=True)
