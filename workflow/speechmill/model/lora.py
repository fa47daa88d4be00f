"""Low-rank adaptation (LoRA) of the linear layers of a model, with the library peft; source: arXiv 2106.09685."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import PreTrainedModel

from speechmill.config.finetune import LoraConfig
from speechmill.core.command import SpeechmillError
from speechmill.model.models import added_modules

_MATRICES = ".lora_"
"""Part of the name of each parameter that peft adds."""
_BASE_LAYER = ".base_layer"
"""The attribute of a layer of peft that has the linear layer it replaces."""


def is_lora(name: str) -> bool:
    """Return whether a parameter with this name belongs to the low-rank matrices, which no checkpoint contains."""
    return _MATRICES in name


def has_lora(model: PreTrainedModel) -> bool:
    """Return whether layers of a model have low-rank matrices."""
    return any(is_lora(name) for name, _ in model.named_parameters())


def add_lora(model: PreTrainedModel, settings: LoraConfig) -> None:
    """Add low-rank matrices to the linear layers that `settings` name, and freeze all other weights of the encoder.

    The parts that a pre-trained base lacks are trained with all their weights, and so is the embedding of masked
    frames. The new matrices are drawn from torch's generator and change no output before the first step.

    Raises:
        SpeechmillError: A target is not a linear layer of the encoder, or adapting it would have no effect.
    """
    # Only runs with `lora` need the library.
    import peft

    config = peft.LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # any number scales
        lora_dropout=settings.dropout,
        target_modules=[f"model.{name}" for name in _target_layers(model, settings.targets)],
    )
    # peft asks a model of transformers for its token embeddings, which not every CTC model can answer; in a container
    # it asks for none.
    peft.inject_adapter_in_model(
        config, torch.nn.ModuleDict({"model": model}), low_cpu_mem_usage=model.device.type == "meta"
    )
    for module in added_modules(model):
        module.requires_grad_(True)
    mask = getattr(model.base_model, "masked_spec_embed", None)
    if mask is not None:
        mask.requires_grad_(True)


def _target_layers(model: PreTrainedModel, targets: list[str] | None) -> list[str]:
    """Return the full names of the layers to adapt: those whose last name is in `targets`, or all for None."""
    trained = {module for part in added_modules(model) for module in part.modules()}
    linear = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module not in trained and not _is_read_directly(model, name)
    ]
    known = {name.rpartition(".")[2] for name in linear}
    unknown = sorted(set(targets or []) - known)
    if unknown:
        raise SpeechmillError(
            f"finetune.lora.targets: {', '.join(unknown)} cannot be adapted; the linear layers of the encoder of"
            f" {model.config.model_type} that can be are {', '.join(sorted(known))}"
        )
    return [name for name in linear if targets is None or name.rpartition(".")[2] in targets]


def _is_read_directly(model: PreTrainedModel, name: str) -> bool:
    """Return whether the model reads the weights of a layer without calling it, so that peft's layer has no effect.

    WavLM's attention passes the weights of its four projections to a function of torch.
    """
    projections = ("q_proj", "k_proj", "v_proj", "out_proj")
    return model.config.model_type == "wavlm" and name.rpartition(".")[2] in projections


@contextmanager
def merged_lora(model: PreTrainedModel) -> Iterator[None]:
    """Within the block, let each adapted layer have the sum of its weights and the product of its low-rank matrices.

    Afterwards all weights are bit for bit what they were. Without low-rank matrices, nothing changes.
    """
    if not has_lora(model):
        yield
        return
    from peft.tuners.lora import LoraLayer

    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    originals = [layer.get_base_layer().weight.data for layer in layers]
    try:
        for layer in layers:
            # A safe merge makes a new tensor; subtracting the product again would leave rounding errors.
            layer.merge(safe_merge=True)
        yield
    finally:
        for layer, weight in zip(layers, originals, strict=True):
            layer.get_base_layer().weight.data = weight
            layer.merged_adapters.clear()


def save_merged(model: PreTrainedModel, folder: Path) -> None:
    """Write a model within `merged_lora` to `folder`, as plain transformers loads it."""
    weights = {
        name.replace(_BASE_LAYER, ""): tensor for name, tensor in model.state_dict().items() if not is_lora(name)
    }
    model.save_pretrained(folder, state_dict=weights)
