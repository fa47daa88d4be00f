"""The architectures that can be trained, and settings of a run that some of them cannot have."""

from collections.abc import Mapping
from typing import Any

from speechmill.config.augment import AugmentConfig
from speechmill.config.finetune import MemoryConfig

ARCHITECTURES = ("wav2vec2", "hubert", "wavlm", "wav2vec2-bert", "parakeet_ctc")
"""The `model_type` of each architecture that can be trained."""

# Their input is mel spectra, which are computed on the CPU; that of the others is samples.
_WITH_MEL_SPECTRA = ("wav2vec2-bert", "parakeet_ctc")


def architecture_errors(config: Mapping[str, Any], finetune: MemoryConfig, augment: AugmentConfig) -> list[str]:
    """Return an error message for each setting of a run that does not fit the architecture of its model.

    Args:
        config: The transformers configuration of the model; `model_type` and `adapter_attn_dim` are read.
        finetune: The section `finetune` of the run.
        augment: Its section `augment`.
    """
    architecture, errors = config.get("model_type"), []
    if architecture not in ARCHITECTURES:
        return [f"model: the architecture {architecture} is not supported; choose one of {', '.join(ARCHITECTURES)}"]
    if augment.is_on and architecture in _WITH_MEL_SPECTRA:
        errors.append(
            f"augment: the input of {architecture} is mel spectra, and only samples can be augmented; remove the"
            " section and use SpecAugment instead: `mask_time_prob` and related keys in the model's configuration"
        )
    if finetune.freeze_feature_encoder and architecture in _WITH_MEL_SPECTRA:
        errors.append(
            f"finetune.freeze_feature_encoder: {architecture} has no convolutions over samples; remove the key"
        )
    if finetune.train_only_adapters and not config.get("adapter_attn_dim"):
        errors.append(
            "finetune.train_only_adapters: the model has no adapters; set adapter_attn_dim in its configuration, which"
            " is 16 in MMS, or remove the key"
        )
    return errors
