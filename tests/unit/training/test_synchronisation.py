"""A training step does not wait for the device.

The device is PyTorch's "meta" device, whose tensors have no values: whatever reads one fails, where with a GPU the host
would wait. `Asynchronous` refuses what the meta device does and a GPU does not do without waiting. Copies of lengths
within the kernel of the CTC loss are not seen.
"""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import TrainerCallback, TrainingArguments

from material import ARCHITECTURES, STOCHASTIC, recording, store
from speechmill.model import positional_convolution, sample_convolutions, variable_length_attention
from speechmill.model.attention_masks import attention_masks_on_device
from speechmill.model.batching import PlannedBatches, clips_from_table
from speechmill.model.clip_reader import ClipReader, Collator
from speechmill.model.gpu_kernels import use_gpu_kernels
from speechmill.model.models import model_config, new_model
from speechmill.model.spec_augment import spec_augment_on_device
from speechmill.text.vocab import VocabSettings, processor, vocabulary
from speechmill.training.finetune import FinetuneSettings, TrainingInputs, batch_transform, prepare_model
from speechmill.training.trainer import CtcTrainer, training_arguments

META = torch.device("meta")
AUGMENT = {
    "speed": [0.9, 1.1],
    "noise": {"probability": 0.9, "snr_db": [5, 20]},
    "room": {"probability": 0.9, "rt60_seconds": [0.1, 0.3]},
}
aten = torch.ops.aten


class Asynchronous(TorchDispatchMode):
    """Refuses operations that wait for a GPU, and adds the CTC loss, which the meta device lacks."""

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        options = kwargs or {}
        if function in (aten._to_copy.default, aten.copy_.default):
            source, target = (args[0], options.get("device")) if function is aten._to_copy.default else args[1::-1]
            target = target.device if isinstance(target, Tensor) else torch.device(target or source.device)
            asynchronous = options.get("non_blocking") or args[2:3] == (True,)
            assert source.device == target or asynchronous, "blocking copy"
        if function is aten.index_put_.default and args[2].dim() == 0:
            # With a mask, PyTorch passes the value to its kernel; with indices, it copies it to the GPU.
            assert args[1][0].dtype is torch.bool, "number assigned to indices"
        if function is aten._ctc_loss.Tensor:
            assert all(lengths.device.type == "cpu" for lengths in args[2:4]), "lengths on the device"
            return args[0].new_empty(args[0].shape[1]), args[0].new_empty(0)
        if function is aten._ctc_loss_backward.Tensor:
            return torch.empty_like(args[1])
        return function(*args, **options)


@pytest.mark.parametrize(
    "wait",
    [
        lambda tensor: tensor.sum().item(),
        lambda tensor: bool((tensor > 0).all()),
        lambda tensor: (tensor > 0).nonzero(),
        lambda tensor: tensor.masked_select(tensor > 0),
        lambda tensor: tensor[tensor > 0],
        lambda tensor: tensor.cpu(),
        lambda tensor: tensor.to("cpu", non_blocking=True),
        lambda tensor: torch.ones(2).to(tensor.device),
        lambda tensor: tensor.copy_(torch.ones(2)),
        lambda tensor: tensor.__setitem__(torch.tensor([0], device=META), 1),
    ],
)
def test_waiting_is_refused(wait: Callable[[Tensor], object]) -> None:
    with Asynchronous(), pytest.raises((AssertionError, RuntimeError, NotImplementedError)):
        wait(torch.zeros(2, device=META))


class StoppedError(Exception):
    pass


class StopAfterTwoSteps(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 2:
            raise StoppedError


def without_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let autocast do nothing on the meta device, which has none."""
    monkeypatch.setattr(
        "torch.autocast",
        lambda device_type, *given, real=torch.autocast, **options: (
            nullcontext() if device_type == "meta" else real(device_type, *given, **options)
        ),
    )


@pytest.mark.parametrize(
    ("init", "augment"),
    [(STOCHASTIC, AUGMENT), *((ARCHITECTURES[name], {}) for name in ("wav2vec2", "wavlm", "w2v-bert", "parakeet"))],
    ids=["wav2vec2-augmented", "wav2vec2", "wavlm", "w2v-bert", "parakeet"],
)
def test_step_does_not_wait_for_the_device(
    init: dict[str, Any], augment: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    letters = processor(vocabulary(["abc"]), VocabSettings(init=init), base=None)
    clips, shards = store(tmp_path / "clips", [recording(0.5 + 0.1 * i, seed=i) for i in range(8)], ["ab", "abc"] * 4)
    table = pa.Table.from_pylist(clips)
    settings = FinetuneSettings.model_validate(
        {
            "device": "cpu",
            "gpus": 1,
            "plan": {"epochs": 1, "batch": {"clips": 2}, "gradient_accumulation": 2, "save_steps": 2},
            "model": {"init": init},
            # A row of the log reads the loss, which waits.
            "finetune": {"learning_rate": 1e-3, "warmup_steps": 1, "precision": "bf16", "logging_steps": 100},
            "augment": augment,
            "checkpoints": {},
            "text": {},
            "batch_seconds": 20,
            "metric": "wer",
        }
    )
    inputs = TrainingInputs(table, shards, letters, None, {"gradient_checkpointing": False}, [], [])
    model = prepare_model(settings, inputs)
    use_gpu_kernels(model, torch.device("cuda"))
    arguments = training_arguments(settings.plan, settings.finetune, tmp_path, torch.device("cpu"))
    # The fused optimizer needs a device with a kernel for it.
    arguments.optim = "adamw_torch"
    for owner in (TrainingArguments, Accelerator):
        monkeypatch.setattr(owner, "device", META)
    # The meta device has no generator of its own.
    monkeypatch.setattr("torch.Generator", lambda *_, new=torch.Generator: new())
    without_autocast(monkeypatch)
    trainer = CtcTrainer(
        model=model.to(META),  # type: ignore[arg-type]
        args=arguments,
        clips=ClipReader(table, shards),
        data_collator=Collator(letters),
        batches=PlannedBatches(clips_from_table(table), settings.plan, 4),
        workers=0,
        transform=batch_transform(settings.augment, 0, letters),
    )
    trainer.add_callback(StopAfterTwoSteps())
    with Asynchronous(), pytest.raises(StoppedError):
        trainer.train()


def test_kernels_for_half_precision_do_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    # Weights are in the precision that autocast would have.
    without_autocast(monkeypatch)
    monkeypatch.setattr(variable_length_attention, "_has_kernel", lambda _: True)
    for module in (positional_convolution, sample_convolutions, variable_length_attention):
        monkeypatch.setattr(module, "autocast_dtype", lambda _: torch.bfloat16)
    settings = ARCHITECTURES["wav2vec2"] | {"num_conv_pos_embeddings": 128, "num_conv_pos_embedding_groups": 2}
    model = new_model(model_config(settings, None, {}, 8), None, None).to(META, torch.bfloat16)
    attention_masks_on_device(model)
    spec_augment_on_device(model)
    use_gpu_kernels(model, torch.device("cuda"))
    mask = torch.ones(3, 8000, dtype=torch.int32, device=META)
    with Asynchronous():
        logits = model.train()(torch.empty(3, 8000, device=META), attention_mask=mask).logits
        logits.sum().backward()
    assert logits.dtype is torch.bfloat16
