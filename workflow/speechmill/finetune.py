"""finetune: the planned steps of training, and the checkpoints that the plan lists."""

import argparse
import hashlib
import itertools
import json
import platform
import shutil
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    Wav2Vec2Processor,
    set_seed,
)

from speechmill.clip_reader import ClipReader, Collator
from speechmill.command import SpeechmillError, run_command
from speechmill.config.finetune import FinetuneSettings
from speechmill.config.model import ModelSettings
from speechmill.config.plan import PlanSettings
from speechmill.device import taken_device
from speechmill.models import model_config, new_model, output_frames
from speechmill.states import link, newest_state
from speechmill.tables import SAMPLE_RATE, file_digest, read_json, read_table, write_json
from speechmill.trainer import CtcTrainer, PlannedBatches, Recorder, training_arguments


class Settings(BaseModel):
    """The slice of a run's section that this stage reads."""

    device: str
    plan: PlanSettings
    model: ModelSettings
    finetune: FinetuneSettings


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
        args=training_arguments(settings.plan, settings.finetune, work, device),
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
    shutil.copytree(work / "checkpoints", args.checkpoints, copy_function=link)
    shutil.rmtree(work)


if __name__ == "__main__":
    run_command(main)
