"""What the jobs of a run request of the hardware: GPUs, and megabytes of the host's memory."""

import subprocess
import sys
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from speechmill.config.root import Config, Run
from speechmill.core.files import read_json
from speechmill.dag.paths import folder_of, keeps_log_probs

# One process without any model: Python, torch, and what the driver of a GPU maps.
_PROCESS_MB = 4000
# A process that decodes audio shares the memory of its parent, and holds a few batches of its own.
_WORKER_MB = 500
# Noise and room recordings that augmentation keeps in memory.
_RECORDINGS_MB = 550
# A forward pass on the CPU: 12 bytes for each output of the first convolution of wav2vec 2.0, 512 for each 5 samples.
_PADDED_SECOND_MB = 20
# A base is loaded beside the model that takes its weights, and weights are copied from the device to be saved.
_COPIES = 3
# Measured: the model, its graph as it is traced, written and read again, and the tensors that are quantised.
_EXPORT_COPIES = 5
# The largest batch of `inference/segment.py`, which imports torch and is therefore not imported here.
_SEGMENT_SECONDS = 120
_BEAM_SEARCH_THREADS = 4
# A word of the lexicon, spelled out in the beam search's tree of characters.
_LEXICON_WORD_MB = 0.005
# Measured with a million clips: tables are compressed on disk, and become objects of Python and pandas.
_TABLE_EXPANSION = 8


def gpu_errors(config: Config, granted: int) -> list[str]:
    """Return an error message for what needs more GPUs than `granted`, Snakemake's limit for all jobs.

    Snakemake would start the jobs nevertheless, with fewer GPUs.
    """
    errors = [
        f"datasets.{name}.device is gpu, but --resources gpu=0 grants no GPU: grant one, or set datasets.{name}.device"
        " to cpu, which takes much longer"
        for name in _aligned_on_gpu(config)
        if granted == 0
    ]
    for name, run in config.runs.items():
        if granted == 0 and run.device == "gpu":
            errors.append(
                f"runs.{name}.device is gpu, but --resources gpu=0 grants no GPU: grant one, or set runs.{name}.device"
                " to cpu, which takes much longer"
            )
        elif 0 < granted < _gpus(run):
            errors.append(
                f"runs.{name}.gpus is {run.gpus}, but --resources gpu={granted} grants fewer: grant {run.gpus}, or set"
                f" runs.{name}.gpus to {granted} and raise runs.{name}.plan.gradient_accumulation to keep the number of"
                " clips a step"
            )
    return errors


def missing_gpu_errors(config: Config, names: Collection[str | None]) -> list[str]:
    """Return an error message for each run or aligned dataset among `names` that needs more GPUs than there are."""
    needed = {
        f"runs.{name}.device is gpu and runs.{name}.gpus is {run.gpus}": (f"runs.{name}", run.gpus)
        for name, run in config.runs.items()
        if name in names and run.device == "gpu"
    }
    needed |= {
        f"datasets.{name}.device is gpu": (f"datasets.{name}", 1) for name in _aligned_on_gpu(config) if name in names
    }
    # PyTorch is only asked where a GPU is needed.
    found = machine_gpus() if needed else 0
    have = f"this machine has {found} that PyTorch can use" if found else "PyTorch finds no GPU on this machine"
    return [
        f"{what}, but {have}: run it on another machine, or set "
        + (f"{section}.gpus to {found}" if found else f"{section}.device to cpu, which takes much longer")
        for what, (section, gpus) in needed.items()
        if gpus > found
    ]


def machine_gpus() -> int:
    """Return the number of GPUs that PyTorch finds on this machine, as the jobs here will.

    PyTorch is asked in a separate process: it takes seconds and hundreds of megabytes to import.
    """
    program = "import torch; print(torch.cuda.device_count())"
    return int(subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, check=True, text=True).stdout)


def finetune_threads(config: Config, run: str) -> int:
    """Return the processor threads of a training, of all its processes."""
    section = config.runs[run]
    return section.finetune.threads * section.gpus if section.finetune else 1


def finetune_gpus(config: Config, run: str) -> int:
    """Return the GPUs of a training."""
    return _gpus(config.runs[run])


def log_probs_gpus(config: Config, run: str, input: Any) -> int:
    """Return the GPUs of a forward pass over a set: none where it is unavailable."""
    # Counts that an older version wrote, and that will be written again, may lack the key.
    unavailable = read_json(Path(input.counts)).get("unavailable")
    return 0 if config.runs[run].device == "cpu" or unavailable else 1


def log_probs_threads(config: Config, run: str, step: str, set_name: str, outputs: str) -> int:
    """Return the processor threads that a forward pass reserves: with log-probabilities, those of beam search.

    It computes with one. When it ends, the beam search that reads its output can start; otherwise further forward
    passes would take each core that becomes free, and their log-probabilities would accumulate on the disk. The threads
    that read for a GPU are not reserved: on a machine with few cores, another GPU would have no job.
    """
    return _BEAM_SEARCH_THREADS if keeps_log_probs(config, run, step, set_name, outputs) else 1


def segment_gpus(config: Config, dataset: str) -> int:
    """Return the GPUs of an alignment."""
    return 0 if config.segmented[dataset].device == "cpu" else 1


def segment_mb(config: Config, dataset: str, input: Any) -> int:
    """Return the host memory of an alignment, from the size of the model."""
    batch = _batch_mb(config.segmented[dataset].device, _SEGMENT_SECONDS)
    return round(_PROCESS_MB + _COPIES * _folder_mb(input.model[0]) + batch)


def transcribe_gpus(config: Config, dataset: str) -> int:
    """Return the GPUs of the transcription of a dataset."""
    return 0 if config.runs[config.transcribed[dataset].by].device == "cpu" else 1


def transcribe_threads(config: Config, dataset: str, input: Any) -> int:
    """Return the processor threads of the transcription of a dataset: beam search takes several."""
    return _BEAM_SEARCH_THREADS if input.lm else 1


def transcribe_mb(config: Config, dataset: str, input: Any) -> int:
    """Return the host memory of the transcription of a dataset, from the sizes of the model and its language model."""
    run = config.transcribed[dataset].by
    batch = _batch_mb(config.runs[run].device, config.runs[run].evaluation.batch_seconds)
    return round(_COPIES * _folder_mb(folder_of(config, run, input.model)) + decoding_mb(config, run, input) + batch)


def verify_gpus(config: Config) -> int:
    """Return the GPUs for scoring all models again."""
    return 0 if all(run.device == "cpu" for run in config.runs.values()) else 1


def finetune_mb(config: Config, run: str, input: Any) -> int:
    """Return the host memory of a training, of all its processes, from the plan."""
    section = config.runs[run]
    plan = read_json(Path(input.plan))
    # The device `auto` may turn out to be the CPU.
    activations = 0 if section.device == "gpu" else plan["memory_bytes"] / 1e6
    workers = section.finetune.workers if section.finetune else 0
    recordings = _RECORDINGS_MB if section.augment.folders else 0
    process = _PROCESS_MB + _COPIES * _weights_mb(input.plan) + activations + _WORKER_MB * workers + recordings
    return round(section.gpus * process)


def average_mb(config: Config, run: str, input: Any) -> int:
    """Return the host memory of the mean of several checkpoints: it, and one tensor of each of them."""
    return round(_PROCESS_MB + 2 * _weights_mb(input.plan))


def log_probs_mb(config: Config, run: str, input: Any) -> int:
    """Return the host memory of a forward pass over a set, from the plan, or from the size of the base."""
    weights = _weights_mb(input.plan[0]) if config.runs[run].trains else _folder_mb(input.base[0])
    section = config.runs[run]
    return round(_PROCESS_MB + _COPIES * weights + _batch_mb(section.device, section.evaluation.batch_seconds))


def export_mb(config: Config, run: str, input: Any) -> int:
    """Return the memory of exporting a model, and of running it beside its exports, from the size of its weights."""
    return round(_PROCESS_MB + _EXPORT_COPIES * _folder_mb(folder_of(config, run, input.model)))


def decoding_threads(config: Config, run: str, decoder: str) -> int:
    """Return the processor threads of a decoder: beam search takes several, greedy decoding one."""
    return _BEAM_SEARCH_THREADS if decoder == "lm" else 1


def decoding_mb(config: Config, run: str, input: Any) -> int:
    """Return the memory of decoding and scoring, from the files of the language model where there is one."""
    lm = config.runs[run].evaluation.language_model
    words = lm.max_words if lm and input.lm else 0
    return round(_PROCESS_MB + _LEXICON_WORD_MB * words + _megabytes(input.lm))


def tables_mb(tables: Iterable[str], least: int) -> int:
    """Return the memory of a stage that holds tables: several times their size on disk, and `least` at the minimum."""
    return max(least, round(_TABLE_EXPANSION * _megabytes(tables)))


def lm_text_mb(texts: Iterable[str]) -> int:
    """Return the memory of the stage `lm_text`, which holds a hash of each sentence of the compressed `texts`."""
    return round(_PROCESS_MB + _megabytes(texts))


def lm_mb(text: str) -> int:
    """Return the memory of the stage `lm`: KenLM sorts a large text on the disk, in parts of half of this memory."""
    return min(16 * 1024, max(_PROCESS_MB, round(4 * _megabytes([text]))))


def _aligned_on_gpu(config: Config) -> list[str]:
    return [name for name, each in config.segmented.items() if each.device == "gpu"]


def _gpus(run: Run) -> int:
    return 0 if run.device == "cpu" else run.gpus


def _batch_mb(device: str, seconds: float) -> float:
    """Return the host memory of a forward pass over a batch of `seconds`; `auto` may turn out to be the CPU."""
    return 0.0 if device == "gpu" else _PADDED_SECOND_MB * seconds


def _weights_mb(plan: str) -> float:
    return 4 * int(read_json(Path(plan))["parameters"]) / 1e6


def _folder_mb(model: str) -> float:
    """Return the size of the weights in the folder of a model."""
    return max(_megabytes(Path(model).glob(kind)) for kind in ("*.safetensors", "*.bin"))


def _megabytes(files: Iterable[str | Path]) -> float:
    return sum(Path(file).stat().st_size for file in files) / 1e6
