"""plan: the steps, time, memory and disk space of a training run, computed before any GPU time is spent."""

import argparse
import hashlib
import itertools
import json
import math
import shutil
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel
from transformers import PreTrainedConfig

from speechmill.config.augment import AugmentConfig
from speechmill.config.finetune import MemoryConfig
from speechmill.config.mixing import MixingSettings
from speechmill.config.model import ModelConfig
from speechmill.config.plan import Batch, PlanConfig
from speechmill.core.command import SpeechmillError, printable, run_command
from speechmill.core.files import check_folder, read_json, write_json, write_text
from speechmill.core.formatting import H100_FLOPS, duration, gibibytes, gigabytes
from speechmill.core.schemas import SAMPLE_RATE
from speechmill.core.tables import read_table
from speechmill.corpus.ingest_pieces import format_parts
from speechmill.corpus.leakage import format_leakage
from speechmill.corpus.machine_transcripts import format_machine_transcripts, machine_transcripts
from speechmill.corpus.status import format_rejections
from speechmill.model.architectures import architecture_errors
from speechmill.model.batching import BatchStats, Clips, batch_stats, clips_from_table
from speechmill.model.mixing import WITHOUT_SPEAKER, Mix
from speechmill.model.models import empty_model, model_config, samples_per_frame
from speechmill.training.cost import Cost, training_cost

# Gradient checkpointing repeats the forward pass, which is a third of the work of a step.
_RECOMPUTATION_FACTOR = 4 / 3


class PlanSettings(BaseModel):
    """The settings of a run that this stage reads."""

    plan: PlanConfig
    mixing: MixingSettings | None = None
    model: ModelConfig
    memory: MemoryConfig
    device: str
    gpus: int
    gpu_memory_gib: float
    best: int | None
    """The number of checkpoints to keep; None keeps all."""
    average: int | None = None
    """The number of checkpoints to average; None averages none."""
    augment: AugmentConfig
    vocab: Literal["characters", "keep"] = "characters"
    """Whether the model keeps the head of its base."""
    log_probs: bool
    """Whether beam search reads log-probabilities of the scored sets."""


def make_plan(
    run: str,
    clips: Path,
    counts: Mapping[str, Any],
    scored: Sequence[Mapping[str, Any]],
    statuses: Sequence[Mapping[str, Any]],
    config: PreTrainedConfig,
    settings: PlanSettings,
    unwritten: dict[str, int] | None = None,
) -> dict[str, Any]:
    """Return the content of `plan.json`: clips, hours, steps, checkpoints, padding, disk space, memory and FLOP.

    Args:
        run: The name of the run.
        clips: The table of training clips.
        counts: The counts of the training clips, as the stage `clips` writes them.
        scored: The counts of the clips of each scored set.
        statuses: The statuses of the datasets that the run reads.
        config: The configuration of the model.
        settings: The settings of the stage.
        unwritten: The result of `count_unwritten`, for a run that keeps a vocabulary.

    Raises:
        SpeechmillError: A setting does not fit the architecture of the model, a clip is longer than a batch, or more
            checkpoints are to be averaged than there will be.
    """
    for error in architecture_errors(config.to_dict(), settings.memory, settings.augment):
        raise SpeechmillError(f"runs.{run}.{error}")
    plan, stretch = settings.plan, settings.augment.longest_factor
    columns = ["dataset", "split", "shard", "row_group", "num_samples", "speaker_id"]
    table = clips_from_table(read_table(clips, columns), settings.mixing)
    samples, longest = int(table.lengths.sum()), int(table.lengths.max()) / SAMPLE_RATE
    if plan.batch.seconds is not None and longest > plan.batch.seconds:
        raise SpeechmillError(
            f"runs.{run}.plan.batch.seconds is {plan.batch.seconds}, but the longest training clip has {longest:.2f} s;"
            f" raise it, or lower runs.{run}.clips.max_seconds"
        )
    if table.mix is not None:
        _check_mix(run, table.mix, plan)
    stats = batch_stats(table, plan)
    batches_per_step = plan.gradient_accumulation * settings.gpus
    epochs: int | float = plan.epochs
    if plan.max_steps is not None and plan.max_steps * batches_per_step < stats.batches:
        planned, stats = stats, batch_stats(table, plan, plan.max_steps * batches_per_step)
        epochs *= stats.batches / planned.batches
    steps = math.ceil(stats.batches / batches_per_step)
    saved = [*range(plan.save_steps, steps, plan.save_steps), steps]
    if settings.average is not None and settings.average > len(saved):
        advice = f"set it to at most {len(saved)}" if len(saved) > 1 else "remove it"
        raise SpeechmillError(
            f"runs.{run}.select.average is {settings.average}, but the number of planned checkpoints is"
            f" {len(saved):,}, in {steps:,} steps; {advice}, or lower"
            f" runs.{run}.plan.save_steps, which is {plan.save_steps:,}"
        )
    cost = training_cost(
        config,
        settings.memory,
        has_base=settings.model.has_base,
        processes=settings.gpus,
        accumulates=plan.gradient_accumulation > 1,
        mean_seconds=stats.samples / stats.clips / SAMPLE_RATE,
        longest_seconds=longest * stretch,
    )
    largest, checkpoint = stats.largest / SAMPLE_RATE, 4 * cost.parameters
    checkpointing, reason = gradient_checkpointing(run, settings, cost, largest * stretch)
    memory = {
        "weights": cost.weights,
        "optimizer": cost.optimizer,
        "activations and gradients": cost.activations_and_gradients(stretch * largest, checkpointing),
        "other": cost.other,
    }
    return {
        "run": run,
        "clips": len(table.lengths),
        "hours": samples / SAMPLE_RATE / 3600,
        "longest_seconds": longest,
        "speakers": counts["speakers"],
        "excluded": counts["excluded"],
        "corrected": counts["corrected"],
        "machine_transcripts": [format_machine_transcripts(each) for each in machine_transcripts(counts, statuses)],
        "marks_dropped": counts["marks_dropped"],
        "unwritten": unwritten,
        "epochs": epochs,
        "mixing": settings.mixing
        and table.mix
        and {"by": settings.mixing.by, "groups": contributions(table, table.mix)},
        "hours_per_epoch": stats.samples / SAMPLE_RATE / 3600 / epochs,
        "batches": stats.batches,
        "gradient_accumulation": plan.gradient_accumulation,
        "gpus": settings.gpus,
        "clips_per_batch": stats.clips / stats.batches,
        "seconds_per_batch": stats.samples / SAMPLE_RATE / stats.batches,
        "equivalent_batch": _equivalent_batch(table, plan, stats, batches_per_step),
        "steps_per_epoch": steps / epochs,
        "total_steps": steps,
        "checkpoints": saved,
        "explanations": []
        if settings.mixing
        else explanations(len(table.lengths), counts, statuses, plan, settings.gpus),
        "padding_share": stats.padding_share,
        "largest_batch_seconds": largest,
        "parameters": cost.parameters,
        "trained_parameters": cost.trained,
        "trained_share": cost.trained_share,
        "flop_per_audio_second": cost.flop_per_audio_second,
        # Audio-seconds per second at the peak FLOP rate of the GPUs; finetune computes the MFU from it.
        "peak_throughput": None
        if settings.device == "cpu"
        else settings.gpus * H100_FLOPS / cost.flop_per_audio_second,
        "disk_bytes": {
            "checkpoint": checkpoint,
            # Two more than are kept: a checkpoint is written before the worst one is deleted, and the previous resume
            # state may need another one.
            "checkpoints": checkpoint * min(len(saved), settings.best + 2 if settings.best else len(saved)),
            # Two resume states are kept, and a third is written before one is deleted.
            "resume": 3 * (cost.weights + cost.optimizer),
            "log_probs": _log_probs_bytes(scored, config) if settings.log_probs else 0,
        },
        "memory_bytes": sum(memory.values()),
        "memory_parts": memory,
        "gpu_memory_gib": settings.gpu_memory_gib,
        "gradient_checkpointing": checkpointing,
        "gradient_checkpointing_reason": reason,
        "fits_seconds": {
            key: cost.fitting_seconds(settings.gpu_memory_gib * 2**30, kind) / stretch
            for key, kind in (("without_checkpointing", False), ("with_checkpointing", True))
        },
        "device": settings.device,
    }


def count_unwritten(characters: Mapping[str, Any]) -> dict[str, int]:
    """Return how many characters of the training text, without spaces, a kept vocabulary cannot write, and of how many.

    `characters` is the content of `characters.json`, as the stage `vocab` writes it for a run that keeps a vocabulary.
    """
    counts, unwritten = characters["characters"], characters["unwritten"]
    total = sum(count for character, count in counts.items() if not character.isspace())
    return {"characters": sum(each["times"] for each in unwritten.values()), "of": total}


def _check_mix(run: str, mixed: Mix, plan: PlanConfig) -> None:
    """Raise SpeechmillError if the mix leaves an epoch without clips, or no clip has the speaker that it goes by."""
    if mixed.titles == [WITHOUT_SPEAKER]:
        raise SpeechmillError(
            f"runs.{run}.mixing.by is speaker, but no training clip has a speaker; remove `mixing`, or give the column"
            " of the speaker in the section of the dataset"
        )
    for epoch in range(plan.epochs):
        if not len(mixed.epoch(plan.seed, epoch)):
            raise SpeechmillError(f"runs.{run}.mixing leaves no clips for epoch {epoch + 1}; raise the weights")


def contributions(clips: Clips, mixed: Mix) -> list[dict[str, Any]]:
    """Return what each group contributes to an epoch on average: a row for each dataset, language or part of speakers.

    A row has the group's `clips` and `hours`, how often an epoch goes through them, and the share of the epoch's hours.
    """
    rows = mixed.rows[mixed.groups]
    hours = clips.lengths / SAMPLE_RATE / 3600
    totals = np.bincount(rows, hours)
    epoch = np.bincount(rows, hours * mixed.times[mixed.groups])
    return [
        {"title": title, "clips": int(count), "hours": total, "times": part / total, "share": part / epoch.sum()}
        for title, count, total, part in zip(
            mixed.titles, np.bincount(rows), totals.tolist(), epoch.tolist(), strict=True
        )
    ]


def _log_probs_bytes(scored: Sequence[Mapping[str, Any]], config: PreTrainedConfig) -> int:
    """Return the bytes of the log-probabilities of the largest scored set, in 16 bits, at one checkpoint.

    They are on the disk twice while they are sorted into the order of the clips.
    """
    seconds: float = max(counts["seconds"] for counts in scored)
    return round(2 * 2 * seconds * SAMPLE_RATE / samples_per_frame(empty_model(config)) * int(config.vocab_size))


def gradient_checkpointing(run: str, settings: PlanSettings, cost: Cost, seconds: float) -> tuple[bool, str]:
    """Return whether to use gradient checkpointing if the largest batch has `seconds` with padding, and the reason."""
    requested = settings.memory.gradient_checkpointing
    if requested != "auto":
        return requested, f"as set in runs.{run}.finetune.gradient_checkpointing"
    if settings.device == "cpu":
        return False, "it saves GPU memory, and this run uses the CPU"
    needed, available = cost.memory(seconds, False), settings.gpu_memory_gib * 2**30
    comparison = "more" if needed > available else "not more"
    return (
        needed > available,
        f"training without it takes {gibibytes(needed)}, {comparison} than the {gibibytes(available)} of"
        f" runs.{run}.gpu_memory_gib",
    )


def trainer_steps(clips: int, batch: int, accumulation: int, gpus: int) -> tuple[int, int]:
    """Return the steps per epoch of the Trainer of transformers 4 and of transformers 5 for batches of `batch` clips.

    Both start a new step at each epoch. Version 4 drops an incomplete last step, version 5 takes it as a smaller step;
    source: `num_update_steps_per_epoch` in their code.
    """
    batches = math.ceil(clips / (batch * gpus))
    return max(1, batches // accumulation), math.ceil(batches / accumulation)


def explanations(
    clips: int, counts: Mapping[str, Any], statuses: Sequence[Mapping[str, Any]], plan: PlanConfig, gpus: int
) -> list[str]:
    """Return sentences that compare the steps per epoch with those of the Trainer, which published model cards list.

    The list is empty for batches by seconds, which the Trainer does not have.
    """
    if plan.batch.clips is None:
        return []
    size = plan.batch.clips

    def steps(number: int) -> str:
        older, newer = trainer_steps(number, size, plan.gradient_accumulation, gpus)
        return f"{older:,} steps" if older == newer else f"{older:,} steps (transformers 4) or {newer:,} (5)"

    exact = math.ceil(clips / size) / plan.gradient_accumulation / gpus
    sentences = [
        f"the Trainer of transformers would take {steps(clips)} per epoch for the {clips:,} clips: version 4 drops an"
        f" incomplete last step of an epoch, version 5 takes it as a smaller step; this run takes {exact:,.2f}, since a"
        " step may continue into the next epoch"
    ]
    sentences += [
        f"with the {number:,} clips that are excluded as {reason}, it would take {steps(clips + number)} per epoch"
        for reason, number in counts["excluded"].items()
    ]
    listed = [(name, _listed(name, statuses)) for name in counts["sets"]]
    totals = itertools.accumulate(number for _, number in listed)
    for i, ((name, number), total) in enumerate(zip(listed, totals, strict=True)):
        included = f"with {name}, {total:,} clips" if i else f"for all {number:,} clips that are listed in {name}"
        sentences.append(f"{included}, it would take {steps(total)} per epoch")
    other = sum(number for _, number in listed) - clips - sum(counts["excluded"].values())
    if other:
        sentences.append(
            f"{other:,} of the listed clips are in drawn splits, are in several of these sets, or could not be read"
        )
    return sentences


def _listed(name: str, statuses: Sequence[Mapping[str, Any]]) -> int:
    """Return the number of clips that the corpus lists for a set, before other sets are drawn from it."""
    dataset, split = name.split("-")
    status = next(each for each in statuses if each["dataset"] == dataset)
    return int(status["listed"].get(split, status["sets"][split]))


def _equivalent_batch(clips: Clips, plan: PlanConfig, stats: BatchStats, batches_per_step: int) -> dict[str, Any]:
    """Return a batch of about the same size in the other unit, clips or seconds, and the figures of an epoch of it."""
    if plan.batch.seconds is None:
        # Rounded up, so that the largest of the present batches fits.
        batch = Batch(seconds=math.ceil(10 * stats.largest / SAMPLE_RATE) / 10)
    else:
        batch = Batch(clips=max(1, round(stats.clips / stats.batches)))
    one = batch_stats(clips, plan.model_copy(update={"batch": batch, "epochs": 1}))
    return {
        "batch": batch.model_dump(exclude_defaults=True),
        "steps_per_epoch": one.batches / batches_per_step,
        "largest_batch_seconds": one.largest / SAMPLE_RATE,
        "padding_share": one.padding_share,
    }


def format_plan(plan: dict[str, Any], leakage: dict[str, Any], statuses: list[dict[str, Any]], free: int) -> str:
    """Return the plan as text, with the leakage of the scored sets and the datasets that are not available.

    `free` is the free disk space in bytes.
    """
    excluded = ", ".join(f"{count} {reason}" for reason, count in plan["excluded"].items()) or "none"
    per_gpu = f" on each of {plan['gpus']} GPUs" if plan["gpus"] > 1 else ""
    return "\n".join(
        [
            f"Plan of the run {plan['run']}",
            f"  clips        {plan['clips']:,} of {plan['speakers']} speakers, {plan['hours']:.2f} h",
            f"  excluded     {excluded}",
            *([f"  corrected    {plan['corrected']:,} sentences, clips.corrections"] if plan["corrected"] else []),
            *(f"  machine      {sentence}" for sentence in plan["machine_transcripts"]),
            *_format_mixing(plan),
            *_format_dropped_marks(plan["marks_dropped"]),
            *_format_unwritten(plan["unwritten"]),
            *(f"  leakage      {sentence}" for sentence in format_leakage(leakage)),
            *(f"  UNAVAILABLE  {s['dataset']}: {s['why']}" for s in statuses if not s["available"]),
            *(f"  pieces       {s['dataset']}: {format_parts(s['about'])}" for s in statuses if "parts" in s["about"]),
            *_format_rejections(statuses),
            *(f"  unexpected   {s['dataset']}: {sentence}" for s in statuses for sentence in s["differences"]),
            f"  batches      {plan['clips_per_batch']:.1f} clips, {plan['seconds_per_batch']:.1f} s, on average; with"
            f" padding, which is {plan['padding_share']:.1%}, at most {plan['largest_batch_seconds']:.1f} s",
            f"  equivalent   {_format_equivalent_batch(plan)}",
            f"  steps        {plan['total_steps']:,}: {plan['epochs']:.4g} epochs of {plan['steps_per_epoch']:,.1f}"
            f" steps, {plan['gradient_accumulation']} batches per step{per_gpu}",
            *(f"  compare      {sentence}" for sentence in plan["explanations"]),
            f"  checkpoints  {len(plan['checkpoints'])}, at steps {', '.join(map(str, plan['checkpoints']))}",
            f"  model        {plan['parameters'] / 1e6:,.1f} M parameters, on {plan['device']}",
            f"  trained      {plan['trained_parameters'] / 1e6:,.1f} M parameters, {plan['trained_share']:.1%} of all",
            *_format_memory(plan),
            *_format_time(plan),
            *_format_disk(plan, free),
            "",
        ]
    )


def _format_rejections(statuses: list[dict[str, Any]]) -> list[str]:
    return [
        line
        for status in statuses
        if status["rejections"]
        for line in (
            *(f"  rejected     {sentence}" for sentence in format_rejections(status)),
            f"  rejected     see results/data/{status['dataset']}/rejected.parquet",
        )
    ]


def _format_mixing(plan: dict[str, Any]) -> list[str]:
    """Return a line for each group of clips with what it contributes to an epoch, or none without `mixing`."""
    if plan["mixing"] is None:
        return []
    numbered = "; speaker 1 has the most audio" if plan["mixing"]["by"] == "speaker" else ""
    return [
        f"  mixing       by {plan['mixing']['by']}; an epoch has {plan['hours_per_epoch']:.2f} h on average{numbered}",
        *(
            f"  mixing       {row['title']}: {row['clips']:,} clips, {row['hours']:.2f} h, {row['times']:.2f} times an"
            f" epoch, {row['share']:.1%} of it"
            for row in plan["mixing"]["groups"]
        ),
    ]


def _format_dropped_marks(marks: dict[str, dict[str, Any]]) -> list[str]:
    """Return a warning for each combining mark that `text.keep` deletes from letters that it keeps."""
    return [
        f"  MARK LOST    {_code_point(mark)} follows kept letters {each['times']:,} times, but text.keep lacks it:"
        f" `{each['sentence']}` becomes `{each['text']}`; add it to text.keep, or to text.drop if it is no loss"
        for mark, each in sorted(marks.items(), key=lambda item: (-item[1]["times"], item[0]))
    ]


def _format_unwritten(unwritten: dict[str, int] | None) -> list[str]:
    if unwritten is None:
        return []
    return [
        f"  vocabulary   of the base; it lacks {unwritten['characters']:,} of {unwritten['of']:,} characters of the"
        " training text"
    ]


def _code_point(character: str) -> str:
    return f"U+{ord(character):04X} ({unicodedata.name(character, 'unnamed')})"


def _format_equivalent_batch(plan: dict[str, Any]) -> str:
    other = plan["equivalent_batch"]
    ((key, value),) = other["batch"].items()
    return (
        f"`batch: {{{key}: {value:g}}}`, about the same size: {other['steps_per_epoch']:,.1f} steps per epoch,"
        f" {other['padding_share']:.1%} padding, at most {other['largest_batch_seconds']:.1f} s per batch"
    )


def _format_memory(plan: dict[str, Any]) -> list[str]:
    parts, fits = plan["memory_parts"], plan["fits_seconds"]
    lines = [
        f"  memory       about {gibibytes(plan['memory_bytes'])} for training (estimated): "
        + ", ".join(f"{gibibytes(size)} {name}" for name, size in parts.items()),
        f"  activations  gradient checkpointing is {'on' if plan['gradient_checkpointing'] else 'off'}:"
        f" {plan['gradient_checkpointing_reason']}",
    ]
    if plan["device"] == "cpu":
        return lines
    available = f"{plan['gpu_memory_gib']:g} GiB"
    if plan["memory_bytes"] > plan["gpu_memory_gib"] * 2**30:
        lines.append(f"  TOO MUCH     for a GPU of {available}: make batches smaller and gradient_accumulation larger")
    return [
        *lines,
        f"  fits         into {available}: a batch of {fits['without_checkpointing']:,.0f} s with padding, or of"
        f" {fits['with_checkpointing']:,.0f} s with gradient checkpointing (estimated)",
    ]


def _format_time(plan: dict[str, Any]) -> list[str]:
    if plan["device"] == "cpu":
        return []
    work = plan["flop_per_audio_second"] * plan["hours_per_epoch"] * 3600 * plan["epochs"]
    seconds = work / H100_FLOPS / plan["gpus"] * (_RECOMPUTATION_FACTOR if plan["gradient_checkpointing"] else 1)
    return [
        f"  time         at least {duration(seconds)}, at the peak of an H100 ({H100_FLOPS / 1e12:.0f} TFLOP/s);"
        f" {plan['flop_per_audio_second'] / 1e9:,.0f} GFLOP per second of audio"
    ]


def _format_disk(plan: dict[str, Any], free: int) -> list[str]:
    disk = plan["disk_bytes"]
    needed = disk["checkpoints"] + disk["resume"] + disk["log_probs"]
    return [
        f"  disk         {gigabytes(disk['checkpoints'])} of checkpoints, {gigabytes(disk['checkpoint'])} each,"
        f" {gigabytes(disk['resume'])} of resume states",
        *(
            [
                f"  temporary    {gigabytes(disk['log_probs'])} of log-probabilities at most for each forward pass or"
                " beam search that runs at the same time"
            ]
            if disk["log_probs"]
            else []
        ),
        *([f"  TOO LITTLE   disk space is free: {gigabytes(free)} of {gigabytes(needed)}"] if free < needed else []),
    ]


def steps_digest(plan: dict[str, Any]) -> str:
    """Return the sha256 of the parts of a plan that change the weights: its steps, not the estimates of their cost."""
    # What is mixed depends on the speakers of the clips, which are not part of the digest of the clips.
    mixed = ["mixing"] if plan["mixing"] else []
    steps = {key: plan[key] for key in ("epochs", "batches", "total_steps", "checkpoints", *mixed)}
    return hashlib.sha256(json.dumps(steps).encode()).hexdigest()


def main() -> None:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", required=True)
    parser.add_argument("--settings", type=PlanSettings.model_validate_json, required=True)
    parser.add_argument("--clips", type=Path, required=True)
    parser.add_argument("--counts", type=Path, required=True)
    parser.add_argument("--scored-counts", type=Path, nargs="+", required=True, help="the counts of each scored set")
    parser.add_argument("--leakage", type=Path, required=True)
    parser.add_argument("--status", type=Path, nargs="+", required=True, help="the status of each dataset")
    parser.add_argument("--vocab", type=Path, required=True)
    parser.add_argument("--characters", type=Path, nargs="*", help="the characters of a run that keeps a vocabulary")
    parser.add_argument("--base", type=Path, nargs="*", help="the folder of the base model, if there is one")
    parser.add_argument("--plan", type=Path, required=True)
    parser.add_argument("--digest", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True)
    args = parser.parse_args()
    model = args.settings.model
    base = args.base[0] if args.base else None
    check_folder(args.vocab.parent, args.vocab.name)
    if base is not None:
        check_folder(base, "*.json")
    vocab_size = None if args.settings.vocab == "keep" else len(read_json(args.vocab))
    config = model_config(model.init, base, model.config, vocab_size)
    scored, statuses = ([read_json(path) for path in paths] for paths in (args.scored_counts, args.status))
    counts, unwritten = read_json(args.counts), None
    if args.characters:
        check_folder(args.characters[0].parent, args.characters[0].name)
        unwritten = count_unwritten(read_json(args.characters[0]))
    plan = make_plan(args.run, args.clips, counts, scored, statuses, config, args.settings, unwritten)
    text = printable(format_plan(plan, read_json(args.leakage), statuses, shutil.disk_usage(Path.cwd()).free))
    write_text(text, args.text)
    write_json(plan, args.plan)
    write_text(steps_digest(plan) + "\n", args.digest)
    print(text)


if __name__ == "__main__":
    run_command(main)
