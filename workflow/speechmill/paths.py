"""Which files a stage needs, from the configuration alone."""

import hashlib
import json
import os
from pathlib import Path

from speechmill.config.datasets import Dataset, Download
from speechmill.config.model import ModelSettings
from speechmill.config.root import Config, Run
from speechmill.downloaded import downloaded

MODEL_FILES = [
    "model.safetensors",
    "config.json",
    "processor_config.json",
    "tokenizer_config.json",
    "vocab.json",
]
"""What plain transformers loads a model from."""

_SPOKEN = "results/speak/"
_FETCHED = "fetched "


def split_files(config: Config, name: str, split: str, kind: str) -> list[str]:
    """All files of a kind, `shard` or `rows`, of one split of a dataset."""
    count = config.datasets[name].shard_count(split)
    return [f"results/data/{name}/{split}/{kind}-{number:05d}.parquet" for number in range(count)]


def dataset_files(config: Config, name: str, kind: str) -> list[str]:
    """All files of a kind, `shard` or `rows`, of a dataset."""
    return [file for split in config.datasets[name].splits for file in split_files(config, name, split, kind)]


def dataset_indexes(config: Config, name: str) -> list[str]:
    """The index of each split of a dataset."""
    return [f"results/data/{name}/{split}/index.parquet" for split in config.datasets[name].splits]


def stored_splits(config: Config, set_name: str) -> list[tuple[str, str]]:
    """The (dataset, split) that can hold clips of a set, `{dataset}-{split}`.

    A clip is stored under the first of the listed splits that has it, so in that split or one listed before.
    """
    dataset, split = set_name.split("-")
    section = config.datasets[dataset]
    published = section.drawn[split].of if split in section.drawn else split
    return [(dataset, each) for each in section.splits[: section.splits.index(published) + 1]]


def role_sets(run: Run, role: str) -> list[str]:
    """The sets of a role: `train`, `dev`, or an evaluation set's own name."""
    if role == "train":
        return run.train
    return [run.dev if role == "dev" else role]


def role_indexes(config: Config, run: str, role: str) -> list[str]:
    """The indexes that can list clips of a role."""
    found = [pair for name in role_sets(config.runs[run], role) for pair in stored_splits(config, name)]
    return [f"results/data/{dataset}/{split}/index.parquet" for dataset, split in dict.fromkeys(found)]


def role_shards(config: Config, run: str, role: str) -> list[str]:
    """The clip shards that can hold clips of a role."""
    found = [pair for name in role_sets(config.runs[run], role) for pair in stored_splits(config, name)]
    return [file for dataset, split in dict.fromkeys(found) for file in split_files(config, dataset, split, "shard")]


def base_folder(run: Run) -> list[str]:
    """The folder of a run's base model, or nothing where it starts from random weights."""
    return [f"results/models/{run.model.base_name}"] if run.model.has_base else []


def base_source(run: Run) -> list[str]:
    """What is known of a run's base model, which stands for its folder: unchanged, it makes nothing run again."""
    return [f"{folder}.json" for folder in base_folder(run)]


def base_run_files(config: Config, base_name: str) -> list[str]:
    """The files of the run's model that the base with this folder is; nothing where it is no run's."""
    run = base_settings(config, base_name).run
    return [f"results/runs/{run}/model/{file}" for file in MODEL_FILES] if run else []


def base_run_selection(config: Config, base_name: str) -> list[str]:
    """The file that says which checkpoint the base run's model is; nothing where the base is no run's."""
    run = base_settings(config, base_name).run
    return [f"results/runs/{run}/selection.json"] if run else []


def scored_sets(run: Run) -> list[str]:
    """The sets that choices are made on or that are scored, each once."""
    return list(dict.fromkeys([run.dev, *run.evaluation.sets]))


def run_datasets(run: Run) -> list[str]:
    """The datasets that a run reads, each once."""
    return list(dict.fromkeys(name.split("-")[0] for name in [*run.train, *scored_sets(run)]))


def spoken_archive(dataset: Dataset) -> list[str]:
    """The dataset's archive where a rule makes it, otherwise nothing."""
    return [dataset.path] if dataset.path is not None and dataset.path.startswith(_SPOKEN) else []


def source_fingerprint(name: str, dataset: Dataset) -> str:
    """What the corpus at a dataset's `path` is, without saying where: sizes, names in a folder, times of change.

    Once it has been read it may be taken away: then the fingerprint that was recorded goes on to hold. One that is
    fetched is what its settings say, before and after.
    """
    if spoken_archive(dataset):
        return "spoken"
    if dataset.path is None:
        return "on the Hub, as the settings say"
    path = Path(dataset.path).expanduser()
    recorded = Path(f"results/raw/{name}/source.json")
    download = dataset.archive_download
    if download is not None and downloaded(path, download.bytes, download.sha256):
        return _fetched(download)
    if path.exists():
        return _fingerprint(path)
    known = str(json.loads(recorded.read_text())["fingerprint"]) if recorded.is_file() else ""
    if download is not None and (known in ("", "absent") or known.startswith(_FETCHED)):
        return _fetched(download)
    return known or "absent"


def _fetched(download: Download) -> str:
    """Which archive a download gives: its digest says it best; where there is none, where it comes from."""
    which = download.sha256 or json.dumps([download.bytes, download.collective, sorted(download.urls)])
    return _FETCHED + hashlib.sha256(which.encode()).hexdigest()


def base_settings(config: Config, base_name: str) -> ModelSettings:
    """The section that names the base model whose folder has this name."""
    return next(run.model for run in config.runs.values() if run.model.base_name == base_name)


def base_fingerprint(config: Config, base_name: str) -> str:
    """What the folder of a base model is, as with a corpus; nothing for a base on the Hub, whose revision is pinned."""
    model = base_settings(config, base_name)
    return _fingerprint(Path(str(model.base)).expanduser()) if model.base_is_folder else ""


def _fingerprint(path: Path) -> str:
    digest = hashlib.sha256()
    if path.is_file():
        digest.update(f"{path.stat().st_size} {path.stat().st_mtime_ns}".encode())
    for folder, subfolders, files in os.walk(path):
        subfolders.sort()
        for file in sorted(files):
            stat = os.stat(os.path.join(folder, file))  # noqa: PTH116, PTH118 (a hundred thousand files)
            digest.update(f"{os.path.relpath(folder, path)}/{file} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def uncached(config: Config) -> list[str]:
    """The datasets that are not to be shared through the cache: what is fetched for them may be another thing later.

    Those that may not be had today, those on the Hub at a branch or tag, and those fetched without a digest.
    """
    return [name for name, dataset in config.datasets.items() if dataset.optional or not dataset.is_pinned]


def missing_sources(config: Config) -> list[str]:
    """A sentence for each needed dataset that has not been prepared yet and whose `path` holds nothing."""
    return [
        f"datasets.{name}.path is {dataset.path}, where there is nothing: put the corpus there, or say where it lies"
        f" with --config 'datasets={{{name}: {{path: PLACE}}}}'"
        for name, dataset in config.datasets.items()
        if not dataset.optional
        and source_fingerprint(name, dataset) == "absent"
        and not Path(f"results/data/{name}/status.json").is_file()
    ]


def run_metrics(config: Config, run: str, plan: str) -> list[str]:
    """The scores of a run: each checkpoint that its plan lists, on each set, by each decoder."""
    evaluation = config.runs[run].evaluation
    return [
        f"results/runs/{run}/evaluation/{step}/{name}/{decoder}/metrics.json"
        for step in json.loads(Path(plan).read_text())["checkpoints"]
        for name in evaluation.sets
        for decoder in evaluation.decoders
    ]


def run_counts(config: Config, run: str) -> list[str]:
    """The counts of a run's clips in each role."""
    roles = dict.fromkeys(["train", "dev", *config.runs[run].evaluation.sets])
    return [f"results/runs/{run}/clips/{role}.json" for role in roles]


def role_status(config: Config, run: str, role: str) -> list[str]:
    """The status of each dataset that clips of a role can come from."""
    datasets = dict.fromkeys(name.split("-")[0] for name in role_sets(config.runs[run], role))
    return [f"results/data/{dataset}/status.json" for dataset in datasets]


def scored_clips(config: Config, run: str) -> list[str]:
    """The clips of each set that choices are made on or that is scored."""
    return [f"results/runs/{run}/clips/{name}.parquet" for name in scored_sets(config.runs[run])]


def run_status(config: Config, run: str) -> list[str]:
    """The status of each dataset that a run reads."""
    return [f"results/data/{dataset}/status.json" for dataset in run_datasets(config.runs[run])]
