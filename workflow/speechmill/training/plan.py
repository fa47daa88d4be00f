"""plan: what training will take, before any GPU time is spent."""

import argparse
import hashlib
import itertools
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from transformers import PreTrainedConfig

from speechmill.config.finetune import MemoryConfig
from speechmill.config.model import ModelConfig
from speechmill.config.plan import Batch, PlanConfig
from speechmill.core.command import SpeechmillError, atomic_write, run_command
from speechmill.core.formatting import H100_FLOPS, duration, gibibytes, gigabytes
from speechmill.core.tables import SAMPLE_RATE, read_json, read_table, write_json
from speechmill.corpus.leakage import in_words as leakage_in_words
from speechmill.model.batching import BatchStats, Clips, batch_stats, clips_of
from speechmill.model.models import model_config
from speechmill.training.cost import Cost, training_cost

# What gradient checkpointing computes again: the forward pass, a third of the work.
_RECOMPUTED = 4 / 3


class PlanSettings(BaseModel):
    """The slice of a run's section that this stage reads."""

    plan: PlanConfig
    model: ModelConfig
    memory: MemoryConfig
    device: str
    gpus: int
    gpu_memory_gib: float
    best: int | None
    """How many checkpoints are kept; None for all."""
    stretch: float
    """How many times longer augmentation can make a clip."""


def make_plan(
    run: str,
    clips: Path,
    counts: Mapping[str, Any],
    statuses: Sequence[Mapping[str, Any]],
    config: PreTrainedConfig,
    settings: PlanSettings,
) -> dict[str, Any]:
    """What `plan.json` holds: clips, hours, steps, checkpoints, padding share, disk, memory and arithmetic.

    `counts` are those of the training clips, `statuses` those of the datasets that the run reads.
    Raises SpeechmillError where a clip does not fit into a batch.
    """
    plan = settings.plan
    table = clips_of(read_table(clips, ["dataset", "split", "shard", "row_group", "num_samples"]))
    samples, longest = int(table.lengths.sum()), int(table.lengths.max()) / SAMPLE_RATE
    if plan.batch.seconds is not None and longest > plan.batch.seconds:
        raise SpeechmillError(
            f"runs.{run}.plan.batch.seconds is {plan.batch.seconds}, but the longest training clip has {longest:.2f} s;"
            f" raise it, or lower runs.{run}.clips.max_seconds"
        )
    extent = batch_stats(table, plan)
    a_step = plan.gradient_accumulation * settings.gpus
    steps = math.ceil(extent.batches / a_step)
    saved = [*range(plan.save_steps, steps, plan.save_steps), steps]
    cost = training_cost(
        config,
        settings.memory,
        has_base=settings.model.has_base,
        processes=settings.gpus,
        mean_seconds=samples / len(table.lengths) / SAMPLE_RATE,
        longest_seconds=longest * settings.stretch,
    )
    largest = extent.largest / SAMPLE_RATE
    checkpointing, why = gradient_checkpointing(run, settings, cost, largest * settings.stretch)
    memory = {
        "weights": cost.weights,
        "gradients": cost.gradients,
        "optimizer": cost.optimizer,
        "activations": int(cost.activations[checkpointing] * settings.stretch * largest),
        "other": cost.other,
    }
    return {
        "run": run,
        "clips": len(table.lengths),
        "hours": samples / SAMPLE_RATE / 3600,
        "longest_seconds": longest,
        "speakers": counts["speakers"],
        "excluded": counts["excluded"],
        "epochs": plan.epochs,
        "batches": extent.batches,
        "gradient_accumulation": plan.gradient_accumulation,
        "gpus": settings.gpus,
        "clips_per_batch": len(table.lengths) * plan.epochs / extent.batches,
        "seconds_per_batch": samples / SAMPLE_RATE * plan.epochs / extent.batches,
        "other_batch": _other_batch(table, plan, extent, a_step),
        "steps_per_epoch": steps / plan.epochs,
        "total_steps": steps,
        "checkpoints": saved,
        "explanations": explanations(len(table.lengths), counts, statuses, plan, settings.gpus),
        "padding_share": extent.padding_share(samples * plan.epochs),
        "largest_batch_seconds": largest,
        "parameters": cost.parameters,
        "flop_per_audio_second": cost.flop_per_audio_second,
        # What the arithmetic alone would allow on H100s, which finetune shows its speed against.
        "peak_throughput": None
        if settings.device == "cpu"
        else settings.gpus * H100_FLOPS / cost.flop_per_audio_second,
        "disk_bytes": {
            "checkpoint": cost.weights,
            # One more while training goes on: a checkpoint is made before the worst one is dropped.
            "checkpoints": cost.weights * min(len(saved), settings.best + 1 if settings.best else len(saved)),
            # Two states, and a third that is made before one is dropped.
            "resume": 3 * (cost.weights + cost.optimizer),
        },
        "memory_bytes": sum(memory.values()),
        "memory_parts": memory,
        "gpu_memory_gib": settings.gpu_memory_gib,
        "gradient_checkpointing": checkpointing,
        "gradient_checkpointing_because": why,
        "fits_seconds": {
            key: cost.fitting_seconds(settings.gpu_memory_gib * 2**30, kind) / settings.stretch
            for key, kind in (("without_checkpointing", False), ("with_checkpointing", True))
        },
        "device": settings.device,
    }


def gradient_checkpointing(run: str, settings: PlanSettings, cost: Cost, seconds: float) -> tuple[bool, str]:
    """Whether activations are computed twice for a largest batch of so many padded seconds, and why."""
    asked = settings.memory.gradient_checkpointing
    if asked != "auto":
        return asked, f"runs.{run}.finetune.gradient_checkpointing says so"
    if settings.device == "cpu":
        return False, "it would save the memory of a GPU, and the run is on a CPU"
    needed, there = cost.memory(seconds, False), settings.gpu_memory_gib * 2**30
    compared = "more" if needed > there else "no more"
    return (
        needed > there,
        f"to keep them takes {gibibytes(needed)}, {compared} than runs.{run}.gpu_memory_gib, {gibibytes(there)}",
    )


def trainer_steps(clips: int, batch: int, accumulation: int, gpus: int) -> tuple[int, int]:
    """The steps an epoch that the Trainer of transformers 4, and of transformers 5, takes for batches of `batch` clips.

    Both cut each epoch into steps of its own. What is left at the end makes no step in version 4, and a smaller step in
    version 5: `num_update_steps_per_epoch` in their sources.
    """
    batches = math.ceil(clips / (batch * gpus))
    return max(1, batches // accumulation), math.ceil(batches / accumulation)


def explanations(
    clips: int, counts: Mapping[str, Any], statuses: Sequence[Mapping[str, Any]], plan: PlanConfig, gpus: int
) -> list[str]:
    """Sentences on how the number of steps an epoch compares with what a model card of the Trainer says.

    None for batches by seconds, which the Trainer does not know.
    """
    if plan.batch.clips is None:
        return []
    size = plan.batch.clips

    def steps(number: int) -> str:
        older, newer = trainer_steps(number, size, plan.gradient_accumulation, gpus)
        return f"{older:,} steps" if older == newer else f"{older:,} steps (transformers 4) or {newer:,} (5)"

    exact = math.ceil(clips / size) / plan.gradient_accumulation / gpus
    sentences = [
        f"the Trainer of transformers would take {steps(clips)} an epoch for the {clips:,} clips: version 4 makes no"
        f" step of what is left at an epoch's end, version 5 a smaller one; here it is {exact:,.2f}, as a step may go"
        " on into the next epoch"
    ]
    sentences += [
        f"with the {number:,} clips that are left out as {reason}, it would take {steps(clips + number)} an epoch"
        for reason, number in counts["excluded"].items()
    ]
    listed = [(name, _listed(name, statuses)) for name in counts["sets"]]
    sums = itertools.accumulate(number for _, number in listed)
    for i, ((name, number), total) in enumerate(zip(listed, sums, strict=True)):
        together = f"with {name}, {total:,} clips" if i else f"for all {number:,} clips that are listed in {name}"
        sentences.append(f"{together}, it would take {steps(total)} an epoch")
    elsewhere = sum(number for _, number in listed) - clips - sum(counts["excluded"].values())
    if elsewhere:
        sentences.append(
            f"{elsewhere:,} of the listed clips are in drawn sets or in several of these, or could not be read"
        )
    return sentences


def _listed(name: str, statuses: Sequence[Mapping[str, Any]]) -> int:
    """The clips of a set as the corpus lists them, before other sets are drawn from it."""
    dataset, split = name.split("-")
    status = next(each for each in statuses if each["dataset"] == dataset)
    return int(status["listed"].get(split, status["sets"][split]))


def _other_batch(clips: Clips, plan: PlanConfig, extent: BatchStats, a_step: int) -> dict[str, Any]:
    """The batch that is said in the other way and is about as large, with what an epoch of it would be."""
    if plan.batch.seconds is None:
        # Not a hair less than what one batch needs now.
        batch = Batch(seconds=math.ceil(10 * extent.largest / SAMPLE_RATE) / 10)
    else:
        batch = Batch(clips=max(1, round(len(clips.lengths) * plan.epochs / extent.batches)))
    one = batch_stats(clips, plan.model_copy(update={"batch": batch, "epochs": 1}))
    return {
        "batch": batch.model_dump(exclude_defaults=True),
        "steps_per_epoch": one.batches / a_step,
        "largest_batch_seconds": one.largest / SAMPLE_RATE,
        "padding_share": one.padding_share(int(clips.lengths.sum())),
    }


def in_words(plan: dict[str, Any], leakage: dict[str, Any], statuses: list[dict[str, Any]], free: int) -> str:
    """The plan for a person to read, with what training has in common with the scored sets, and which cannot be had.

    `free` is the number of bytes that the disk has room for.
    """
    left_out = ", ".join(f"{count} {reason}" for reason, count in plan["excluded"].items()) or "none"
    processes = f" on each of {plan['gpus']} GPUs" if plan["gpus"] > 1 else ""
    return "\n".join(
        [
            f"Plan of the run {plan['run']}",
            f"  clips        {plan['clips']:,} of {plan['speakers']} speakers, {plan['hours']:.2f} h",
            f"  left out     {left_out}",
            *(f"  leakage      {sentence}" for sentence in leakage_in_words(leakage)),
            *(f"  NOT HAD      {s['dataset']}: {s['why']}" for s in statuses if not s["available"]),
            *(f"  unexpected   {s['dataset']}: {sentence}" for s in statuses for sentence in s["differences"]),
            f"  batches      {plan['clips_per_batch']:.1f} clips, {plan['seconds_per_batch']:.1f} s, on average; with"
            f" padding, which is {plan['padding_share']:.1%}, at most {plan['largest_batch_seconds']:.1f} s",
            f"  or           {_other_batch_in_words(plan)}",
            f"  steps        {plan['total_steps']:,}: {plan['epochs']} epochs of {plan['steps_per_epoch']:,.1f} steps,"
            f" {plan['gradient_accumulation']} batches a step{processes}",
            *(f"  compare      {sentence}" for sentence in plan["explanations"]),
            f"  checkpoints  {len(plan['checkpoints'])}, at steps {', '.join(map(str, plan['checkpoints']))}",
            f"  model        {plan['parameters'] / 1e6:,.1f} M parameters, on {plan['device']}",
            *_memory_in_words(plan),
            *_time_in_words(plan),
            *_disk_in_words(plan, free),
            "",
        ]
    )


def _other_batch_in_words(plan: dict[str, Any]) -> str:
    other = plan["other_batch"]
    ((key, value),) = other["batch"].items()
    return (
        f"`batch: {{{key}: {value:g}}}`, about as large: {other['steps_per_epoch']:,.1f} steps an epoch,"
        f" {other['padding_share']:.1%} padding, at most {other['largest_batch_seconds']:.1f} s a batch"
    )


def _memory_in_words(plan: dict[str, Any]) -> list[str]:
    parts, fits = plan["memory_parts"], plan["fits_seconds"]
    lines = [
        f"  memory       about {gibibytes(plan['memory_bytes'])} for training (estimated): "
        + ", ".join(f"{gibibytes(size)} {name}" for name, size in parts.items()),
        f"  activations  are {'computed twice' if plan['gradient_checkpointing'] else 'kept'}:"
        f" {plan['gradient_checkpointing_because']}",
    ]
    if plan["device"] == "cpu":
        return lines
    there = f"{plan['gpu_memory_gib']:g} GiB"
    if plan["memory_bytes"] > plan["gpu_memory_gib"] * 2**30:
        lines.append(f"  TOO MUCH     for a GPU of {there}: make batches smaller and gradient_accumulation larger")
    return [
        *lines,
        f"  fits         in {there}, a batch of {fits['without_checkpointing']:,.0f} s with padding, or of"
        f" {fits['with_checkpointing']:,.0f} s with gradient checkpointing (estimated)",
    ]


def _time_in_words(plan: dict[str, Any]) -> list[str]:
    if plan["device"] == "cpu":
        return []
    work = plan["flop_per_audio_second"] * plan["hours"] * 3600 * plan["epochs"]
    seconds = work / H100_FLOPS / plan["gpus"] * (_RECOMPUTED if plan["gradient_checkpointing"] else 1)
    return [
        f"  time         at best {duration(seconds)}, at the {H100_FLOPS / 1e12:.0f} TFLOP/s of an H100's matrix"
        f" products; {plan['flop_per_audio_second'] / 1e9:,.0f} GFLOP a second of audio"
    ]


def _disk_in_words(plan: dict[str, Any], free: int) -> list[str]:
    disk = plan["disk_bytes"]
    needed = disk["checkpoints"] + disk["resume"]
    return [
        f"  disk         {gigabytes(disk['checkpoints'])} of checkpoints, {gigabytes(disk['checkpoint'])} each,"
        f" {gigabytes(disk['resume'])} to resume",
        *([f"  TOO LITTLE   disk is free here: {gigabytes(free)} of {gigabytes(needed)}"] if free < needed else []),
    ]


def steps_digest(plan: dict[str, Any]) -> str:
    """sha256 of what of a plan makes another training: its steps, not what they are estimated to take."""
    steps = {key: plan[key] for key in ("epochs", "batches", "total_steps", "checkpoints")}
    return hashlib.sha256(json.dumps(steps).encode()).hexdigest()


def main() -> None:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", required=True)
    parser.add_argument("--settings", type=PlanSettings.model_validate_json, required=True)
    parser.add_argument("--clips", type=Path, required=True)
    parser.add_argument("--counts", type=Path, required=True)
    parser.add_argument("--leakage", type=Path, required=True)
    parser.add_argument("--status", type=Path, nargs="+", required=True, help="the status of each dataset")
    parser.add_argument("--vocab", type=Path, required=True)
    parser.add_argument("--base", type=Path, nargs="*", help="the folder of the base model, if there is one")
    parser.add_argument("--plan", type=Path, required=True)
    parser.add_argument("--digest", type=Path, required=True)
    parser.add_argument("--words", type=Path, required=True)
    args = parser.parse_args()
    model = args.settings.model
    base = args.base[0] if args.base else None
    config = model_config(model.init, base, model.config, len(read_json(args.vocab)))
    statuses = [read_json(path) for path in args.status]
    plan = make_plan(args.run, args.clips, read_json(args.counts), statuses, config, args.settings)
    words = in_words(plan, read_json(args.leakage), statuses, shutil.disk_usage(Path.cwd()).free)
    with atomic_write(args.words) as beside:
        beside.write_text(words, encoding="utf-8")
    write_json(plan, args.plan)
    with atomic_write(args.digest) as beside:
        beside.write_text(steps_digest(plan) + "\n", encoding="utf-8")
    print(words)


if __name__ == "__main__":
    run_command(main)
