from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import PreTrainedModel

from material import ARCHITECTURES
from speechmill.model import variable_length_attention
from speechmill.model.attention_masks import attention_masks_on_device
from speechmill.model.models import model_config, new_model
from speechmill.model.training_setup import compile_layers
from speechmill.model.variable_length_attention import attend_within_clips, can_attend_within_clips

META = torch.device("meta")
LENGTHS = (8000, 5000, 6400)


def reference(
    query: Tensor, key: Tensor, value: Tensor, boundaries: Tensor, longest: int, dropout: float, scaling: float | None
) -> Tensor:
    """Compute what the kernel of a GPU does, one sequence at a time."""
    ends = boundaries.tolist()
    assert ends[0] == 0 and ends[-1] == len(query)
    output = torch.zeros_like(query)
    for start, stop in pairwise(ends):
        assert 0 <= stop - start <= longest
        rows = (each[start:stop].transpose(0, 1) for each in (query, key, value))
        output[start:stop] = scaled_dot_product_attention(*rows, None, dropout, scale=scaling).transpose(0, 1)
    return output


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Compute on the CPU what a GPU would, and list the numbers of sequences."""
    numbers: list[int] = []

    def counted(*args: Any) -> Tensor:
        numbers.append(len(args[3]) - 1)
        return reference(*args)

    monkeypatch.setattr(variable_length_attention, "_has_kernel", lambda _: True)
    monkeypatch.setattr(variable_length_attention, "_flash_attention", counted)
    return numbers


def built(name: str) -> PreTrainedModel:
    torch.manual_seed(0)
    model = new_model(model_config(ARCHITECTURES[name], None, {}, 8), None, None)
    # Nothing random.
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        elif hasattr(module, "dropout") and isinstance(module.dropout, float):
            module.dropout = 0.0
    for key in ("layerdrop", "mask_time_prob", "mask_feature_prob"):
        setattr(model.config, key, 0.0)
    attention_masks_on_device(model)
    return model.train()


def computed(model: PreTrainedModel, padded: bool = True, half: bool = True) -> tuple[Tensor, Tensor]:
    """Return the logits of the frames of all clips, without padding, and all gradients, each in one dimension."""
    samples = torch.randn(3, 8000, generator=torch.Generator().manual_seed(1))
    mask = (torch.arange(8000) < torch.tensor(LENGTHS)[:, None]).int() if padded else None
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        logits = model(samples, attention_mask=mask).logits.float()
    frames = model._get_feat_extract_output_lengths(torch.tensor(LENGTHS if padded else [8000] * 3)).tolist()
    valid = torch.cat([of_clip[:n].flatten() for of_clip, n in zip(logits, frames, strict=True)])
    valid.square().sum().backward()
    gradients = torch.cat([each.grad.flatten() for each in model.parameters() if each.grad is not None])
    return valid.detach(), gradients


@pytest.mark.parametrize("name", ["wav2vec2", "hubert", "unispeech", "data2vec"])
def test_clips_attend_to_themselves_as_with_a_mask(name: str, calls: list[int]) -> None:
    usual, changed = built(name), built(name)
    assert attend_within_clips(changed)
    expected, found = computed(usual), computed(changed)
    # A clip and its padding for each of three clips, in each layer.
    assert calls == [6] * usual.config.num_hidden_layers
    for one, other in zip(found, expected, strict=True):
        assert float((one - other).norm() / other.norm()) < 0.02


def test_batches_without_padding_need_no_boundaries(calls: list[int]) -> None:
    changed = built("wav2vec2")
    attend_within_clips(changed)
    computed(changed, padded=False)
    assert calls == []


def test_it_is_sdpa_in_full_precision(calls: list[int]) -> None:
    usual, changed = built("wav2vec2"), built("wav2vec2")
    attend_within_clips(changed)
    torch.testing.assert_close(computed(changed, half=False), computed(usual, half=False), rtol=0, atol=0)
    assert calls == []


def test_it_is_sdpa_on_a_cpu() -> None:
    usual, changed = built("wav2vec2"), built("wav2vec2")
    attend_within_clips(changed)
    torch.testing.assert_close(computed(changed)[0], computed(usual)[0], rtol=0, atol=0)


def test_layers_are_compiled_as_one_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variable_length_attention, "_has_kernel", lambda _: True)
    # The graph does not depend on its values.
    monkeypatch.setattr(variable_length_attention, "_flash_attention", lambda query, *_: 1.0 * query)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    model = built("wav2vec2")
    attend_within_clips(model)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compile_layers(model)
    computed(model)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert not torch._dynamo.utils.counters["graph_break"]


@pytest.mark.parametrize(("size", "heads", "can"), [(32, 4, True), (36, 4, False), (600, 2, False), (1280, 16, True)])
def test_the_kernel_needs_a_suitable_size_of_heads(size: int, heads: int, can: bool) -> None:
    settings = ARCHITECTURES["wav2vec2"] | {"hidden_size": size, "num_attention_heads": heads}
    assert can_attend_within_clips(model_config(settings, None, {}, 8)) == can


def test_a_second_call_changes_nothing() -> None:
    model = built("wav2vec2")
    for _ in range(2):
        assert attend_within_clips(model)
    hooks = [layer.attention._forward_pre_hooks for layer in model.base_model.encoder.layers]
    assert {len(each) for each in hooks} == {1}


@pytest.mark.parametrize("name", ["wavlm", "w2v-bert", "conformer", "parakeet", "sew-d"])
def test_attention_with_relative_positions_is_left_alone(name: str) -> None:
    model = built(name)
    before = model.config._attn_implementation
    assert not can_attend_within_clips(model.config) and not attend_within_clips(model)
    assert model.config._attn_implementation == before


def test_eager_attention_stays_as_set() -> None:
    model = built("wav2vec2")
    model.set_attn_implementation("eager")
    assert not attend_within_clips(model)
    assert model.config._attn_implementation == "eager"


def test_pytorch_has_the_kernel() -> None:
    rows = (torch.empty(12, 2, 8, device=META, dtype=torch.bfloat16) for _ in range(3))
    boundaries = torch.empty(5, device=META, dtype=torch.int32)
    output = variable_length_attention._flash_attention(*rows, boundaries, 6, 0.1, 0.5)
    assert output.shape == (12, 2, 8)
