"""Estimate the disk space and time of a configuration from the expected sizes of its corpora; nothing is fetched."""

import argparse
import math
from pathlib import Path
from typing import Any

import yaml

from speechmill.config.datasets import Dataset, SegmentDataset, TranscribeDataset
from speechmill.config.root import Config, Run, load
from speechmill.core.command import SpeechmillError, run_command
from speechmill.core.formatting import H100_FLOPS, duration, gigabytes

# Bytes a second of 16 kHz, 16-bit, mono speech in FLAC.
_FLAC_BYTES = 20_000
# Seconds of one core to decode, resample and store a clip of five seconds.
_CLIP_SECONDS = 0.006
# Operations per parameter and frame of 20 ms: a multiplication and an addition, once forward and twice backward.
_OPERATIONS = 6
_FRAMES = 50
# Gradient checkpointing repeats the forward pass, a third of that.
_RECOMPUTED = 4 / 3
# Shares of the peak throughput; the log of finetune has the measured share.
_SHARES = (0.5, 0.1)


def forecast(config: Config) -> str:
    """Return the forecast as text: each dataset, each run, and the sum of those whose sizes are known."""
    lines, disk = [], 0.0
    for name, dataset in config.datasets.items():
        text, size = _dataset(name, dataset)
        lines += text
        disk += size
    for name, run in config.runs.items():
        text, size = _run(name, run, config)
        lines += text
        disk += size
    return "\n".join([*lines, f"total        {gigabytes(disk)} of disk", ""])


def _dataset(name: str, dataset: Dataset) -> tuple[list[str], float]:
    lines = [f"dataset {name}: {dataset.title} ({dataset.licence})"]
    if dataset.optional:
        lines.append("  optional     if it is unavailable, the workflow continues without it, and the card notes that")
    if isinstance(dataset, SegmentDataset | TranscribeDataset):
        return [*lines, f"  recordings   those of {dataset.of}, cut into clips; their number is known afterwards"], 0.0
    if not dataset.expected:
        return [*lines, "  expected     not specified, so not counted here"], 0.0
    clips, hours, encoded = _expected(dataset)
    for split, expected in dataset.expected.items():
        length = "" if expected.hours is None else f", {expected.hours:g} h"
        lines.append(f"  {split:<12} {expected.clips:,} clips{length}")
    for split, rule in dataset.drawn.items():
        lines.append(f"  {split:<12} drawn: {rule.summary}")
    download = dataset.archive_download
    archive = Path(dataset.location or "").expanduser()
    fetched = 0 if download is None or archive.exists() else download.bytes or encoded
    # An archive is unpacked before its clips are distributed over shards, including splits that are not listed.
    unpacked = archive.stat().st_size if archive.is_file() else max(fetched, encoded)
    stored = hours * 3600 * _FLAC_BYTES
    lines += [
        f"  download     {gigabytes(fetched)}" if fetched else "  download     nothing",
        f"  disk         {gigabytes(encoded)} of raw shards, {gigabytes(unpacked)} more while they are written,"
        f" {gigabytes(stored)} of 16 kHz shards",
        f"  time         {duration(clips * _CLIP_SECONDS)} of one core to prepare, shared by all cores",
    ]
    return lines, fetched + encoded + unpacked + stored


def _expected(dataset: Dataset) -> tuple[int, float, float]:
    clips = sum(each.clips for each in dataset.expected.values())
    hours = sum(each.hours or 0.0 for each in dataset.expected.values())
    encoded = sum(each.bytes or (each.hours or 0.0) * 3600 * _FLAC_BYTES for each in dataset.expected.values())
    return clips, hours, encoded


def _run(name: str, run: Run, config: Config) -> tuple[list[str], float]:
    lines = [f"run {name}"]
    if run.train is None or run.plan is None or run.finetune is None:
        fetched = run.model.expected_bytes or 0
        download = f", {gigabytes(fetched)} to download" if fetched else ""
        return [*lines, f"  model        scored without training{download}"], fetched
    clips, hours, unknown = 0, 0.0, []
    for each in dict.fromkeys(run.train):
        dataset, split = each.split("-")
        expected = config.datasets[dataset].expected.get(split)
        if expected is None:
            unknown.append(each)
            continue
        kept = 1 - sum(rule.share for rule in config.datasets[dataset].drawn.values() if rule.of == split)
        if run.mixing is not None:
            # A temperature does not change the length of an epoch.
            group = dataset if run.mixing.by == "dataset" else config.datasets[dataset].language
            kept *= run.mixing.weights.get(group, 1.0)
        clips += round(expected.clips * kept)
        hours += (expected.hours or 0.0) * kept
    if unknown or not hours:
        return [*lines, f"  training     no expected clips and hours for {', '.join(unknown or run.train)}"], 0.0
    plan = run.plan
    seconds = hours * 3600
    batch = plan.batch.clips or max(1.0, plan.batch.seconds * clips / seconds if plan.batch.seconds else 1.0)
    complete = math.ceil(clips * plan.epochs / batch / plan.gradient_accumulation / run.gpus)
    steps = min(complete, plan.max_steps or complete)
    epochs = plan.epochs * steps / complete
    saved = math.ceil(steps / plan.save_steps)
    best = run.checkpoints.best
    # One more during training.
    kept = saved if best is None else min(saved, best + 1)
    lines.append(
        f"  training     about {clips:,} clips, {hours:.1f} h, {epochs:.3g} epochs: {steps:,} steps,"
        f" {saved} checkpoints{'' if best is None else f', of which {best} are kept'}"
    )
    optional = [d for d in run.datasets if config.datasets[d].optional]
    if optional:
        lines.append(f"  optional     {', '.join(optional)}")
    size = run.model.expected_bytes
    if size is None:
        return [*lines, "  model        size unknown before it is downloaded: see the run's plan.json then"], 0.0
    parameters = size / 4
    work = seconds * epochs * _FRAMES * _OPERATIONS * parameters
    if run.finetune.gradient_checkpointing is True:
        work *= _RECOMPUTED
    disk = size * (1 + kept) + 3 * 3 * size
    lines += [
        f"  model        {parameters / 1e6:,.0f} M parameters, {gigabytes(size)} to download",
        f"  disk         {gigabytes(size * kept)} of checkpoints, {gigabytes(9 * size)} to resume",
        "  time         "
        + ", ".join(f"{duration(work / H100_FLOPS / run.gpus / share)} at {share:.0%}" for share in _SHARES)
        + f" of the peak of {'one H100' if run.gpus == 1 else f'{run.gpus} H100'}",
    ]
    return lines, disk


def read_configuration(file: Path) -> dict[str, Any]:
    """Return the content of a YAML configuration file.

    Raises:
        SpeechmillError: The file cannot be read or is not a configuration.
    """
    try:
        raw = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise SpeechmillError(f"{file} cannot be read as YAML ({error})") from error
    if not isinstance(raw, dict):
        raise SpeechmillError(f"{file} is not a configuration: its top-level keys must be `datasets` and `runs`")
    return raw


def main() -> None:
    """Print the forecast of a configuration file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("configuration", type=Path)
    print(forecast(load(read_configuration(parser.parse_args().configuration))))


if __name__ == "__main__":
    run_command(main)
