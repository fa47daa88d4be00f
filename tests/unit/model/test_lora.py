"""Low-rank matrices: what is trained, what a merged folder contains, and that merging for a save changes nothing."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCTC, PreTrainedModel

from material import ARCHITECTURES, LAYER_NORM, random_inputs
from speechmill.config.finetune import MemoryConfig
from speechmill.core.command import SpeechmillError
from speechmill.model.lora import is_lora, merged_lora, save_merged
from speechmill.model.models import head_name, model_config, new_model
from speechmill.model.training_setup import compile_layers, freeze_parameters


def adapted(init: dict[str, Any], **lora: Any) -> PreTrainedModel:
    """Return a model whose low-rank matrices change its outputs, as after some steps."""
    torch.manual_seed(0)
    model = new_model(model_config(init, None, {}, 7), None, {})
    freeze_parameters(model, MemoryConfig.model_validate({"lora": {"rank": 4, "alpha": 8} | lora}), has_base=True)
    for name, parameter in model.named_parameters():
        if is_lora(name):
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(random_inputs(model)).logits  # type: ignore[no-any-return]


def trained(model: PreTrainedModel) -> Iterator[tuple[str, torch.nn.Parameter]]:
    return ((name, each) for name, each in model.named_parameters() if each.requires_grad)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_merged_folder_equals_base_plus_matrices(name: str, tmp_path: Path) -> None:
    model = adapted(ARCHITECTURES[name])
    expected = logits(model)
    with merged_lora(model):
        save_merged(model, tmp_path)
    loaded = AutoModelForCTC.from_pretrained(tmp_path)
    assert not any(is_lora(each) for each, _ in loaded.named_parameters())
    torch.testing.assert_close(logits(loaded), expected, rtol=0, atol=1e-5)
    with torch.no_grad():
        for each, parameter in model.named_parameters():
            if is_lora(each):
                parameter.zero_()
    assert (logits(model) - expected).abs().max() > 1e-3


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_trained_weight_gets_a_gradient(name: str) -> None:
    # A matrix without one has no effect, and DistributedDataParallel would wait for it.
    model = adapted(ARCHITECTURES[name]).train()
    model(random_inputs(model)).logits.square().sum().backward()
    without = [each for each, parameter in trained(model) if parameter.grad is None]
    # Used only with SpecAugment.
    assert [each for each in without if not each.endswith("masked_spec_embed")] == []


@pytest.mark.parametrize("name", ["wav2vec2-adapter", "mms"])
def test_what_a_base_lacks_is_trained_completely(name: str) -> None:
    model = adapted(ARCHITECTURES[name])
    names = {each for each, _ in trained(model) if not is_lora(each)}
    parts = {"wav2vec2-adapter": "adapter.layers", "mms": "adapter_layer"}
    complete = (head_name(model), parts[name], "masked_spec_embed")
    assert names == {each for each, _ in model.named_parameters() if any(part in each for part in complete)}
    assert not any(is_lora(each) for each, _ in trained(model) if "adapter" in each)


def test_targets_name_the_adapted_layers() -> None:
    model = adapted(LAYER_NORM, targets=["q_proj", "v_proj"])
    layers = {each.split(".lora_")[0].rpartition(".")[2] for each, _ in trained(model) if is_lora(each)}
    assert layers == {"q_proj", "v_proj"}


@pytest.mark.parametrize(
    ("init", "target"), [(LAYER_NORM, "query"), (LAYER_NORM, "lm_head"), (ARCHITECTURES["wavlm"], "q_proj")]
)
def test_target_that_cannot_be_adapted_is_refused(init: dict[str, Any], target: str) -> None:
    with pytest.raises(SpeechmillError, match=rf"{target} cannot be adapted.* are .*intermediate_dense") as caught:
        adapted(init, targets=[target, "intermediate_dense"])
    assert "finetune.lora.targets" in str(caught.value)


def test_weights_after_merging_are_bit_identical() -> None:
    model = adapted(LAYER_NORM)
    before = {each: tensor.clone() for each, tensor in model.state_dict().items()}
    with pytest.raises(KeyError), merged_lora(model):
        assert not torch.equal(
            model.get_submodule("wav2vec2.encoder.layers.0.attention.q_proj.base_layer").weight,
            before["wav2vec2.encoder.layers.0.attention.q_proj.base_layer.weight"],
        )
        raise KeyError
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[each], tensor) for each, tensor in before.items())
    model.train()
    model(random_inputs(model)).logits.sum().backward()
    assert all(parameter.grad is not None for each, parameter in trained(model) if is_lora(each))


def test_compiled_layers_follow_merging(monkeypatch: pytest.MonkeyPatch) -> None:
    # The graph is traced as usual but run in eager mode, since compiling it to C++ takes a minute.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    model = adapted(LAYER_NORM)
    expected = logits(model)
    compile_layers(model)
    with merged_lora(model):
        torch.testing.assert_close(logits(model), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(logits(model), expected, rtol=0, atol=1e-5)
