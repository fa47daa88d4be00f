from typing import Any

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from transformers import AutoModelForCTC, PreTrainedConfig

from material import ARCHITECTURES, LAYER_NORM
from speechmill.config.finetune import MemoryConfig
from speechmill.core.command import SpeechmillError
from speechmill.model.models import model_config
from speechmill.model.training_setup import freeze_parameters
from speechmill.training.cost import Cost, training_cost

# Source: the configurations of facebook/wav2vec2-xls-r-1b and facebook/wav2vec2-xls-r-300m.
XLS_R = {"model_type": "wav2vec2", "feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True,
         "num_attention_heads": 16}  # fmt: skip
XLS_R_1B = XLS_R | {"hidden_size": 1280, "num_hidden_layers": 48, "intermediate_size": 5120}
XLS_R_300M = XLS_R | {"hidden_size": 1024, "num_hidden_layers": 24, "intermediate_size": 4096}


def config(init: dict[str, Any]) -> PreTrainedConfig:
    return model_config(init, None, {}, 40)


def cost(
    init: dict[str, Any], longest_seconds: float = 20.0, processes: int = 1, accumulates: bool = False, **settings: Any
) -> Cost:
    return training_cost(
        config(init),
        MemoryConfig(**settings),
        has_base=settings.get("freeze_feature_encoder") is None,
        processes=processes,
        accumulates=accumulates,
        mean_seconds=5.0,
        longest_seconds=longest_seconds,
    )


@pytest.mark.parametrize(("init", "flop"), [(XLS_R_1B, 300e9), (XLS_R_300M, 101e9)])
def test_flop_of_published_models(init: dict[str, Any], flop: float) -> None:
    # Source: operations of forward and backward pass, counted for clips of 5 s with a frozen feature encoder.
    assert cost(init).flop_per_audio_second == pytest.approx(flop, rel=0.02)


def test_memory_of_xls_r_1b_on_78_gib() -> None:
    # Source: 15.4 GB of weights, gradients and moments.
    estimated = cost(XLS_R_1B)
    assert estimated.weights + estimated.gradients + estimated.optimizer == pytest.approx(15.4e9, rel=0.01)
    assert 500 < estimated.fitting_seconds(78 * 2**30, False) < 620


@pytest.mark.parametrize(
    ("seconds", "within_clips", "activation_dropout", "gib"),
    # Source: the most memory that tensors took on an H200 with torch 2.11 in bf16 (tests/gpu); the first with the
    # attention of transformers, the last with the settings of the Russian recipe.
    [(250, False, 0.0, 43.4), (250, True, 0.0, 40.5), (916, True, 0.0, 113.8), (259, True, 0.1, 44.5)],
)
def test_memory_is_that_measured_on_a_gpu(
    seconds: float, within_clips: bool, activation_dropout: float, gib: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("speechmill.training.cost.can_attend_within_clips", lambda _: within_clips)
    estimated = cost(XLS_R_1B | {"activation_dropout": activation_dropout})
    # What else the estimate contains is no tensor: the context of CUDA, and workspaces of its libraries.
    assert (estimated.memory(seconds, False) - 1e9) / 2**30 == pytest.approx(gib, rel=0.02)


@pytest.mark.parametrize("trains", [{"freeze_feature_encoder": True}, {"freeze_feature_encoder": False}, {"lora": {}}])
# torch has no fused attention kernel with dropout on a CPU.
@pytest.mark.parametrize(("attention", "dropout"), [("sdpa", 0.0), ("eager", 0.1)])
def test_activations_match_a_forward_pass(trains: dict[str, Any], attention: str, dropout: float) -> None:
    torch.set_num_threads(1)
    # The proportions of XLS-R.
    init = LAYER_NORM | {
        "conv_dim": [32] * 7, "hidden_size": 64, "num_hidden_layers": 6, "num_attention_heads": 16,
        "intermediate_size": 256, "hidden_dropout": 0.1, "activation_dropout": 0.1, "attention_dropout": dropout,
    }  # fmt: skip
    seconds, clips = 4, 2
    model_configuration = config(init)
    model_configuration._attn_implementation = attention
    model = AutoModelForCTC.from_config(model_configuration).train()
    freeze_parameters(model, MemoryConfig.model_validate(trains), has_base=False)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model(torch.randn(clips, seconds * 16_000))
    assert output.logits.requires_grad
    settings = {"precision": "fp32", "attention": attention} | trains
    estimated = cost(init, longest_seconds=seconds, **settings).activations[False]
    assert estimated == pytest.approx(sum(kept.values()) / (seconds * clips), rel=0.25)


def test_activation_memory_by_setting() -> None:
    usual = cost(XLS_R_300M)
    assert usual.activations[True] < usual.activations[False] / 2
    assert cost(XLS_R_300M, precision="fp32").activations[False] > 1.4 * usual.activations[False]
    short, long = (cost(XLS_R_300M, seconds, attention="eager").activations[False] for seconds in (5.0, 20.0))
    assert usual.activations[False] < short < long
    assert cost(XLS_R_300M, 20.0).activations == cost(XLS_R_300M, 5.0).activations


@pytest.mark.parametrize("accumulates", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("gib", [4, 40])
def test_largest_fitting_batch_uses_all_memory(accumulates: bool, checkpointing: bool, gib: int) -> None:
    estimated = cost(LAYER_NORM if gib == 4 else XLS_R_300M, accumulates=accumulates)
    seconds = estimated.fitting_seconds(gib * 2**30, checkpointing)
    assert estimated.memory(seconds, checkpointing) == pytest.approx(gib * 2**30)
    # There must be room for the gradients as well.
    assert estimated.fitting_seconds(estimated.fixed + estimated.gradients - 1, checkpointing) == 0
    assert estimated.memory(0, checkpointing) == estimated.fixed + estimated.gradients


def test_further_batches_of_a_step_exist_beside_the_gradients_of_the_first() -> None:
    one, several = cost(XLS_R_300M), cost(XLS_R_300M, accumulates=True)
    for checkpointing in (False, True):
        activations = (one.activations[checkpointing] + one.recomputed[checkpointing]) * 400
        assert several.memory(400, checkpointing) == pytest.approx(one.fixed + one.gradients + activations)
        assert several.memory(400, checkpointing) > one.memory(400, checkpointing)


def test_a_recomputed_layer_exists_beside_all_gradients() -> None:
    estimated = cost(XLS_R_300M)
    assert estimated.recomputed[False] == 0 < estimated.recomputed[True] < estimated.activations[False] / 20
    short = estimated.memory(1, True) - estimated.fixed - estimated.gradients
    assert short == pytest.approx(estimated.recomputed[True], rel=0.01)


def test_several_processes_hold_gradients_twice() -> None:
    one, two = cost(LAYER_NORM), cost(LAYER_NORM, processes=2)
    assert two.fixed - one.fixed == one.gradients


def test_frozen_weights_have_no_gradients_or_moments() -> None:
    adapters = LAYER_NORM | {"adapter_attn_dim": 4}
    full, frozen = (cost(adapters, freeze_feature_encoder=freeze) for freeze in (False, True))
    adapters_only = cost(adapters, train_only_adapters=True)
    for more, less in ((full, frozen), (frozen, adapters_only)):
        assert more.gradients > less.gradients
        assert more.flop_per_audio_second > less.flop_per_audio_second
        assert less.optimizer == 2 * less.gradients
        assert more.weights == less.weights


def test_lora_needs_memory_for_few_gradients() -> None:
    # Source: a rank of 16 adds 16 (m + n) parameters to a layer of m x n: in each of the 24 layers, four of 1024 x 1024
    # and two of 1024 x 4096; and one of 512 x 1024. The head has 40 outputs; masks have an embedding.
    matrices = 16 * (24 * (4 * 2048 + 2 * 5120) + 1536)
    full, lora = cost(XLS_R_300M), cost(XLS_R_300M, lora={"rank": 16})
    assert lora.trained == matrices + 1025 * 40 + 1024
    assert lora.parameters == full.parameters
    assert lora.trained_share == lora.trained / (lora.parameters + matrices)
    assert lora.weights - full.weights == 4 * matrices
    assert (lora.gradients, lora.optimizer) == (4 * lora.trained, 8 * lora.trained)
    assert lora.fitting_seconds(16 * 2**30, True) > full.fitting_seconds(16 * 2**30, True)
    assert 0.6 < lora.flop_per_audio_second / full.flop_per_audio_second < 0.75


def test_moments_in_8_bits_take_a_quarter() -> None:
    usual, small = cost(XLS_R_300M), cost(XLS_R_300M, optimizer="adamw_8bit")
    assert small.optimizer == pytest.approx(usual.optimizer / 4, rel=0.02)
    assert usual.fixed - small.fixed == usual.optimizer - small.optimizer


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_has_an_estimate(name: str) -> None:
    estimated = cost(ARCHITECTURES[name])
    assert estimated.flop_per_audio_second > 1e6
    assert 0 < estimated.activations[True] <= estimated.activations[False]


def test_training_missing_adapters_is_an_error() -> None:
    with pytest.raises(SpeechmillError, match=r"finetune\.train_only_adapters: the model has no adapters"):
        cost(LAYER_NORM, train_only_adapters=True)
