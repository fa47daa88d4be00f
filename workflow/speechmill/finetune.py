"""finetune: the planned steps of training, and the checkpoints that the plan lists."""

import argparse
import hashlib
import itertools
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    Wav2Vec2Processor,
    set_seed,
)

from speechmill.batching import Lengths, all_batches
from speechmill.clip_reader import ClipReader, Collator
from speechmill.command import SpeechmillError, run_command, written_whole
from speechmill.config.finetune import FinetuneSettings
from speechmill.config.model import ModelSettings
from speechmill.config.plan import PlanSettings
from speechmill.ctc import clip_losses
from speechmill.device import taken_device
from speechmill.models import model_config, new_model, output_frames
from speechmill.progress import progress
from speechmill.tables import SAMPLE_RATE, file_digest, read_json, read_table, write_json

_COMPLETE = "complete"
_WEIGHTS = "model.safetensors"


class Settings(BaseModel):
    """The slice of a run's section that this stage reads."""

    device: str
    plan: PlanSettings
    model: ModelSettings
    finetune: FinetuneSettings


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
        _link(str(trained / _WEIGHTS), str(kept / _WEIGHTS))
        shutil.copy(trained / "config.json", kept)
        self._processor.save_pretrained(kept)
        (trained / _COMPLETE).touch()

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


def newest_state(work: Path) -> Path | None:
    """The newest state in `work` that was saved to its end, and cut the log back to it."""
    states = sorted(
        (int(path.name.removeprefix("checkpoint-")), path)
        for path in work.glob("checkpoint-*")
        if (path / _COMPLETE).is_file()
    )
    step, state = states[-1] if states else (0, None)
    log = work / "training.jsonl"
    if log.is_file():
        # Without a last line that a kill cut short, and without the summary of a training that ended.
        lines = log.read_text(encoding="utf-8").rpartition("\n")[0].splitlines()
        logged = [(line, json.loads(line)) for line in lines]
        kept = [line for line, values in logged if values["step"] <= step and "train_runtime" not in values]
        with written_whole(log) as beside:
            beside.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
    return state


def check_frames(model: PreTrainedModel, clips: list[dict[str, Any]], labels: list[list[int]], run: str) -> None:
    """Raise SpeechmillError if a clip has fewer frames than CTC needs for its text: its loss would be infinite."""
    frames = output_frames(model, torch.tensor([clip["num_samples"] for clip in clips])).tolist()
    short = [
        clip["id"]
        for clip, have, ids in zip(clips, frames, labels, strict=True)
        if have < len(ids) + sum(a == b for a, b in itertools.pairwise(ids))
    ]
    if short:
        raise SpeechmillError(
            f"{len(short)} training clips are too short for their text at this model's frame rate, the first is"
            f" {short[0]}; set runs.{run}.clips.frame_seconds to the model's"
            f" {clips[0]['num_samples'] / SAMPLE_RATE / frames[0]:.3f}"
        )


def training_arguments(settings: Settings, work: Path, device: torch.device) -> TrainingArguments:
    """The settings as the Trainer takes them."""
    finetune = settings.finetune
    return TrainingArguments(
        output_dir=str(work),
        num_train_epochs=1,
        gradient_accumulation_steps=settings.plan.gradient_accumulation,
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
        seed=settings.plan.seed,
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


def train(
    run: str,
    settings: Settings,
    clips: list[dict[str, Any]],
    shards: list[Path],
    processor: Wav2Vec2Processor,
    base: Path | None,
    plan: dict[str, Any],
    work: Path,
    board: Path,
    device: torch.device,
) -> None:
    """Train in `work`, going on from the newest state there, until `work/checkpoints` has all that the plan lists."""
    torch.set_num_threads(settings.finetune.threads)
    set_seed(settings.plan.seed)
    vocab = processor.tokenizer.get_vocab()
    model = new_model(model_config(settings.model.init, base, settings.model.config, len(vocab)), base, vocab)
    freeze = settings.finetune.freeze_feature_encoder
    if freeze or (freeze is None and base is not None):
        model.freeze_feature_encoder()  # type: ignore[operator]
    collator = Collator(processor)
    check_frames(model, clips, collator.labels([clip["text"] for clip in clips]), run)
    lengths = np.array([clip["num_samples"] for clip in clips], dtype=np.int64)
    trainer = CtcTrainer(
        model=model,
        args=training_arguments(settings, work, device),
        clips=ClipReader(clips, shards),
        data_collator=collator,
        callbacks=[Recorder(work, board, plan, processor)],
        batches=PlannedBatches(lengths, settings.plan, plan["batches"]),
        workers=settings.finetune.workers,
    )
    # It prints what the progress bar and the log show already.
    trainer.remove_callback(PrinterCallback)
    state = newest_state(work)
    if state is not None:
        print(f"going on from {state}", file=sys.stderr)
    trainer.train(resume_from_checkpoint=str(state) if state else None)


def record(run: str, settings: Settings, plan: dict[str, Any], device: torch.device, seconds: float) -> dict[str, Any]:
    """What `training.json` says: hyper-parameters, versions, hardware, configuration."""
    finetune, batch = settings.finetune, settings.plan.batch
    size: float | int = batch.clips or round(plan["clips_per_batch"], 1)
    hyper_parameters = {
        "learning_rate": finetune.learning_rate,
        "train_batch_size": size,
        **({"train_batch_seconds": batch.seconds} if batch.seconds else {}),
        "seed": settings.plan.seed,
        "gradient_accumulation_steps": settings.plan.gradient_accumulation,
        "total_train_batch_size": round(size * settings.plan.gradient_accumulation, 1),
        "optimizer": f"AdamW with betas=({finetune.adam_betas[0]},{finetune.adam_betas[1]}),"
        f" epsilon={finetune.adam_epsilon} and weight_decay={finetune.weight_decay}",
        "lr_scheduler_type": finetune.schedule,
        "lr_scheduler_warmup_steps": finetune.warmup_steps,
        "max_grad_norm": finetune.max_grad_norm,
        "num_epochs": settings.plan.epochs,
        "training_steps": plan["total_steps"],
        "precision": finetune.precision,
    }
    return {
        "run": run,
        "hyper_parameters": hyper_parameters,
        "settings": settings.model_dump(mode="json"),
        "versions": {
            shown: version(package)
            for shown, package in (
                ("Transformers", "transformers"),
                ("Pytorch", "torch"),
                ("Datasets", "datasets"),
                ("Tokenizers", "tokenizers"),
            )
        },
        "hardware": {
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            "processor": platform.processor() or platform.machine(),
            "threads": finetune.threads,
        },
        "parameters": plan["parameters"],
        "wall_seconds": seconds,
    }


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        # Results may lie on another disk than the states of training.
        shutil.copy(source, target)


def fingerprint(*parts: str) -> str:
    """What the state of a training depends on, as a short name."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def main() -> None:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", required=True)
    parser.add_argument("--settings", type=Settings.model_validate_json, required=True)
    parser.add_argument("--gpus", type=int, required=True)
    parser.add_argument("--code", required=True, help="the digest of the code, for the fingerprint")
    parser.add_argument("--clips", type=Path, required=True)
    parser.add_argument("--digest", type=Path, required=True)
    parser.add_argument("--shards", type=Path, nargs="+", required=True)
    parser.add_argument("--vocab", type=Path, required=True, help="the folder of the processor")
    parser.add_argument("--base", type=Path, nargs="*", help="the folder of the base model, if there is one")
    parser.add_argument("--base-source", type=Path, nargs="*", help="what is known of the base model, if there is one")
    parser.add_argument("--plan", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="where the states of training are kept")
    parser.add_argument("--checkpoints", type=Path, required=True)
    parser.add_argument("--record", type=Path, required=True)
    parser.add_argument("--log", type=Path, required=True)
    args = parser.parse_args()
    settings: Settings = args.settings
    base = args.base[0] if args.base else None
    plan = read_json(args.plan)
    work = args.work / fingerprint(
        settings.model_dump_json(),
        args.code,
        args.digest.read_text(),
        json.dumps(plan["checkpoints"]),
        file_digest(args.vocab / "vocab.json"),
        # Its files by their digests, whatever the format of its weights.
        file_digest(args.base_source[0]) if args.base_source else "",
    )
    work.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with taken_device(settings.device, args.run, args.gpus) as device:
        train(
            args.run,
            settings,
            read_table(args.clips).to_pylist(),
            args.shards,
            Wav2Vec2Processor.from_pretrained(args.vocab),
            base,
            plan,
            work,
            args.work / "tensorboard" / work.name,
            device,
        )
    write_json(record(args.run, settings, plan, device, time.monotonic() - started), args.record)
    shutil.copy(work / "training.jsonl", args.log)
    # Linked, not moved: killed here, the next run still finds all that it needs in `work`.
    shutil.rmtree(args.checkpoints, ignore_errors=True)
    shutil.copytree(work / "checkpoints", args.checkpoints, copy_function=_link)
    shutil.rmtree(work)


if __name__ == "__main__":
    run_command(main)
