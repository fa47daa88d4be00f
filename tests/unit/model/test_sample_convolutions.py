from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from material import ARCHITECTURES
from speechmill.model.models import model_config, new_model
from speechmill.model.sample_convolutions import convolve_samples_as_products


def built(settings: dict[str, Any]) -> PreTrainedModel:
    torch.manual_seed(0)
    return new_model(model_config(settings, None, {}, 8), None, None).train()


def computed(model: PreTrainedModel, dtype: torch.dtype = torch.bfloat16) -> tuple[Tensor, Tensor]:
    """Return the output of the convolutions over samples, and the gradients of their weights in one dimension."""
    generator = torch.Generator().manual_seed(1)
    extractor = model.base_model.feature_extractor
    with torch.autocast("cpu", dtype, enabled=dtype is not torch.float32):
        # 8,003 samples do not fill the last frame.
        output = extractor(torch.randn(3, 8003, generator=generator))
    (output.float() * torch.randn(output.shape, generator=generator)).sum().backward()
    return output.detach(), torch.cat([each.grad.flatten() for each in extractor.parameters()])


def error(found: Tensor, exact: Tensor) -> float:
    return float((found.float() - exact).norm() / exact.norm())


@pytest.mark.parametrize(
    ("name", "layers"),
    # The first layer with a group norm is left alone.
    [("wav2vec2", 7), ("wav2vec2-group", 6), ("hubert", 7), ("data2vec", 7), ("wavlm", 7), ("sew", 7)],
)
def test_rounding_errors_are_those_of_autocast(name: str, layers: int) -> None:
    usual, changed = built(ARCHITECTURES[name]), built(ARCHITECTURES[name])
    assert convolve_samples_as_products(changed) == layers
    exact = computed(built(ARCHITECTURES[name]), torch.float32)
    for expected, found, true in zip(computed(usual), computed(changed), exact, strict=True):
        assert found.shape == true.shape
        assert error(found, true) < 2 * error(expected, true)


def test_nothing_changes_without_autocast() -> None:
    usual, changed = built(ARCHITECTURES["wav2vec2"]), built(ARCHITECTURES["wav2vec2"])
    convolve_samples_as_products(changed)
    torch.testing.assert_close(computed(changed, torch.float32), computed(usual, torch.float32), rtol=0, atol=0)


@pytest.mark.parametrize("channels", [8, 12])
def test_channels_of_a_frame_stay_together(channels: int) -> None:
    model = built(ARCHITECTURES["wav2vec2"] | {"conv_dim": [channels] * 7})
    convolve_samples_as_products(model)
    layer = model.base_model.feature_extractor.conv_layers[1]
    frames = torch.randn(2, 101, channels).transpose(1, 2)
    with torch.autocast("cpu", torch.bfloat16):
        output = layer(frames)
        torch.testing.assert_close(output.float(), type(layer).forward(layer, frames).float(), rtol=0.05, atol=0.05)
    assert output.transpose(1, 2).is_contiguous()


@pytest.mark.parametrize("name", ["w2v-bert", "parakeet"])
def test_models_without_convolutions_over_samples_are_left_alone(name: str) -> None:
    assert convolve_samples_as_products(built(ARCHITECTURES[name])) == 0
