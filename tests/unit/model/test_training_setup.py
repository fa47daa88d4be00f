from functools import partial
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters
from transformers import PreTrainedModel

from material import ARCHITECTURES, LAYER_NORM, random_inputs
from speechmill.config.finetune import MemoryConfig
from speechmill.core.command import SpeechmillError
from speechmill.model.models import adapters, forward, model_config, new_model
from speechmill.model.training_setup import checkpoint_activations, compile_layers, freeze_parameters, set_attention

MMS = LAYER_NORM | {"adapter_attn_dim": 4}
W2V_BERT = {
    "model_type": "wav2vec2-bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "intermediate_size": 32, "conv_depthwise_kernel_size": 5, "apply_spec_augment": False,
}  # fmt: skip


def build_model(init: dict[str, Any]) -> PreTrainedModel:
    torch.manual_seed(1)
    return new_model(model_config(init, None, {}, 8), None, {}).train()


def batch(samples: int = 4000, clips: int = 2) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return {"input_values": torch.randn(clips, samples, generator=generator)}


def masked_batch(samples: int = 4000) -> dict[str, torch.Tensor]:
    mask = torch.ones(2, samples, dtype=torch.int32)
    mask[1, samples // 2 :] = 0
    return batch(samples) | {"attention_mask": mask}


def trainable(model: PreTrainedModel) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def convolutions_need_gradient(model: PreTrainedModel) -> bool:
    """Return whether the backward pass of a step includes the convolutions over samples."""
    needed = []
    convolutions: Any = model.base_model.feature_extractor
    hook = convolutions.register_forward_hook(lambda *call: needed.append(call[-1].requires_grad))
    forward(model, batch()).sum().backward()
    hook.remove()
    return bool(needed[0])


@pytest.mark.parametrize(("requested", "has_base"), [(None, False), (False, False), (False, True)])
def test_convolutions_train_without_base_or_on_request(requested: bool | None, has_base: bool) -> None:
    model = build_model(LAYER_NORM)
    freeze_parameters(model, MemoryConfig(freeze_feature_encoder=requested), has_base)
    assert trainable(model) == {name for name, _ in model.named_parameters()}
    assert convolutions_need_gradient(model)


@pytest.mark.parametrize("model_type", ["wav2vec2", "hubert", "wavlm"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_frozen_convolutions_have_no_backward_pass(model_type: str, checkpointing: bool) -> None:
    model = build_model(LAYER_NORM | {"model_type": model_type})
    freeze_parameters(model, MemoryConfig(), has_base=True)
    if checkpointing:
        checkpoint_activations(model)
    assert not convolutions_need_gradient(model)
    assert not any(".feature_extractor." in name for name in trainable(model))
    encoder: Any = model.base_model.encoder
    assert all(parameter.grad is not None for parameter in encoder.parameters())


@pytest.mark.parametrize("checkpointing", [False, True])
def test_training_adapters_freezes_everything_else(checkpointing: bool) -> None:
    model = build_model(MMS)
    freeze_parameters(model, MemoryConfig(train_only_adapters=True), has_base=True)
    if checkpointing:
        checkpoint_activations(model)
    # Reference: `Wav2Vec2ForCTC._get_adapters`, the parameters that transformers' example for MMS trains.
    assert trainable(model) == set(model._get_adapters())  # type: ignore[operator]
    assert not convolutions_need_gradient(model)
    for part in adapters(model):
        assert all(bool(parameter.grad.any()) for parameter in part.parameters() if parameter.grad is not None)


def test_missing_adapters_are_rejected() -> None:
    with pytest.raises(SpeechmillError, match=r"train_only_adapters: the model has no adapters; .*adapter_attn_dim"):
        freeze_parameters(build_model(LAYER_NORM), MemoryConfig(train_only_adapters=True), has_base=True)


def test_missing_convolutions_fail_only_on_request() -> None:
    model = build_model(W2V_BERT)
    freeze_parameters(model, MemoryConfig(), has_base=True)
    assert len(trainable(model)) == len(list(model.parameters()))
    with pytest.raises(SpeechmillError, match="freeze_feature_encoder: wav2vec2-bert has no convolutions over samples"):
        freeze_parameters(model, MemoryConfig(freeze_feature_encoder=True), has_base=True)


@pytest.mark.parametrize(("model_type", "best"), [("wav2vec2", "sdpa"), ("hubert", "sdpa"), ("wavlm", "eager")])
def test_sdpa_and_eager_attention_agree(model_type: str, best: str) -> None:
    model = build_model(LAYER_NORM | {"model_type": model_type}).eval()
    assert set_attention(model, "sdpa") == best
    with torch.no_grad():
        fast = forward(model, masked_batch())
        assert set_attention(model, "eager") == "eager"
        slow = forward(model, masked_batch())
    # The second clip is half padding, whose frames are not used.
    assert torch.allclose(fast[0], slow[0], atol=1e-5)
    assert torch.allclose(fast[1, :5], slow[1, :5], atol=1e-5)


def gradients(model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    model.zero_grad()
    torch.manual_seed(4)
    forward(model, inputs).square().sum().backward()
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


def test_checkpointing_keeps_gradients() -> None:
    model = build_model(LAYER_NORM | {"hidden_dropout": 0.3})
    calls = []
    encoder: Any = model.base_model.encoder
    encoder.layers[0].attention.register_forward_hook(lambda *_: calls.append(1))
    kept = [gradient.clone() for gradient in gradients(model, masked_batch())]
    assert len(calls) == 1
    checkpoint_activations(model)
    assert all(torch.equal(a, b) for a, b in zip(kept, gradients(model, masked_batch()), strict=True))
    assert len(calls) == 3


@pytest.mark.parametrize("name", ["conformer", "parakeet", "lasr", "granite"])
def test_checkpointing_counts_a_batch_once_in_running_statistics(name: str) -> None:
    buffers = []
    for checkpointing in (False, True):
        model = build_model(ARCHITECTURES[name])
        if checkpointing:
            checkpoint_activations(model)
        model(random_inputs(model)).logits.square().sum().backward()
        buffers.append(dict(model.named_buffers()))
    kept, recomputed = buffers
    torch.testing.assert_close(recomputed, kept, rtol=0, atol=0)
    assert {int(value) for each, value in kept.items() if each.endswith("num_batches_tracked")} == {1}


# One architecture for each kind of layer.
@pytest.mark.parametrize("name", ["wavlm", "conformer", "sew-d", "w2v-bert", "parakeet"])
def test_compiled_layers_with_checkpointing_have_the_same_gradients(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Traced and divided into forward and backward pass as usual, but run without compiling to C++.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager_decomp_partition"))
    # Compiled code draws other random numbers.
    monkeypatch.setattr(torch.nn.functional, "dropout", lambda values, *_, **__: values)

    def results(model: PreTrainedModel) -> dict[str, torch.Tensor]:
        # The kernels of SDPA have a dropout of their own.
        set_attention(model.double(), "eager")
        for seconds in (1.0, 0.8):
            model(random_inputs(model, seconds).double()).logits.square().sum().backward()
        gradients = {each: parameter.grad for each, parameter in model.named_parameters() if parameter.grad is not None}
        return gradients | dict(model.named_buffers())

    expected = results(build_model(ARCHITECTURES[name]))
    model = build_model(ARCHITECTURES[name])
    checkpoint_activations(model, compiled=True)
    torch._dynamo.reset()
    compile_layers(model)
    torch.testing.assert_close(results(model), expected, rtol=1e-4, atol=1e-4)


def test_layers_are_compiled_once_for_all_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    # The graph is traced as usual but run in eager mode, since compiling it to C++ takes a minute.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    model = build_model(LAYER_NORM)
    before = [[gradient.clone() for gradient in gradients(model, batch(samples))] for samples in (4000, 5000)]
    torch._dynamo.reset()
    counters.clear()
    compile_layers(model)
    after = [[gradient.clone() for gradient in gradients(model, batch(samples))] for samples in (4000, 5000)]
    for compiled, eager in zip(after, before, strict=True):
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(compiled, eager, strict=True))
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
    assert not any("_orig_mod" in key for key in model.state_dict())


def test_missing_compiler_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(SpeechmillError, match=r"finetune\.compile needs a C\+\+ compiler, and no-such-compiler is not"):
        compile_layers(build_model(LAYER_NORM))
