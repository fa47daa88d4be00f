from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from material import ARCHITECTURES
from speechmill.model.models import model_config, new_model
from speechmill.model.positional_convolution import convolve_input_gradients

# The kernel and the groups of wav2vec 2.0, and an odd kernel, which needs no frame to be cut off.
SIZES = {"num_conv_pos_embeddings": 128, "num_conv_pos_embedding_groups": 16}, {"num_conv_pos_embeddings": 7}


def built(settings: dict[str, Any]) -> PreTrainedModel:
    torch.manual_seed(0)
    return new_model(model_config(settings, None, {}, 8), None, None)


def gradients(model: PreTrainedModel, dtype: torch.dtype | None = None) -> dict[str, torch.Tensor]:
    """Return the gradients of the weights and of the input of the convolutions over positions."""
    generator = torch.Generator().manual_seed(1)
    embedding = model.base_model.encoder.pos_conv_embed
    frames = torch.randn(3, 50, model.config.hidden_size, generator=generator, requires_grad=True)
    with torch.autocast("cpu", dtype, enabled=dtype is not None):
        output = embedding(frames)
    (output.float() * torch.randn(output.shape, generator=generator)).sum().backward()
    return {"output": output.detach(), "input": frames.grad} | {
        key: each.grad for key, each in embedding.named_parameters()
    }


@pytest.mark.parametrize(
    "settings",
    [
        *(ARCHITECTURES["wav2vec2"] | size for size in SIZES),
        *(ARCHITECTURES[n] for n in ("hubert", "wavlm", "data2vec")),
    ],
    ids=["wav2vec2", "odd kernel", "hubert", "wavlm", "data2vec"],
)
@pytest.mark.parametrize(("dtype", "tolerance"), [(None, 1e-5), (torch.bfloat16, 2e-2)])
def test_gradients_are_those_of_the_usual_backward_pass(
    settings: dict[str, Any], dtype: torch.dtype | None, tolerance: float
) -> None:
    usual, changed = built(settings), built(settings)
    assert convolve_input_gradients(changed) > 0
    expected, found = gradients(usual, dtype), gradients(changed, dtype)
    assert set(found) == set(expected) and len(found) > 3
    for key, each in expected.items():
        torch.testing.assert_close(found[key], each, rtol=tolerance, atol=tolerance * float(each.abs().max()))


def test_weights_keep_their_names_and_values() -> None:
    usual, changed = built(ARCHITECTURES["wav2vec2"]), built(ARCHITECTURES["wav2vec2"])
    convolve_input_gradients(changed)
    torch.testing.assert_close(dict(changed.state_dict()), dict(usual.state_dict()), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["sew", "w2v-bert", "parakeet"])
def test_other_layers_are_left_alone(name: str) -> None:
    assert convolve_input_gradients(built(ARCHITECTURES[name])) == 0
