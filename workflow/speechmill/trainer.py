"""The Trainer as CTC needs it: planned batches, a loss in which clips count the same, and a record of what happens."""

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments, Wav2Vec2Processor

from speechmill.batching import Lengths, all_batches
from speechmill.clip_reader import ClipReader
from speechmill.config.finetune import FinetuneSettings
from speechmill.config.plan import PlanSettings
from speechmill.ctc import clip_losses
from speechmill.models import output_frames
from speechmill.progress import progress
from speechmill.states import WEIGHTS, link, mark_complete
from speechmill.tables import SAMPLE_RATE


class PlannedBatches:
    """A batch sampler over all epochs, in the plan's order, so that a step's batches never depend on what ran before.

    To the Trainer it is one long epoch.
    """

    def __init__(self, lengths: Lengths, plan: PlanSettings, count: int) -> None:
        self._lengths, self._plan, self._count = lengths, plan, count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[list[int]]:
        for batch in all_batches(self._lengths, self._plan.batch, self._plan.seed, self._plan.epochs):
            yield batch.tolist()


class CtcTrainer(Trainer):
    """The Trainer with planned batches and a loss in which every clip of a step counts the same.

    However a step's clips are cut into batches, loss and gradient are the mean over the clips.
    """

    # `compute_loss` divides by the clips of the whole step itself.
    loss_is_scaled_for_ga = True

    def __init__(self, *, clips: ClipReader, batches: PlannedBatches, workers: int, **kwargs: Any) -> None:
        super().__init__(train_dataset=clips, **kwargs)
        self._clips, self._batches, self._workers = clips, batches, workers
        self._samples, self._since = torch.tensor(0), time.monotonic()

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The planned batches, decoded in workers."""
        loader: DataLoader[Any] = DataLoader(
            self._clips,
            batch_sampler=self._batches,
            collate_fn=self.data_collator,
            num_workers=self._workers,
            pin_memory=self.args.device.type == "cuda",
        )
        return self.accelerator.prepare(loader)  # type: ignore[no-any-return]

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> int:
        return sum(len(batch["labels"]) for batch in batch_samples)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """The sum of the clips' losses over the number of clips in the step."""
        inputs = dict(inputs)
        labels, num_samples = inputs.pop("labels"), inputs.pop("num_samples")
        outputs = model(**inputs)
        frames = output_frames(self.accelerator.unwrap_model(model), num_samples)
        losses = clip_losses(outputs.logits, frames, labels)
        # A sum on the device: asking for its value here would make the host wait at each batch.
        self._samples = self._samples.to(num_samples.device) + num_samples.sum()
        loss = losses.sum() / (num_items_in_batch or len(losses))
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log with the speed since the last line."""
        if "loss" in logs:
            now = time.monotonic()
            logs["audio_seconds_per_second"] = float(self._samples) / SAMPLE_RATE / (now - self._since)
            self._samples, self._since = torch.tensor(0), now
        super().log(logs, start_time)


class Recorder(TrainerCallback):
    """Saves when the plan says so, keeps what a user needs of each state, and writes the log."""

    def __init__(self, work: Path, board: Path, plan: dict[str, Any], processor: Wav2Vec2Processor) -> None:
        self._work, self._processor = work, processor
        self._saved, self._epochs_a_step = set(plan["checkpoints"]), plan["epochs"] / plan["total_steps"]
        self._log = work / "training.jsonl"
        self._board = SummaryWriter(str(board))
        self._progress = progress(total=plan["total_steps"], desc="finetune", unit="step")

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Show how far training is, and ask for a save where the plan has one."""
        self._progress.update(state.global_step - self._progress.n)
        control.should_save = state.global_step in self._saved
        return control

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Keep the model of this step, then mark the state as one that can be resumed from."""
        trained = self._work / f"checkpoint-{state.global_step}"
        kept = self._work / "checkpoints" / trained.name
        shutil.rmtree(kept, ignore_errors=True)
        kept.mkdir(parents=True)
        # A link: the Trainer drops its older states, and the weights are the bulk of them.
        link(str(trained / WEIGHTS), str(kept / WEIGHTS))
        shutil.copy(trained / "config.json", kept)
        self._processor.save_pretrained(kept)
        mark_complete(trained)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Append a line to the log, and the same to TensorBoard and to what is shown."""
        # The Trainer knows one long epoch only.
        line = {"step": state.global_step, **(logs or {}), "epoch": state.global_step * self._epochs_a_step}
        with self._log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        for key, value in line.items():
            if key not in ("step", "epoch"):
                self._board.add_scalar(key, value, state.global_step)
        self._board.flush()
        if "loss" in line:
            self._progress.set_postfix_str(
                f"loss {line['loss']:.3f}, {line['audio_seconds_per_second']:.0f} audio-s/s", refresh=False
            )


def training_arguments(
    plan: PlanSettings, finetune: FinetuneSettings, work: Path, device: torch.device
) -> TrainingArguments:
    """The settings as the Trainer takes them."""
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
        bf16=finetune.precision == "bf16",
        fp16=finetune.precision == "fp16",
        activation_checkpointing=finetune.gradient_checkpointing,
        seed=plan.seed,
        use_cpu=device.type == "cpu",
        logging_steps=finetune.logging_steps,
        logging_nan_inf_filter=False,
        save_strategy="no",
        save_total_limit=2,
        disable_tqdm=True,
        report_to="none",
        remove_unused_columns=False,
        label_names=["labels"],
    )
