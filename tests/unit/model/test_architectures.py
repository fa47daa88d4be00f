from typing import Any

import pytest

from material import ARCHITECTURES
from speechmill.config.augment import AugmentConfig
from speechmill.config.finetune import MemoryConfig
from speechmill.model.architectures import architecture_errors

SPEED = {"speed": [0.9, 1.1]}
WITH_SPECTRA = ("w2v-bert", "w2v-bert-adapter", "parakeet", "lasr", "granite")


def errors(config: dict[str, Any], augment: dict[str, Any] | None = None, **finetune: Any) -> str:
    return "; ".join(architecture_errors(config, MemoryConfig(**finetune), AugmentConfig(**(augment or {}))))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_settings_that_an_architecture_cannot_have_are_named(name: str) -> None:
    config, spectra = ARCHITECTURES[name], name in WITH_SPECTRA
    assert errors(config) == errors(config, freeze_feature_encoder=False) == ""
    assert ("augment: the input of" in errors(config, augment=SPEED)) is spectra
    assert ("has no convolutions over samples" in errors(config, freeze_feature_encoder=True)) is spectra
    assert ("the model has no adapters" in errors(config, train_only_adapters=True)) is (name != "mms")


def test_architecture_without_ctc_is_named() -> None:
    assert "transformers has no CTC model of the architecture whisper; choose one of" in errors(
        {"model_type": "whisper"}
    )
