"""plan: what training will take, before any GPU time is spent."""

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel
from transformers import PreTrainedConfig

from speechmill.batching import measure
from speechmill.command import SpeechmillError, run_command, written_whole
from speechmill.config.model import ModelSettings
from speechmill.config.plan import PlanSettings
from speechmill.leakage import in_words as leakage_in_words
from speechmill.models import model_config, parameter_count
from speechmill.tables import SAMPLE_RATE, read_json, read_table, write_json

# Bytes a parameter of weights, gradient and the two moments of AdamW, in fp32.
_TRAINING_BYTES = 16
# Bytes a (frame, layer, hidden unit) of activations kept for the backward pass in 16-bit: XLS-R 1B, at 50 frames a
# second, 48 layers and 1,280 units, keeps about 104 MB for a second of audio.
_ACTIVATION_BYTES = 34


class Settings(BaseModel):
    """The slice of a run's section that this stage reads."""

    plan: PlanSettings
    model: ModelSettings
    device: str
    activation_bytes: int
    """Bytes of an activation: 2 where the forward pass is in 16 bits, 4 otherwise."""


def make_plan(
    run: str, clips: Path, counts: dict[str, Any], config: PreTrainedConfig, settings: Settings
) -> dict[str, Any]:
    """What `plan.json` holds: clips, hours, steps, checkpoints, padding share, disk and memory estimate.

    Raises SpeechmillError where a clip does not fit into a batch.
    """
    plan = settings.plan
    lengths = read_table(clips, ["num_samples"])["num_samples"].to_numpy().astype(np.int64)
    longest = int(lengths.max()) / SAMPLE_RATE
    if plan.batch.seconds is not None and longest > plan.batch.seconds:
        raise SpeechmillError(
            f"runs.{run}.plan.batch.seconds is {plan.batch.seconds}, but the longest training clip has {longest:.2f} s;"
            f" raise it, or lower runs.{run}.clips.max_seconds"
        )
    extent = measure(lengths, plan.batch, plan.seed, plan.epochs)
    steps = math.ceil(extent.batches / plan.gradient_accumulation)
    saved = [*range(plan.save_steps, steps, plan.save_steps), steps]
    parameters = parameter_count(config)
    layers, hidden = getattr(config, "num_hidden_layers", 1), getattr(config, "hidden_size", 1)
    frame_samples = math.prod(getattr(config, "conv_stride", (320,)))
    activations = _ACTIVATION_BYTES * settings.activation_bytes / 2 * layers * hidden / frame_samples
    return {
        "run": run,
        "clips": len(lengths),
        "hours": int(lengths.sum()) / SAMPLE_RATE / 3600,
        "longest_seconds": longest,
        "speakers": counts["speakers"],
        "excluded": counts["excluded"],
        "epochs": plan.epochs,
        "batches": extent.batches,
        "gradient_accumulation": plan.gradient_accumulation,
        "clips_per_batch": len(lengths) * plan.epochs / extent.batches,
        "steps_per_epoch": steps / plan.epochs,
        "total_steps": steps,
        "checkpoints": saved,
        "padding_share": extent.padding_share(int(lengths.sum()) * plan.epochs),
        "largest_batch_seconds": extent.largest / SAMPLE_RATE,
        "parameters": parameters,
        "disk_bytes": {
            "checkpoints": 4 * parameters * len(saved),
            # The Trainer keeps weights and both moments of two states, and makes a third before it drops one.
            "resume": 3 * 12 * parameters,
        },
        "memory_bytes": int(_TRAINING_BYTES * parameters + activations * extent.largest),
        "device": settings.device,
    }


def in_words(plan: dict[str, Any], leakage: dict[str, Any], statuses: list[dict[str, Any]]) -> str:
    """The plan for a person to read, with what training has in common with the scored sets, and which cannot be had."""
    disk = plan["disk_bytes"]
    left_out = ", ".join(f"{count} {reason}" for reason, count in plan["excluded"].items()) or "none"
    return "\n".join(
        [
            f"Plan of the run {plan['run']}",
            f"  clips        {plan['clips']:,} of {plan['speakers']} speakers, {plan['hours']:.2f} h",
            f"  left out     {left_out}",
            *(f"  leakage      {sentence}" for sentence in leakage_in_words(leakage)),
            *(f"  NOT HAD      {s['dataset']}: {s['why']}" for s in statuses if not s["available"]),
            *(f"  unexpected   {s['dataset']}: {sentence}" for s in statuses for sentence in s["differences"]),
            f"  batches      {plan['clips_per_batch']:.1f} clips on average, at most"
            f" {plan['largest_batch_seconds']:.1f} s, {plan['padding_share']:.1%} of it padding",
            f"  steps        {plan['total_steps']:,}: {plan['epochs']} epochs of {plan['steps_per_epoch']:.1f} steps,"
            f" {plan['gradient_accumulation']} batches a step",
            f"  checkpoints  {len(plan['checkpoints'])}, at steps {', '.join(map(str, plan['checkpoints']))}",
            f"  model        {plan['parameters'] / 1e6:,.1f} M parameters, on {plan['device']}",
            f"  memory       about {plan['memory_bytes'] / 1e9:.1f} GB for training (estimated)",
            f"  disk         {disk['checkpoints'] / 1e9:.2f} GB of checkpoints,"
            f" {disk['resume'] / 1e9:.2f} GB to resume",
            "",
        ]
    )


def main() -> None:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", required=True)
    parser.add_argument("--settings", type=Settings.model_validate_json, required=True)
    parser.add_argument("--clips", type=Path, required=True)
    parser.add_argument("--counts", type=Path, required=True)
    parser.add_argument("--leakage", type=Path, required=True)
    parser.add_argument("--status", type=Path, nargs="+", required=True, help="the status of each dataset")
    parser.add_argument("--vocab", type=Path, required=True)
    parser.add_argument("--base", type=Path, nargs="*", help="the folder of the base model, if there is one")
    parser.add_argument("--plan", type=Path, required=True)
    parser.add_argument("--words", type=Path, required=True)
    args = parser.parse_args()
    model = args.settings.model
    base = args.base[0] if args.base else None
    config = model_config(model.init, base, model.config, len(read_json(args.vocab)))
    plan = make_plan(args.run, args.clips, read_json(args.counts), config, args.settings)
    words = in_words(plan, read_json(args.leakage), [read_json(path) for path in args.status])
    with written_whole(args.words) as beside:
        beside.write_text(words, encoding="utf-8")
    write_json(plan, args.plan)
    print(words)


if __name__ == "__main__":
    run_command(main)
