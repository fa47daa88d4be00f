"""A Trainer for CTC with planned batches, a loss that weights all clips equally, and complete resume states."""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from speechmill.config.finetune import FinetuneConfig
from speechmill.config.plan import PlanConfig
from speechmill.core.schemas import SAMPLE_RATE
from speechmill.model.batching import PlannedBatches
from speechmill.model.clip_reader import ClipReader
from speechmill.model.ctc import clip_losses
from speechmill.model.devices import to_device
from speechmill.model.models import INPUT_KEYS, forward, head_name, output_frames
from speechmill.training.cost import OPTIMIZER_BYTES
from speechmill.training.distributed import AnyRank, all_reduce_sum, barrier, rank, world_size
from speechmill.training.guards import FiniteGuard, NotFiniteError, StopRequest, ignore_signals
from speechmill.training.resume_state import UNFINISHED, empty_unfinished, writing_state

# The names of the optimizers in transformers.
_OPTIM = {"adamw": "adamw_torch_fused", "adamw_8bit": "adamw_bnb_8bit"}

BatchTransform = Callable[[dict[str, Any]], dict[str, Any]]
"""A function from a batch of the `Collator`, with the model's inputs on the device, to a batch with the same keys."""


class CtcTrainer(Trainer):
    """A Trainer with planned batches and a loss that weights all clips of a step equally.

    Loss and gradient are the mean over the clips of a step, however these are split into batches and over processes.
    Saved files become a resume state only through `resume_state.commit`. A step reads nothing back from the device; it
    waits for it only within the kernel of the CTC loss (see `model/ctc.py`).
    """

    # `compute_loss` itself divides by the number of clips in the step.
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        *,
        model: PreTrainedModel,
        args: TrainingArguments,
        clips: ClipReader,
        batches: PlannedBatches,
        workers: int,
        transform: BatchTransform | None = None,
        head_learning_rate: float | None = None,
        **kwargs: Any,
    ) -> None:
        """Decode the `clips` of `batches` in `workers` processes; apply `transform` to each batch on the device.

        The learning rate of the head is that of all other weights if `head_learning_rate` is None.
        """
        super().__init__(model=model, args=args, **kwargs)
        self._ctc_model, self._work, self._clips = model, Path(args.output_dir or ""), clips
        self._batches, self._workers, self._transform = batches, workers, transform
        self._head_learning_rate = head_learning_rate
        self._finite = FiniteGuard(self.args.device)
        self.padded_seconds = 0.0
        """The size of the last batch: the seconds of its longest clip times the number of clips."""
        # Sums since the last row of the log. Those of values on the device stay there, since reading one synchronises.
        # The sums of the Trainer itself are lost when it resumes.
        self._loss, self._overflows = torch.zeros(2, device=self.args.device).unbind()
        self._samples = 0.0
        self._logged_step, self._logged_loss, self._since = 0, 0.0, time.monotonic()

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return a loader of the planned batches, decoded in workers."""
        # Not prepared by accelerate: PlannedBatches already distributes the batches over the processes.
        return DataLoader(
            self._clips,
            batch_sampler=self._batches,
            collate_fn=self.data_collator,
            num_workers=self._workers,
            worker_init_fn=ignore_signals,
            pin_memory=self.args.device.type == "cuda",
            # With the global generator, a resumed run would draw one number more than an uninterrupted one.
            generator=torch.Generator(),
        )

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """Return the optimizer; the weights of the head are in groups with a learning rate of their own if one is set.

        The schedule multiplies the learning rate of each group by the same factor.
        """
        optimizer = super().create_optimizer(model)
        if self._head_learning_rate is not None:
            head = {id(parameter) for parameter in _head(self._ctc_model).parameters()}
            for group in [*optimizer.param_groups]:
                of_head = [each for each in group["params"] if id(each) in head]
                group["params"] = [each for each in group["params"] if id(each) not in head]
                optimizer.add_param_group({**group, "params": of_head, "lr": self._head_learning_rate})
        return optimizer

    def floating_point_ops(self, inputs: Mapping[str, Any]) -> int:
        """Return 0: the count of the Trainer iterates over all parameters at each batch, and applies to text models."""
        return 0

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> int:
        return self._batches.clips_in_step(self.state.global_step)

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        num_samples = inputs["num_samples"]
        self.padded_seconds = len(num_samples) * int(num_samples.max()) / SAMPLE_RATE
        # Lengths, weights and labels stay on the host, where they can be read without a synchronisation.
        moved = {key: to_device(inputs[key], self.args.device) for key in INPUT_KEYS if key in inputs}
        return self._transform(inputs | moved) if self._transform else inputs | moved

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Return the sum of the losses of the clips, divided by the number of clips in the step.

        It is multiplied by the number of processes, since gradients are averaged over the processes.
        """
        logits = forward(model, inputs)
        frames = output_frames(self._ctc_model, inputs["num_samples"])
        losses = clip_losses(logits, frames, inputs["labels"], self._ctc_model.config.pad_token_id)
        weight = inputs["weight"]
        loss = (losses * to_device(weight, losses.device)).sum() * (world_size() / (num_items_in_batch or len(losses)))
        self._finite.watch(loss, self.state.global_step + 1)
        self._loss = self._loss + loss.detach()
        self._samples += float((inputs["num_samples"] * weight).sum())
        return (loss, {"logits": logits}) if return_outputs else loss

    def _get_grad_norm(self, model: torch.nn.Module, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm)  # type: ignore[no-untyped-call]
        if self.args.fp16:
            # The loss scale was too high: the step is skipped, and the scale is lowered.
            self._overflows = self._overflows + ~torch.isfinite(norm)
        else:
            self._finite.watch(norm, self.state.global_step + 1)
        return norm

    def stop_if_not_finite(self) -> None:
        """Raise NotFiniteError if a loss or gradient was NaN or infinite; waits for the device."""
        step = self._finite.first()
        if step is not None:
            raise NotFiniteError(step)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log the mean loss of the steps since the last row, and the speed."""
        if "loss" in logs:
            self.stop_if_not_finite()
            now, step = time.monotonic(), self.state.global_step
            loss = all_reduce_sum(float(self._loss)) / world_size()
            logs["loss"] = loss / (step - self._logged_step)
            logs["audio_seconds_per_second"] = all_reduce_sum(self._samples) / SAMPLE_RATE / (now - self._since)
            if self.args.fp16:
                logs["overflows"] = int(self._overflows)
            self._loss, self._overflows = torch.zeros(2, device=self.args.device).unbind()
            self._samples = 0.0
            self._logged_step, self._logged_loss, self._since = step, self._logged_loss + loss, now
        if "train_loss" in logs:
            rest = all_reduce_sum(float(self._loss)) / world_size()
            logs["train_loss"] = (self._logged_loss + rest) / max(1, self.state.global_step)
            # Of this session alone; `resume_state.TrainingTime` is that of all sessions.
            for key in ("train_runtime", "train_samples_per_second", "train_steps_per_second"):
                logs.pop(key, None)
        super().log(logs, start_time)

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._work / UNFINISHED)

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        self.stop_if_not_finite()
        if rank() == 0:
            empty_unfinished(self._work)
        barrier()
        with writing_state(self._work, self.state.global_step, self._state_bytes()):
            super()._save_checkpoint(model, trial)
        barrier()

    def _state_bytes(self) -> int:
        """Return the bytes of the weights and of the two moment estimates of the trained ones."""
        moments = OPTIMIZER_BYTES["adamw_8bit" if self.args.optim == _OPTIM["adamw_8bit"] else "adamw"]
        return int(sum(p.nbytes + moments * p.numel() * p.requires_grad for p in self._ctc_model.parameters()))

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        sums = {
            "loss": float(self._loss),
            "overflows": float(self._overflows),
            "logged_step": self._logged_step,
            "logged_loss": self._logged_loss,
        }
        self._sums_file(output_dir).write_text(json.dumps(sums), encoding="utf-8")

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            sums = json.loads(self._sums_file(checkpoint).read_text(encoding="utf-8"))
            self._loss, self._overflows = torch.tensor(
                [sums["loss"], sums["overflows"]], device=self.args.device
            ).unbind()
            self._logged_step, self._logged_loss = sums["logged_step"], sums["logged_loss"]

    def _sums_file(self, folder: str) -> Path:
        return Path(folder, f"sums_{rank()}.json")


class SaveStopCallback(TrainerCallback):
    """Decides when to save a resume state and when to stop training, in all processes at the same step."""

    def __init__(self, checkpoints: set[int], minutes: float, request: StopRequest) -> None:
        """Save at each step of `checkpoints`, `minutes` after the last save, and when `request` records a signal."""
        self._checkpoints, self._seconds, self._request = checkpoints, 60 * minutes, request
        self._saved_at = time.monotonic()
        self._save, self._stop = AnyRank(), AnyRank()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Use the present logging interval; the Trainer would use that of the state from which it resumes."""
        state.logging_steps = int(args.logging_steps)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Request a save or a stop when it is due."""
        overdue = self._save.update(time.monotonic() - self._saved_at >= self._seconds)
        stop = self._stop.update(self._request.signal is not None)
        control.should_save = overdue or stop or state.global_step in self._checkpoints
        control.should_training_stop = control.should_training_stop or stop
        return control

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Restart the interval between saves."""
        self._saved_at = time.monotonic()


class HeadOnlyCallback(TrainerCallback):
    """Freezes all weights but those of the head in the first steps, as `freeze_finetune_updates` of fairseq does.

    Frozen weights have no gradient, so that the optimizer neither changes them nor updates their moments. They are
    frozen only after the optimizer and DistributedDataParallel have been created, which have to know all that will be
    trained.
    """

    def __init__(self, model: PreTrainedModel, steps: int) -> None:
        """Train only the head of `model` in the first `steps` steps; its weights must not be frozen yet."""
        head = {id(parameter) for parameter in _head(model).parameters()}
        self._frozen = [p for p in model.parameters() if p.requires_grad and id(p) not in head]
        self._steps = steps

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Freeze or unfreeze the weights; in a resumed run as well, whichever step it starts at."""
        for parameter in self._frozen:
            parameter.requires_grad_(state.global_step >= self._steps)


def _head(model: PreTrainedModel) -> torch.nn.Module:
    head: torch.nn.Module = getattr(model, head_name(model))
    return head


def training_arguments(
    plan: PlanConfig, finetune: FinetuneConfig, work: Path, device: torch.device, unused_weights: bool = False
) -> TrainingArguments:
    """Return the settings as TrainingArguments.

    Set `unused_weights` if a step may leave weights without a gradient, which DistributedDataParallel must know.
    """
    return TrainingArguments(
        output_dir=str(work),
        num_train_epochs=1,
        gradient_accumulation_steps=plan.gradient_accumulation,
        learning_rate=finetune.learning_rate,
        lr_scheduler_type=finetune.schedule,
        warmup_steps=finetune.warmup_steps,
        weight_decay=finetune.weight_decay,
        adam_beta1=finetune.adam_betas[0],
        adam_beta2=finetune.adam_betas[1],
        adam_epsilon=finetune.adam_epsilon,
        max_grad_norm=finetune.max_grad_norm,
        optim=_OPTIM[finetune.optimizer],
        bf16=finetune.precision == "bf16",
        fp16=finetune.precision == "fp16",
        seed=plan.seed,
        use_cpu=device.type == "cpu",
        ddp_find_unused_parameters=unused_weights,
        logging_steps=finetune.logging_steps,
        logging_nan_inf_filter=False,
        save_strategy="no",
        # PlannedBatches starts at the step from which training resumes.
        ignore_data_skip=True,
        disable_tqdm=True,
        report_to="none",
        remove_unused_columns=False,
        label_names=["labels"],
    )
