"""What the jobs of a run ask of the hardware, as snakemake counts it: GPUs, and megabytes of the host's memory."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from speechmill.config.root import Config, Run

# Of one process, before any model: Python, torch and what a GPU's driver maps.
_PROCESS_MB = 4000
# A process that decodes audio shares the memory of the one that started it, and holds a few batches of its own.
_WORKER_MB = 500
# A base is read beside the model that takes its weights, and weights are copied from the device to be saved.
_COPIES = 3
# Of a word that beam search can write, spelled out in a tree of characters.
_LEXICON_WORD_MB = 0.005
# Measured with a million clips: tables are compressed on the disk, and become Python's and pandas' objects.
_TABLES = 8


def refusals(config: Config, granted: int) -> list[str]:
    """A sentence for each run that wants more GPUs than `granted`, the most that snakemake may use at once.

    Snakemake would start its jobs nevertheless, with fewer.
    """
    sentences = []
    for name, run in config.runs.items():
        if granted == 0 and run.device == "gpu":
            sentences.append(
                f"runs.{name}.device is gpu, and --resources gpu=0 grants none: grant one, or set runs.{name}.device"
                " to cpu and expect to wait"
            )
        elif 0 < granted < finetune_gpus(run):
            sentences.append(
                f"runs.{name}.gpus is {run.gpus}, and --resources gpu={granted} grants fewer: grant {run.gpus}, or set"
                f" runs.{name}.gpus to {granted} and runs.{name}.plan.gradient_accumulation so that a step has as many"
                " clips"
            )
    return sentences


def finetune_gpus(run: Run) -> int:
    """The GPUs that training takes."""
    return 0 if run.device == "cpu" else run.gpus


def log_probs_gpus(run: Run, counts: str) -> int:
    """The GPUs that one pass over a set takes, by the counts of its clips: none for a set that could not be had."""
    # Counts that an older version has made, and that will be made anew, may lack the key.
    return 0 if run.device == "cpu" or json.loads(Path(counts).read_text()).get("unavailable") else 1


def verify_gpus(config: Config) -> int:
    """The GPUs that scoring the models once more takes."""
    return 0 if all(run.device == "cpu" for run in config.runs.values()) else 1


def finetune_mb(run: Run, plan: str) -> int:
    """The memory of training on the host, of all its processes, by the run's plan."""
    planned = json.loads(Path(plan).read_text())
    trained = planned["memory_bytes"] / 1e6 if run.device == "cpu" else 0
    workers = run.finetune.workers if run.finetune else 0
    process = _PROCESS_MB + _COPIES * _weights_mb(plan) + trained + _WORKER_MB * workers
    return round(run.gpus * process)


def log_probs_mb(plan: Sequence[str], base: Sequence[str]) -> int:
    """The memory of one pass over a set on the host, by the run's plan, or by the base where there is none."""
    weights = (
        _weights_mb(plan[0])
        if plan
        else max(_megabytes(Path(base[0]).glob(kind)) for kind in ("*.safetensors", "*.bin"))
    )
    return round(_PROCESS_MB + _COPIES * weights)


def evaluate_mb(run: Run, lm: Sequence[str]) -> int:
    """The memory of decoding and scoring, by the files of the language model where there is one."""
    settings = run.evaluation.language_model
    words = settings.max_words if settings and lm else 0
    return round(_PROCESS_MB + _LEXICON_WORD_MB * words + _megabytes(lm))


def tables_mb(tables: Iterable[str], least: int) -> int:
    """The memory of a stage that holds tables whole: several times what they take on the disk, and `least` anyway."""
    return max(least, round(_TABLES * _megabytes(tables)))


def _weights_mb(plan: str) -> float:
    return 4 * int(json.loads(Path(plan).read_text())["parameters"]) / 1e6


def _megabytes(files: Iterable[str | Path]) -> float:
    return sum(Path(file).stat().st_size for file in files) / 1e6
