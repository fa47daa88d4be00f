from functools import partial
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters
from transformers import PreTrainedModel

from material import LAYER_NORM
from speechmill.config.finetune import MemoryConfig
from speechmill.core.command import SpeechmillError
from speechmill.model.models import adapters, forward, model_config, new_model
from speechmill.model.step import checkpoint_activations, compile_layers, freeze, set_attention

MMS = LAYER_NORM | {"adapter_attn_dim": 4}
W2V_BERT = {
    "model_type": "wav2vec2-bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "intermediate_size": 32, "conv_depthwise_kernel_size": 5, "apply_spec_augment": False,
}  # fmt: skip


def made(init: dict[str, Any]) -> PreTrainedModel:
    torch.manual_seed(1)
    return new_model(model_config(init, None, {}, 8), None, {}).train()


def batch(samples: int = 4000, clips: int = 2) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return {"input_values": torch.randn(clips, samples, generator=generator)}


def masked(samples: int = 4000) -> dict[str, torch.Tensor]:
    mask = torch.ones(2, samples, dtype=torch.int32)
    mask[1, samples // 2 :] = 0
    return batch(samples) | {"attention_mask": mask}


def learning(model: PreTrainedModel) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def heard_with_gradient(model: PreTrainedModel) -> bool:
    """Whether the backward pass of a step goes through the convolutions over samples."""
    seen = []
    convolutions: Any = model.base_model.feature_extractor
    with_hook = convolutions.register_forward_hook(lambda *call: seen.append(call[-1].requires_grad))
    forward(model, batch()).sum().backward()
    with_hook.remove()
    return bool(seen[0])


@pytest.mark.parametrize(("asked", "has_base"), [(None, False), (False, False), (False, True)])
def test_the_convolutions_learn_with_new_weights_or_where_that_is_asked_for(asked: bool | None, has_base: bool) -> None:
    model = made(LAYER_NORM)
    freeze(model, MemoryConfig(freeze_feature_encoder=asked), has_base)
    assert learning(model) == {name for name, _ in model.named_parameters()}
    assert heard_with_gradient(model)


@pytest.mark.parametrize("model_type", ["wav2vec2", "hubert", "wavlm"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_frozen_convolutions_take_no_part_in_the_backward_pass(model_type: str, checkpointing: bool) -> None:
    model = made(LAYER_NORM | {"model_type": model_type})
    freeze(model, MemoryConfig(), has_base=True)
    if checkpointing:
        checkpoint_activations(model)
    assert not heard_with_gradient(model)
    assert not any(".feature_extractor." in name for name in learning(model))
    encoder: Any = model.base_model.encoder
    assert all(parameter.grad is not None for parameter in encoder.parameters())


@pytest.mark.parametrize("checkpointing", [False, True])
def test_where_adapters_learn_alone_nothing_below_them_does(checkpointing: bool) -> None:
    model = made(MMS)
    freeze(model, MemoryConfig(train_only_adapters=True), has_base=True)
    if checkpointing:
        checkpoint_activations(model)
    # In the order of `Wav2Vec2ForCTC._get_adapters`, which the example of MMS trains.
    assert learning(model) == set(model._get_adapters())  # type: ignore[operator]
    assert not heard_with_gradient(model)
    for part in adapters(model):
        assert all(bool(parameter.grad.any()) for parameter in part.parameters() if parameter.grad is not None)


def test_adapters_that_are_not_there_cannot_learn() -> None:
    with pytest.raises(SpeechmillError, match=r"train_only_adapters: the model has no adapters; .*adapter_attn_dim"):
        freeze(made(LAYER_NORM), MemoryConfig(train_only_adapters=True), has_base=True)


def test_convolutions_that_are_not_there_are_frozen_on_request_alone() -> None:
    model = made(W2V_BERT)
    freeze(model, MemoryConfig(), has_base=True)
    assert len(learning(model)) == len(list(model.parameters()))
    with pytest.raises(SpeechmillError, match="freeze_feature_encoder: wav2vec2-bert has no convolutions over samples"):
        freeze(model, MemoryConfig(freeze_feature_encoder=True), has_base=True)


@pytest.mark.parametrize(("model_type", "best"), [("wav2vec2", "sdpa"), ("hubert", "sdpa"), ("wavlm", "eager")])
def test_attention_is_as_asked_where_the_model_can_and_says_the_same(model_type: str, best: str) -> None:
    model = made(LAYER_NORM | {"model_type": model_type}).eval()
    assert set_attention(model, "sdpa") == best
    with torch.no_grad():
        fast = forward(model, masked())
        assert set_attention(model, "eager") == "eager"
        slow = forward(model, masked())
    # What comes after a clip's end nobody reads.
    assert torch.allclose(fast[0], slow[0], atol=1e-5)
    assert torch.allclose(fast[1, :5], slow[1, :5], atol=1e-5)


def gradients(model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    model.zero_grad()
    torch.manual_seed(4)
    forward(model, inputs).square().sum().backward()
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


def test_activations_are_computed_again_and_gradients_stay_the_same() -> None:
    model = made(LAYER_NORM | {"hidden_dropout": 0.3})
    calls = []
    encoder: Any = model.base_model.encoder
    encoder.layers[0].attention.register_forward_hook(lambda *_: calls.append(1))
    kept = [gradient.clone() for gradient in gradients(model, masked())]
    assert len(calls) == 1
    checkpoint_activations(model)
    assert all(torch.equal(a, b) for a, b in zip(kept, gradients(model, masked()), strict=True))
    assert len(calls) == 3


def test_layers_are_compiled_once_for_all_lengths_and_say_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    # The graph is made as ever, and run as it is: making C++ of it takes a minute.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    model = made(LAYER_NORM)
    before = [[gradient.clone() for gradient in gradients(model, batch(samples))] for samples in (4000, 5000)]
    torch._dynamo.reset()
    counters.clear()
    compile_layers(model)
    after = [[gradient.clone() for gradient in gradients(model, batch(samples))] for samples in (4000, 5000)]
    for ours, theirs in zip(after, before, strict=True):
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(ours, theirs, strict=True))
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
    assert not any("_orig_mod" in key for key in model.state_dict())


def test_without_a_compiler_compilation_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(SpeechmillError, match=r"finetune\.compile needs a C\+\+ compiler, and there is no no-such"):
        compile_layers(made(LAYER_NORM))
