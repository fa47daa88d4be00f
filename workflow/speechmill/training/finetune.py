"""finetune: train the planned steps, and keep the planned checkpoints or the best of them."""

import argparse
import hashlib
import itertools
import json
import math
import os
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import torch
from pydantic import BaseModel
from transformers import PreTrainedModel, PrinterCallback, set_seed

from speechmill.config.augment import AugmentConfig
from speechmill.config.checkpoints import CheckpointConfig
from speechmill.config.evaluation import Metric
from speechmill.config.finetune import FinetuneConfig, LoraConfig
from speechmill.config.mixing import MixingSettings
from speechmill.config.model import ModelConfig
from speechmill.config.plan import PlanConfig
from speechmill.config.text import TextConfig
from speechmill.core.command import SpeechmillError, run_command
from speechmill.core.files import check_folder, file_digest, read_json
from speechmill.core.progress import ignore_broken_pipes
from speechmill.core.schemas import SAMPLE_RATE
from speechmill.core.tables import check_clips_digest, clips_digest, read_table
from speechmill.model.attention_masks import attention_masks_on_device
from speechmill.model.batching import Clips, PlannedBatches, clips_from_table
from speechmill.model.clip_reader import ClipReader, Collator
from speechmill.model.devices import acquire_devices, allow_tf32, device_name
from speechmill.model.gpu_kernels import use_gpu_kernels
from speechmill.model.models import (
    Processor,
    encoder_config,
    freeze_unused,
    load_processor,
    model_config,
    new_model,
    output_frames,
)
from speechmill.model.spec_augment import spec_augment_on_device
from speechmill.model.training_setup import checkpoint_activations, compile_layers, freeze_parameters, set_attention
from speechmill.text.normaliser import ctc_frames
from speechmill.training.augment import Augmenter, DeviceFeatures, audio_files
from speechmill.training.checkpoint_callback import CheckpointCallback, kept_steps
from speechmill.training.dev_evaluator import DevEvaluator, spread_over_lengths
from speechmill.training.distributed import (
    broadcast,
    is_first_task,
    launch,
    launched,
    process_group,
    rank,
    world_size,
)
from speechmill.training.finished import check_finished, export, finish, finished_folder
from speechmill.training.guards import EXIT_RESUMABLE, NotFiniteError, not_finite, out_of_memory, stop_requests
from speechmill.training.resume_state import (
    LOG,
    TrainingTime,
    cut_log,
    newest_resume_state,
    read_log,
    read_training_time,
    step_of,
)
from speechmill.training.trainer import (
    BatchTransform,
    CtcTrainer,
    HeadOnlyCallback,
    SaveStopCallback,
    training_arguments,
)
from speechmill.training.work_lock import exclusive_use

# Texts are checked in batches of this many rows.
_ROWS = 8192


class FinetuneSettings(BaseModel):
    """The settings of a run that this stage reads."""

    device: str
    gpus: int
    plan: PlanConfig
    mixing: MixingSettings | None = None
    model: ModelConfig
    vocab: Literal["characters", "keep"] = "characters"
    """Whether the model keeps the head of its base."""
    finetune: FinetuneConfig
    augment: AugmentConfig
    checkpoints: CheckpointConfig
    text: TextConfig
    batch_seconds: float
    """The size of the batches of a dev evaluation, padding included."""
    metric: Metric
    """The metric of the dev evaluations by which the best checkpoints are found."""


@dataclass(frozen=True)
class TrainingInputs:
    """The inputs of a training run besides its settings."""

    clips: pa.Table
    shards: list[Path]
    processor: Processor
    base: Path | None
    plan: dict[str, Any]
    dev: list[dict[str, Any]]
    dev_shards: list[Path]

    def dev_evaluator(self, settings: FinetuneSettings) -> DevEvaluator | None:
        """Return the evaluator of checkpoints on all dev clips if it selects the best, otherwise on a few; or None."""
        checkpoints = settings.checkpoints
        clips = self.dev if checkpoints.best else spread_over_lengths(self.dev, checkpoints.dev_clips)
        if not clips:
            return None
        return DevEvaluator(clips, self.dev_shards, self.processor, settings.text, settings.batch_seconds)


def check_frames(model: PreTrainedModel, clips: pa.Table, collator: Collator, run: str, shortest: float = 1.0) -> None:
    """Check that every clip has the frames that CTC needs for its text; otherwise its loss would be infinite.

    Args:
        model: The model, whose frame rate counts.
        clips: The table of training clips.
        collator: The collator that makes labels of texts.
        run: The name of the run, for the message.
        shortest: The smallest factor by which augmentation changes the length of a clip.

    Raises:
        SpeechmillError: A clip has fewer frames than CTC needs.
    """
    short: list[str] = []
    seconds_per_character = 0.0
    for rows in clips.select(["id", "text", "num_samples"]).to_batches(_ROWS):
        num_samples = (torch.from_numpy(rows["num_samples"].to_numpy().copy()) * shortest).long()
        frames = output_frames(model, num_samples).tolist()
        texts = rows["text"].to_pylist()
        for name, text, samples, available, ids in zip(
            rows["id"].to_pylist(), texts, rows["num_samples"].to_pylist(), frames, collator.labels(texts), strict=True
        ):
            if available < ctc_frames(ids):
                short.append(name)
                if len(ids) < len(text):
                    # The filter of clips counts characters, and subwords are fewer.
                    seconds = samples / SAMPLE_RATE / (ctc_frames(text) + 1)
                    seconds_per_character = max(seconds_per_character, seconds)
    if short:
        frames_per_second = int(output_frames(model, torch.tensor([1000 * SAMPLE_RATE]))[0]) / 1000
        speed = "" if shortest == 1 else f", or lower the highest factor in runs.{run}.augment.speed"
        limit = f"{1 / frames_per_second:.3f}, the frame duration of the model"
        if seconds_per_character:
            limit = f"{math.ceil(seconds_per_character * 1000 + 0.1) / 1000:.3f}, which excludes them"
        raise SpeechmillError(
            f"{len(short)} training clips are too short for their text at the frame rate of this model, the first is"
            f" {short[0]}; set runs.{run}.clips.frame_seconds to {limit}{speed}"
        )


def prepare_model(settings: FinetuneSettings, inputs: TrainingInputs) -> PreTrainedModel:
    """Return the model at step 0, set up for training; new weights are drawn from torch's random state."""
    model_settings, tokenizer = settings.model, inputs.processor.tokenizer
    vocab = None if settings.vocab == "keep" else tokenizer.get_vocab()
    size = None if vocab is None else len(vocab)
    config = model_config(model_settings.init, inputs.base, model_settings.config, size, tokenizer.pad_token_id)
    model = new_model(config, inputs.base, vocab)
    set_up_training(model, settings.finetune, inputs.base is not None, inputs.plan["gradient_checkpointing"])
    return model


def set_up_training(model: PreTrainedModel, finetune: FinetuneConfig, has_base: bool, checkpointing: bool) -> None:
    """Set up a model for training on any device: what is trained, attention, masks, checkpointing, and compilation.

    Args:
        model: The model.
        finetune: The settings.
        has_base: Whether the model has the weights of a base.
        checkpointing: Whether activations are recomputed instead of kept.
    """
    freeze_parameters(model, finetune, has_base)
    freeze_unused(model)
    set_attention(model, finetune.attention)
    spec_augment_on_device(model)
    attention_masks_on_device(model)
    if checkpointing:
        checkpoint_activations(model, compiled=finetune.compile)
    if finetune.compile:
        compile_layers(model)


def batch_transform(settings: AugmentConfig, seed: int, processor: Processor) -> BatchTransform | None:
    """Return the augmentation of a batch on the device, or None.

    It runs on samples that are already normalised, with the same result: noise is added at a ratio, and all else is
    linear.
    """
    if not settings.is_on:
        return None
    noise, room = (
        audio_files(Path(each.folder)) if each is not None and each.folder is not None else []
        for each in (settings.noise, settings.room)
    )
    augment, features = Augmenter(settings, seed, noise, room), DeviceFeatures(processor.feature_extractor)

    def transform(batch: dict[str, Any]) -> dict[str, Any]:
        samples, num_samples = augment(batch["input_values"], batch["num_samples"], batch["batch"])
        inputs = features(samples, num_samples)
        if "attention_mask" not in batch:
            # The batch has no padding.
            inputs.pop("attention_mask", None)
        return batch | inputs | {"num_samples": num_samples}

    return transform


def train(
    run: str, settings: FinetuneSettings, inputs: TrainingInputs, work: Path, board: Path, device: torch.device
) -> str | None:
    """Train in `work`, resuming from the newest state there, until `work/checkpoints` holds all checkpoints to keep.

    Args:
        run: The name of the run.
        settings: The settings of the stage.
        inputs: Clips, processor, base model, plan and dev clips.
        work: The work folder of this training run.
        board: The folder of the TensorBoard files.
        device: The device of this process.

    Returns:
        None once training is complete, or the name of the signal that stopped it after a save.

    Raises:
        SpeechmillError: A clip is too short for its text, a loss or gradient is not finite, the device memory or the
            disk is full, the optimizer cannot run here, or only the head would be trained.
    """
    plan, finetune = settings.plan, settings.finetune
    if device.type == "cuda":
        # For operations that autocast leaves in fp32, and for dev evaluations.
        allow_tf32(finetune.precision != "fp32")
    _check_optimizer(run, finetune, device)
    if finetune.head_only_steps >= inputs.plan["total_steps"]:
        raise SpeechmillError(
            f"runs.{run}.finetune.head_only_steps is {finetune.head_only_steps}, but training has only"
            f" {inputs.plan['total_steps']} steps, so that nothing but the output layer would be trained; lower it"
        )
    torch.set_num_threads(finetune.threads)
    set_seed(plan.seed)
    model = prepare_model(settings, inputs)
    use_gpu_kernels(model, device)
    collator = Collator(inputs.processor)
    check_frames(model, inputs.clips, collator, run, settings.augment.shortest_factor)
    state = broadcast(lambda: newest_resume_state(work))
    start, clips = step_of(state), clips_from_table(inputs.clips, settings.mixing)
    trainer = CtcTrainer(
        model=model,
        args=training_arguments(
            plan,
            finetune,
            work,
            device,
            unused_weights=getattr(encoder_config(model.config), "layerdrop", 0.0) > 0 or finetune.head_only_steps > 0,
        ),
        clips=ClipReader(inputs.clips, inputs.shards, plan.pool_clips),
        data_collator=collator,
        batches=PlannedBatches(clips, plan, inputs.plan["batches"], rank(), world_size(), start),
        workers=finetune.workers,
        transform=batch_transform(settings.augment, plan.seed, inputs.processor),
        head_learning_rate=finetune.head_learning_rate,
    )
    if finetune.head_only_steps:
        trainer.add_callback(HeadOnlyCallback(model, finetune.head_only_steps))
    # Each process needs other dropout masks. Set after the Trainer is created, which sets the seed as well.
    set_seed(plan.seed + rank())
    # It would print what the progress bar and the log already show.
    trainer.remove_callback(PrinterCallback)
    if rank() == 0:
        cut_log(work, start)
        if state is not None:
            print(f"resuming from step {start} (to start over instead: rm -r {work.parent})", file=sys.stderr)
        best, evaluator = settings.checkpoints.best, inputs.dev_evaluator(settings)
        earlier = read_training_time(state)
        checkpoints = CheckpointCallback(
            run,
            work,
            board,
            inputs.plan,
            inputs.processor,
            evaluator,
            best,
            settings.metric,
            finetune.warmup_steps,
            start,
            earlier,
        )
        trainer.add_callback(checkpoints)
    with stop_requests() as request:
        trainer.add_callback(SaveStopCallback(set(inputs.plan["checkpoints"]), finetune.resume_minutes, request))
        try:
            trainer.train(resume_from_checkpoint=str(state) if state else None)
        except NotFiniteError as error:
            ids = [inputs.clips["id"][i].as_py() for i in _clips_of_step(error.step, clips, plan, inputs.plan)]
            raise not_finite(run, error.step, ids) from error
        except torch.OutOfMemoryError as error:
            raise out_of_memory(run, trainer.padded_seconds, inputs.plan, _memory(device)) from error
        finally:
            if rank() == 0:
                checkpoints.close()
    complete = trainer.state.global_step == inputs.plan["total_steps"]
    return None if complete else request.signal or "a signal to another process"


def _check_optimizer(run: str, finetune: FinetuneConfig, device: torch.device) -> None:
    """Raise SpeechmillError if the optimizer needs a GPU or a package that is missing."""
    if finetune.optimizer == "adamw":
        return
    key = f"runs.{run}.finetune.optimizer: adamw_8bit"
    if device.type != "cuda":
        raise SpeechmillError(f"{key} needs a CUDA GPU, and training is on the CPU; remove the key")
    if find_spec("bitsandbytes") is None:
        raise SpeechmillError(
            f"{key} needs the package bitsandbytes; install it in the environment of the stage, with `pip install"
            " bitsandbytes`, or remove the key"
        )


def _clips_of_step(step: int, clips: Clips, plan: PlanConfig, planned: dict[str, Any]) -> list[int]:
    """Return the table rows of the clips on which all processes train in `step`, counted from 1."""
    batches = [
        batch
        for number in range(world_size())
        for batch in itertools.islice(
            PlannedBatches(clips, plan, planned["batches"], number, world_size(), step - 1), plan.gradient_accumulation
        )
    ]
    return [sampled.clip for batch in batches for sampled in batch if sampled.weight]


def _memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def record(
    run: str,
    settings: FinetuneSettings,
    plan: dict[str, Any],
    kept: list[int],
    device: torch.device,
    time: TrainingTime,
    log: Path,
    base_source: Path | None,
) -> dict[str, Any]:
    """Return the content of `training.json`.

    It has hyper-parameters, versions, hardware, settings, the steps that are kept, the time, and the digests of the log
    and of the source of the base model.
    """
    finetune, batch = settings.finetune, settings.plan.batch
    size: float | int = batch.clips or round(plan["clips_per_batch"], 1)
    hyper_parameters = {
        "learning_rate": finetune.learning_rate,
        **({"head_learning_rate": finetune.head_learning_rate} if finetune.head_learning_rate else {}),
        **({"head_only_steps": finetune.head_only_steps} if finetune.head_only_steps else {}),
        **({"lora": _shown_lora(finetune.lora)} if finetune.lora else {}),
        "train_batch_size": size,
        **({"train_batch_seconds": batch.seconds} if batch.seconds else {}),
        "seed": settings.plan.seed,
        "gradient_accumulation_steps": settings.plan.gradient_accumulation,
        **({"num_devices": settings.gpus} if settings.gpus > 1 else {}),
        "total_train_batch_size": round(size * settings.plan.gradient_accumulation * settings.gpus, 1),
        "optimizer": f"AdamW{' in 8 bits' if finetune.optimizer == 'adamw_8bit' else ''} with"
        f" betas=({finetune.adam_betas[0]},{finetune.adam_betas[1]}), epsilon={finetune.adam_epsilon}"
        f" and weight_decay={finetune.weight_decay}",
        "lr_scheduler_type": finetune.schedule,
        "lr_scheduler_warmup_steps": finetune.warmup_steps,
        "max_grad_norm": finetune.max_grad_norm,
        "num_epochs": round(plan["epochs"], 4),
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
            "device": device_name(device) if device.type == "cuda" else "cpu",
            "processor": device_name(torch.device("cpu")),
            "threads": finetune.threads,
        },
        "parameters": plan["parameters"],
        "kept": kept,
        **asdict(time),
        "sha256": {LOG: file_digest(log)},
        "base_source_sha256": file_digest(base_source) if base_source else None,
    }


def _shown_lora(lora: LoraConfig) -> str:
    targets = ", ".join(lora.targets) if lora.targets else "all linear layers of the encoder"
    return f"rank={lora.rank}, alpha={lora.alpha:g}, dropout={lora.dropout:g}, targets: {targets}"


def with_runtime_settings(settings: str, runtime_settings: str) -> FinetuneSettings:
    """Merge the settings that training depends on with those that do not change the weights, both given as JSON."""
    merged = json.loads(settings)
    for key, value in json.loads(runtime_settings).items():
        merged[key] = merged.get(key, {}) | value if isinstance(value, dict) else value
    return FinetuneSettings.model_validate(merged)


def fingerprint(*parts: str) -> str:
    """Return a short name derived from everything that the weights depend on."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def augmentation_files(augment: AugmentConfig) -> str:
    """Return the noise and room files that augmentation uses, with their sizes, as JSON."""
    files = [path for folder in augment.folders for path in audio_files(Path(folder))]
    return json.dumps([[path.as_posix(), path.stat().st_size] for path in files])


def main() -> None:
    """Run the stage from the command line; exit status 75 means that it stopped at a signal and can resume."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", required=True)
    parser.add_argument("--settings", required=True, help="the settings that the weights depend on")
    parser.add_argument("--runtime-settings", required=True, help="the settings that do not change the weights")
    parser.add_argument("--gpus", type=int, required=True)
    parser.add_argument("--stage-version", required=True, help="the version of this stage")
    parser.add_argument("--clips", type=Path, required=True)
    parser.add_argument("--digest", type=Path, required=True)
    parser.add_argument("--shards", type=Path, nargs="+", required=True)
    parser.add_argument("--dev-clips", type=Path, required=True)
    parser.add_argument("--dev-shards", type=Path, nargs="+", required=True)
    parser.add_argument("--vocab", type=Path, required=True, help="the folder of the processor")
    parser.add_argument("--base", type=Path, nargs="*", help="the folder of the base model, if there is one")
    parser.add_argument("--base-source", type=Path, nargs="*", help="the source of the base model, if there is one")
    parser.add_argument("--plan", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="the folder of the resume states")
    parser.add_argument("--checkpoints", type=Path, required=True)
    parser.add_argument("--record", type=Path, required=True)
    parser.add_argument("--log", type=Path, required=True)
    args = parser.parse_args()
    settings = with_runtime_settings(args.settings, args.runtime_settings)
    if not launched():
        check_clips_digest(args.clips, args.digest)
        for folder in (args.vocab, *(args.base or [])):
            check_folder(folder)
    plan, dev = read_json(args.plan), read_table(args.dev_clips).to_pylist()
    best = settings.checkpoints.best
    work = args.work / fingerprint(
        args.settings,
        augmentation_files(settings.augment),
        args.stage_version,
        args.digest.read_text(),
        # Mixing depends on the speakers of the clips, which are not part of their digest.
        json.dumps([plan["checkpoints"], plan["mixing"]] if settings.mixing else plan["checkpoints"]),
        file_digest(args.vocab / "vocab.json"),
        # It lists the digests of all files of the base model.
        file_digest(args.base_source[0]) if args.base_source else "",
        clips_digest(dev) if best else "",
    )
    finished = finished_folder(work)

    def train_on(device: torch.device) -> None:
        clips, processor = read_table(args.clips), load_processor(args.vocab)
        base = args.base[0] if args.base else None
        inputs = TrainingInputs(clips, args.shards, processor, base, plan, dev, args.dev_shards)
        signal_name = train(args.run, settings, inputs, work, args.work / "tensorboard" / work.name, device)
        if signal_name is not None:
            print(f"stopped by {signal_name} after a save; run the same command again to resume", file=sys.stderr)
            sys.exit(EXIT_RESUMABLE)

    def train_on_devices() -> torch.device:
        work.mkdir(parents=True, exist_ok=True)
        with acquire_devices(settings.device, f"runs.{args.run}", args.gpus, settings.gpus) as devices:
            if settings.gpus == 1:
                train_on(devices[0])
            else:
                launch("speechmill.training.finetune", sys.argv[1:], devices)
            return devices[0]

    with ignore_broken_pipes():
        if launched():
            with process_group() as device:
                train_on(device)
        elif not is_first_task():
            if not finished.is_dir():
                train_on_devices()
        else:
            with exclusive_use(args.work, args.run):
                if finished.is_dir():
                    check_finished(finished)
                    print(
                        f"training has finished: its results are taken from {finished} (to train again: rm -r"
                        f" {finished})",
                        file=sys.stderr,
                    )
                else:
                    device = train_on_devices()
                    kept = kept_steps(read_log(work), plan["checkpoints"], best, settings.metric)
                    # A state is saved at the last step, which is always a planned checkpoint.
                    time = read_training_time(work / f"checkpoint-{plan['total_steps']}")
                    base_source = args.base_source[0] if args.base_source else None
                    finish(work, record(args.run, settings, plan, kept, device, time, work / LOG, base_source))
                export(finished, args.checkpoints, args.record, args.log)


if __name__ == "__main__":
    run_command(main)
