from typing import Any

import pytest

from material import ARCHITECTURES as CONFIGURATIONS
from speechmill.config.architectures import ARCHITECTURES, architecture_errors
from speechmill.config.augment import AugmentConfig
from speechmill.config.finetune import MemoryConfig

SPEED = {"speed": [0.9, 1.1]}


def errors(model_type: str, adapters: bool = False, augment: dict[str, Any] | None = None, **finetune: Any) -> str:
    config = {"model_type": model_type} | ({"adapter_attn_dim": 16} if adapters else {})
    return "; ".join(architecture_errors(config, MemoryConfig(**finetune), AugmentConfig(**(augment or {}))))


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_defaults_fit_every_architecture(name: str) -> None:
    assert architecture_errors(CONFIGURATIONS[name], MemoryConfig(), AugmentConfig()) == []


def test_settings_that_an_architecture_cannot_have_are_named() -> None:
    for model_type in ARCHITECTURES:
        with_samples = model_type in ("wav2vec2", "hubert", "wavlm")
        assert ("augment: the input of" in errors(model_type, augment=SPEED)) != with_samples
        assert ("has no convolutions over samples" in errors(model_type, freeze_feature_encoder=True)) != with_samples
        assert errors(model_type, freeze_feature_encoder=False) == ""
        assert "the model has no adapters" in errors(model_type, train_only_adapters=True)
    assert errors("wav2vec2", adapters=True, train_only_adapters=True) == ""
    assert "the architecture whisper is not supported; choose one of wav2vec2, hubert" in errors("whisper")
