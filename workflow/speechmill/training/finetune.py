"""finetune: the planned steps of training, and the checkpoints that the plan lists, or the best of them."""

import argparse
import hashlib
import itertools
import json
import os
import shutil
import sys
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from pydantic import BaseModel
from transformers import PreTrainedModel, PrinterCallback, set_seed

from speechmill.config.augment import AugmentConfig
from speechmill.config.checkpoints import CheckpointConfig
from speechmill.config.finetune import FinetuneConfig
from speechmill.config.model import ModelConfig
from speechmill.config.plan import PlanConfig
from speechmill.config.text import TextConfig
from speechmill.core.command import SpeechmillError, run_command
from speechmill.core.progress import outliving_readers
from speechmill.core.tables import SAMPLE_RATE, clips_digest, file_digest, read_json, read_table, write_json
from speechmill.model.batching import Clips, PlannedBatches, clips_of
from speechmill.model.clip_reader import ClipReader, Collator
from speechmill.model.devices import acquire_devices, device_name
from speechmill.model.models import Processor, encoder_config, load_processor, model_config, new_model, output_frames
from speechmill.model.spec_augment import spec_augment_on_device
from speechmill.model.step import checkpoint_activations, compile_layers, freeze, set_attention
from speechmill.training.augment import Augmenter, DeviceFeatures, audio_files
from speechmill.training.checkpoint_callback import CHECKPOINTS, CheckpointCallback, kept_steps
from speechmill.training.dev_evaluator import DevEvaluator, spread_over_lengths
from speechmill.training.distributed import broadcast, joined, launch, launched, rank, world_size
from speechmill.training.guards import EXIT_RESUMABLE, NotFiniteError, not_finite, out_of_memory, stop_requests
from speechmill.training.resume_state import LOG, cut_log, link, newest_resume_state, read_log, step_of
from speechmill.training.trainer import BatchTransform, CtcTrainer, SaveStopCallback, training_arguments

# Texts are looked at so many at a time.
_ROWS = 8192


class FinetuneSettings(BaseModel):
    """The slice of a run's section that this stage reads."""

    device: str
    gpus: int
    plan: PlanConfig
    model: ModelConfig
    finetune: FinetuneConfig
    augment: AugmentConfig
    checkpoints: CheckpointConfig
    text: TextConfig
    batch_seconds: float
    """Of the batches in which dev is tried, padding included."""


@dataclass(frozen=True)
class Materials:
    """What a training is made of beside its settings."""

    clips: pa.Table
    shards: list[Path]
    processor: Processor
    base: Path | None
    plan: dict[str, Any]
    dev: list[dict[str, Any]]
    dev_shards: list[Path]

    def probe(self, settings: FinetuneSettings) -> DevEvaluator | None:
        """How a checkpoint is tried: on all of dev where that decides, else on a few clips; None for none."""
        clips = (
            self.dev if settings.checkpoints.best else spread_over_lengths(self.dev, settings.checkpoints.dev_clips)
        )
        return DevEvaluator(clips, self.dev_shards, self.processor, settings.text, settings.batch_seconds) if clips else None


def check_frames(model: PreTrainedModel, clips: pa.Table, collator: Collator, run: str, shortest: float = 1.0) -> None:
    """Raise SpeechmillError if a clip has fewer frames than CTC needs for its text: its loss would be infinite.

    `shortest` is what augmentation may leave of a clip's length.
    """
    short: list[str] = []
    for rows in clips.select(["id", "text", "num_samples"]).to_batches(_ROWS):
        left = (torch.from_numpy(rows["num_samples"].to_numpy().copy()) * shortest).long()
        frames = output_frames(model, left).tolist()
        for name, have, ids in zip(
            rows["id"].to_pylist(), frames, collator.labels(rows["text"].to_pylist()), strict=True
        ):
            if have < len(ids) + sum(a == b for a, b in itertools.pairwise(ids)):
                short.append(name)
    if short:
        second = int(output_frames(model, torch.tensor([1000 * SAMPLE_RATE]))[0]) / 1000
        speed = "" if shortest == 1 else f", or lower runs.{run}.augment.speed, whose highest leaves {shortest:.2f}"
        raise SpeechmillError(
            f"{len(short)} training clips are too short for their text at this model's frame rate, the first is"
            f" {short[0]}; set runs.{run}.clips.frame_seconds to the model's {1 / second:.3f}{speed}"
        )


def trainable(settings: FinetuneSettings, materials: Materials) -> PreTrainedModel:
    """The model at step 0, set up as the settings and the plan say. Its new weights come from torch's random state."""
    vocab = materials.processor.tokenizer.get_vocab()
    config = model_config(settings.model.init, materials.base, settings.model.config, len(vocab))
    model = new_model(config, materials.base, vocab)
    freeze(model, settings.finetune, materials.base is not None)
    mask = getattr(model.base_model, "masked_spec_embed", None)
    if mask is not None and not (getattr(config, "apply_spec_augment", True) and config.mask_time_prob > 0):
        # Nothing is masked, and processes would wait for its gradient.
        mask.requires_grad_(False)
    set_attention(model, settings.finetune.attention)
    spec_augment_on_device(model)
    if materials.plan["gradient_checkpointing"]:
        checkpoint_activations(model)
    if settings.finetune.compile:
        compile_layers(model)
    return model


def augmentation(settings: AugmentConfig, seed: int, processor: Processor) -> BatchTransform | None:
    """What is done to a batch on the device, or None.

    Its samples are normalised already; that changes nothing, since noise is added at a ratio, and all else is linear.
    """
    if not settings.is_on:
        return None
    noise, room = (
        audio_files(Path(each.folder)) if each is not None and each.folder is not None else []
        for each in (settings.noise, settings.room)
    )
    augment, features = Augmenter(settings, seed, noise, room), DeviceFeatures(processor.feature_extractor)

    def change(batch: dict[str, Any]) -> dict[str, Any]:
        samples, num_samples = augment(batch["input_values"], batch["num_samples"], batch["batch"])
        heard = features(samples, num_samples)
        if "attention_mask" not in batch:
            # Nothing was padded, and still nothing is.
            heard.pop("attention_mask", None)
        return batch | heard | {"num_samples": num_samples}

    return change


def train(
    run: str, settings: FinetuneSettings, materials: Materials, work: Path, board: Path, device: torch.device
) -> str | None:
    """Train in `work`, going on from the newest state there, until `work/checkpoints` has all that is to be kept.

    Returns what ended it before, the name of a signal; the state of its last step is saved then.
    Raises SpeechmillError where a clip is too short for its text, where loss or gradient are not finite, and where
    device or disk are full.
    """
    plan, finetune = settings.plan, settings.finetune
    if device.type == "cuda":
        # What is left in fp32 under autocast, and the probe, may then use TF32.
        torch.set_float32_matmul_precision("highest" if finetune.precision == "fp32" else "high")
    torch.set_num_threads(finetune.threads)
    set_seed(plan.seed)
    model = trainable(settings, materials)
    collator = Collator(materials.processor)
    check_frames(model, materials.clips, collator, run, settings.augment.shortest_factor)
    state = broadcast(lambda: newest_resume_state(work))
    start, clips = step_of(state), clips_of(materials.clips)
    trainer = CtcTrainer(
        model=model,
        args=training_arguments(
            plan, finetune, work, device, unused_weights=encoder_config(model.config).layerdrop > 0
        ),
        clips=ClipReader(materials.clips, materials.shards, plan.pool_clips),
        data_collator=collator,
        batches=PlannedBatches(clips, plan, materials.plan["batches"], rank(), world_size(), start),
        workers=finetune.workers,
        change=augmentation(settings.augment, plan.seed, materials.processor),
    )
    # Of the same model, each process drops out something else. Only now: making a Trainer sets the seed too.
    set_seed(plan.seed + rank())
    # It prints what the progress bar and the log show already.
    trainer.remove_callback(PrinterCallback)
    if rank() == 0:
        cut_log(work, start)
        if state is not None:
            print(f"going on from step {start} (to start again instead: rm -r {work.parent})", file=sys.stderr)
        best, probe = settings.checkpoints.best, materials.probe(settings)
        recorder = CheckpointCallback(
            run, work, board, materials.plan, materials.processor, probe, best, finetune.warmup_steps, start
        )
        trainer.add_callback(recorder)
    with stop_requests() as request:
        trainer.add_callback(SaveStopCallback(set(materials.plan["checkpoints"]), finetune.resume_minutes, request))
        try:
            trainer.train(resume_from_checkpoint=str(state) if state else None)
        except NotFiniteError as error:
            ids = [materials.clips["id"][i].as_py() for i in _clips_of_step(error.step, clips, plan, materials.plan)]
            raise not_finite(run, error.step, ids) from error
        except torch.OutOfMemoryError as error:
            raise out_of_memory(run, trainer.padded_seconds, materials.plan, _memory(device)) from error
        finally:
            if rank() == 0:
                recorder.close()
    done = trainer.state.global_step == materials.plan["total_steps"]
    return None if done else request.signal or "a signal to another process"


def _clips_of_step(step: int, clips: Clips, plan: PlanConfig, planned: dict[str, Any]) -> list[int]:
    """The clips, by their place in the table, that all processes train on in `step`, which counts from 1."""
    batches = [
        batch
        for each in range(world_size())
        for batch in itertools.islice(
            PlannedBatches(clips, plan, planned["batches"], each, world_size(), step - 1), plan.gradient_accumulation
        )
    ]
    return [drawn.clip for batch in batches for drawn in batch if drawn.weight]


def _memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def record(
    run: str, settings: FinetuneSettings, plan: dict[str, Any], kept: list[int], device: torch.device, seconds: float
) -> dict[str, Any]:
    """What `training.json` says: hyper-parameters, versions, hardware, configuration, the steps of the checkpoints."""
    finetune, batch = settings.finetune, settings.plan.batch
    size: float | int = batch.clips or round(plan["clips_per_batch"], 1)
    hyper_parameters = {
        "learning_rate": finetune.learning_rate,
        "train_batch_size": size,
        **({"train_batch_seconds": batch.seconds} if batch.seconds else {}),
        "seed": settings.plan.seed,
        "gradient_accumulation_steps": settings.plan.gradient_accumulation,
        **({"num_devices": settings.gpus} if settings.gpus > 1 else {}),
        "total_train_batch_size": round(size * settings.plan.gradient_accumulation * settings.gpus, 1),
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
            "device": device_name(device) if device.type == "cuda" else "cpu",
            "processor": device_name(torch.device("cpu")),
            "threads": finetune.threads,
        },
        "parameters": plan["parameters"],
        "kept": kept,
        "wall_seconds": seconds,
    }


def with_runtime_settings(settings: str, pace: str) -> FinetuneSettings:
    """The settings of two slices of a run's section: what training depends on, and what changes no weights."""
    whole = json.loads(settings)
    for key, value in json.loads(pace).items():
        whole[key] = whole.get(key, {}) | value if isinstance(value, dict) else value
    return FinetuneSettings.model_validate(whole)


def fingerprint(*parts: str) -> str:
    """What the state of a training depends on, as a short name."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def recordings(augment: AugmentConfig) -> str:
    """The files of noise and rooms that training uses, by name and size."""
    folders = [each.folder for each in (augment.noise, augment.room) if each is not None and each.folder is not None]
    return json.dumps([[path.as_posix(), path.stat().st_size] for each in folders for path in audio_files(Path(each))])


def export_checkpoints(work: Path, steps: list[int], checkpoints: Path, log: Path) -> None:
    """Put the checkpoints of `steps` and the log of a training that is done where others look for them.

    Linked, not moved: killed here, the next run still finds all that it needs in `work`.
    """
    for step in steps:
        if not (work / CHECKPOINTS / f"checkpoint-{step}").is_dir():
            raise SpeechmillError(
                f"{work / CHECKPOINTS} lacks the checkpoint of step {step}, which was made; something else has removed"
                f" it. To start again: rm -r {work.parent}"
            )
    shutil.rmtree(checkpoints, ignore_errors=True)
    checkpoints.mkdir(parents=True)
    for step in steps:
        name = f"checkpoint-{step}"
        shutil.copytree(work / CHECKPOINTS / name, checkpoints / name, copy_function=link)
    shutil.copy(work / LOG, log)


def main() -> None:
    """Run the stage from the command line; the exit status 75 means that it was asked to stop and will go on."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", required=True)
    parser.add_argument("--settings", required=True, help="the slice of the run's section that training depends on")
    parser.add_argument("--runtime-settings", required=True, help="the slice that changes no weights, to be put into the settings")
    parser.add_argument("--gpus", type=int, required=True)
    parser.add_argument("--code", required=True, help="the digest of the code, for the fingerprint")
    parser.add_argument("--clips", type=Path, required=True)
    parser.add_argument("--digest", type=Path, required=True)
    parser.add_argument("--shards", type=Path, nargs="+", required=True)
    parser.add_argument("--dev-clips", type=Path, required=True)
    parser.add_argument("--dev-shards", type=Path, nargs="+", required=True)
    parser.add_argument("--vocab", type=Path, required=True, help="the folder of the processor")
    parser.add_argument("--base", type=Path, nargs="*", help="the folder of the base model, if there is one")
    parser.add_argument("--base-source", type=Path, nargs="*", help="what is known of the base model, if there is one")
    parser.add_argument("--plan", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="where the states of training are kept")
    parser.add_argument("--checkpoints", type=Path, required=True)
    parser.add_argument("--record", type=Path, required=True)
    parser.add_argument("--log", type=Path, required=True)
    args = parser.parse_args()
    settings = with_runtime_settings(args.settings, args.runtime_settings)
    plan, dev = read_json(args.plan), read_table(args.dev_clips).to_pylist()
    best = settings.checkpoints.best
    work = args.work / fingerprint(
        args.settings,
        recordings(settings.augment),
        args.code,
        args.digest.read_text(),
        json.dumps(plan["checkpoints"]),
        file_digest(args.vocab / "vocab.json"),
        # Its files by their digests, whatever the format of its weights.
        file_digest(args.base_source[0]) if args.base_source else "",
        clips_digest(dev) if best else "",
    )
    work.mkdir(parents=True, exist_ok=True)

    def train_on(device: torch.device) -> None:
        clips, processor = read_table(args.clips), load_processor(args.vocab)
        base = args.base[0] if args.base else None
        materials = Materials(clips, args.shards, processor, base, plan, dev, args.dev_shards)
        stopped = train(args.run, settings, materials, work, args.work / "tensorboard" / work.name, device)
        if stopped is not None:
            print(f"stopped by {stopped}, and saved: run the same command again to go on", file=sys.stderr)
            sys.exit(EXIT_RESUMABLE)

    with outliving_readers():
        if launched():
            with joined() as device:
                train_on(device)
            return
        started = time.monotonic()
        with acquire_devices(settings.device, args.run, args.gpus, settings.gpus) as devices:
            if settings.gpus == 1:
                train_on(devices[0])
            elif not launch("speechmill.training.finetune", sys.argv[1:], devices):
                return
        kept = kept_steps(read_log(work), plan["checkpoints"], best)
        export_checkpoints(work, kept, args.checkpoints, args.log)
        seconds = time.monotonic() - started
        write_json(record(args.run, settings, plan, kept, devices[0], seconds), args.record)
        # At once under another name: half of a work folder must not look like a training that can go on.
        work.rename(work.with_name(f"done-{work.name}"))
        for done in args.work.glob("done-*"):
            shutil.rmtree(done)


if __name__ == "__main__":
    run_command(main)
