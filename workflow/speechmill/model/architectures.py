"""Settings of a run that the architecture of its model cannot have."""

from collections.abc import Mapping
from typing import Any

from transformers import AutoConfig

from speechmill.config.architectures import adapter_errors
from speechmill.config.augment import AugmentConfig
from speechmill.config.finetune import MemoryConfig
from speechmill.core.command import SpeechmillError
from speechmill.model.models import processes_samples
from speechmill.text.vocab import extractor_class


def architecture_errors(config: Mapping[str, Any], finetune: MemoryConfig, augment: AugmentConfig) -> list[str]:
    """Return an error message for each setting of a run that does not fit the architecture of its model.

    Args:
        config: The transformers configuration of the model; `model_type` and `adapter_attn_dim` are read.
        finetune: The section `finetune` of the run.
        augment: Its section `augment`.
    """
    architecture, errors = str(config.get("model_type")), []
    try:
        extractor_class(architecture)
    except SpeechmillError as error:
        return [str(error)]
    if processes_samples(AutoConfig.for_model(architecture)):
        return adapter_errors(config, finetune)
    if augment.is_on:
        errors.append(
            f"augment: the input of {architecture} is mel spectra, and only samples can be augmented; remove the"
            " section and use SpecAugment instead: `mask_time_prob` and related keys in the model's configuration"
        )
    if finetune.freeze_feature_encoder:
        errors.append(
            f"finetune.freeze_feature_encoder: {architecture} has no convolutions over samples; remove the key"
        )
    return errors + adapter_errors(config, finetune)
