from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from material import ARCHITECTURES
from speechmill.model.models import model_config, new_model
from speechmill.model.positional_convolution import convolve_positions_by_fft

# The kernel and the groups of wav2vec 2.0, and an odd kernel, which needs no frame to be cut off.
WIDE = {"num_conv_pos_embeddings": 128, "num_conv_pos_embedding_groups": 16}
ODD = {"num_conv_pos_embeddings": 7}


def built(settings: dict[str, Any]) -> PreTrainedModel:
    torch.manual_seed(0)
    return new_model(model_config(settings, None, {}, 8), None, None)


def computed(model: PreTrainedModel, frames: int, dtype: torch.dtype | None = None) -> dict[str, torch.Tensor]:
    """Return the output of the convolutions over positions, and the gradients of their weights and input."""
    generator = torch.Generator().manual_seed(1)
    embedding = model.base_model.encoder.pos_conv_embed
    inputs = torch.randn(3, frames, model.config.hidden_size, generator=generator, requires_grad=True)
    with torch.autocast("cpu", dtype, enabled=dtype is not None):
        output = embedding(inputs)
    (output.float() * torch.randn(output.shape, generator=generator)).sum().backward()
    return {"output": output.detach(), "input": inputs.grad} | {
        key: each.grad for key, each in embedding.named_parameters()
    }


@pytest.mark.parametrize(
    "settings",
    [
        *(ARCHITECTURES["wav2vec2"] | size for size in (WIDE, ODD)),
        *(ARCHITECTURES[name] for name in ("hubert", "wavlm", "data2vec")),
    ],
    ids=["wav2vec2", "odd kernel", "hubert", "wavlm", "data2vec"],
)
@pytest.mark.parametrize("frames", [2, 50, 129])
@pytest.mark.parametrize(("dtype", "tolerance"), [(None, 1e-5), (torch.bfloat16, 5e-2)])
def test_outputs_and_gradients_are_those_of_the_usual_convolution(
    settings: dict[str, Any], frames: int, dtype: torch.dtype | None, tolerance: float
) -> None:
    usual, changed = built(settings), built(settings)
    assert convolve_positions_by_fft(changed, narrowest=1) > 0
    expected, found = computed(usual, frames, dtype), computed(changed, frames, dtype)
    assert set(found) == set(expected) and len(found) > 3
    for key, each in expected.items():
        assert found[key].dtype == each.dtype
        assert float((found[key] - each).norm()) < tolerance * float(each.norm()), key


def test_weights_keep_their_names_and_values() -> None:
    usual, changed = (built(ARCHITECTURES["wav2vec2"] | WIDE) for _ in range(2))
    assert convolve_positions_by_fft(changed) == 1
    torch.testing.assert_close(dict(changed.state_dict()), dict(usual.state_dict()), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["wav2vec2", "sew", "w2v-bert", "parakeet"])
def test_narrow_and_other_convolutions_are_left_alone(name: str) -> None:
    assert convolve_positions_by_fft(built(ARCHITECTURES[name])) == 0
