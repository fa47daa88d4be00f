"""The slice of the configuration that each stage reads, as the JSON that its program takes.

A job runs again when its slice changes, so a slice holds nothing that its stage does not use.
"""

import json
from typing import Any

from speechmill.config.datasets import CommonVoice, Folder, Hub, Zeroth
from speechmill.config.root import Config, Run
from speechmill.config.shards import ShardSettings
from speechmill.paths import base_settings, role_sets, run_datasets


def ingest(config: Config, name: str) -> str:
    """A dataset's source, without its place, which is the host's affair; its splits and their shards."""
    dataset = config.datasets[name]
    source_type = next(each for each in (CommonVoice, Zeroth, Hub, Folder) if isinstance(dataset, each))
    source = {key: value for key, value in dataset.model_dump().items() if key in source_type.model_fields}
    source.pop("download", None)
    if dataset.path is not None:
        source["path"] = ""
    shards = {split: dataset.shard_count(split) for split in dataset.splits}
    return _json({"source": source, "splits": dataset.splits, "shards": shards, "optional": dataset.optional})


def place(config: Config, name: str) -> str:
    """Where a dataset's source lies on this host, and how it gets there."""
    dataset = config.datasets[name]
    download = dataset.archive_download
    return _json({"path": dataset.path, "download": None if download is None else download.model_dump()})


def ingest_model(config: Config, base_name: str) -> str:
    """The base model whose folder has this name; without changes to its configuration, which come later."""
    model = base_settings(config, base_name)
    return _json({"base": model.base, "run": model.run, "revision": model.revision})


def shards(config: Config, name: str) -> str:
    """What is written about a dataset's shards, and the resampler."""
    dataset = config.datasets[name].model_dump()
    return _json({key: dataset[key] for key in ShardSettings.model_fields})


def status(config: Config, name: str) -> str:
    """A dataset's splits, those that are drawn, and what is expected of them."""
    dataset = config.datasets[name].model_dump()
    return _json({key: dataset[key] for key in ("splits", "drawn", "expected")} | {"dataset": name})


def audit(config: Config, name: str) -> str:
    """A dataset's name and its splits."""
    dataset = config.datasets[name]
    return _json({"dataset": name, "title": dataset.title, "splits": dataset.splits})


def clips(config: Config, run: str, role: str) -> str:
    """The text rules, the drawn splits, and for training the filters and what is done about leakage."""
    section = config.runs[run]
    sets = role_sets(section, role)
    settings: dict[str, Any] = {
        "text": section.text.model_dump(),
        "sets": sets,
        "drawn": {
            name: {split: rule.model_dump() for split, rule in config.datasets[name].drawn.items()}
            for name in sorted({each.split("-")[0] for each in sets})
        },
        "training": None,
    }
    if role == "train":
        settings["training"] = {
            "clips": section.clips.model_dump(),
            "leakage": section.leakage.model_dump(),
            "dev": section.dev,
            "speakers": {name: config.datasets[name].speaker_names(name) for name in run_datasets(section)},
        }
    return _json(settings)


def vocab(config: Config, run: str) -> str:
    """The configuration of new weights, which the feature extractor has to fit."""
    return _json({"init": config.runs[run].model.init})


def plan(config: Config, run: str) -> str:
    """Batches, epochs, save interval; the model, and what a value of it takes in memory."""
    section = config.runs[run]
    return _json(
        {
            "plan": section.plan.model_dump(),
            "model": _model(section),
            "device": section.device,
            "activation_bytes": 4 if section.finetune.precision == "fp32" else 2,
        }
    )


def finetune(config: Config, run: str) -> str:
    """All that changes weights."""
    section = config.runs[run]
    return _json(
        {key: section.model_dump()[key] for key in ("device", "plan", "finetune")} | {"model": _model(section)}
    )


def evaluate(config: Config, run: str) -> str:
    """The text rules, which hypotheses go through too, and the size of a batch."""
    section = config.runs[run]
    return _json(
        {
            "device": section.device,
            "text": section.text.model_dump(),
            "batch_seconds": section.evaluation.batch_seconds,
        }
    )


def select(config: Config, run: str) -> str:
    """Which figure decides."""
    section = config.runs[run]
    return _json(section.select.model_dump() | {"set": section.select_set})


def card(config: Config, run: str) -> str:
    """What the card says of the run and of its datasets beside what was measured."""
    section = config.runs[run]
    about = ("name", "version", "licence", "hub_id", "language", "drawn")
    datasets = {
        name: {key: value for key, value in config.datasets[name].model_dump().items() if key in about}
        for name in run_datasets(section)
    }
    return _json(
        {
            "language": section.language,
            "card": section.card.model_dump(),
            "base": section.model.base,
            "base_run": section.model.run,
            "train": section.train,
            "text": section.text.model_dump(),
            "select": section.select.model_dump() | {"set": section.select_set},
            "datasets": datasets,
        }
    )


def _model(section: Run) -> dict[str, Any]:
    # How large it is expected to be is for people.
    return section.model.model_dump(exclude={"expected_bytes"})


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)
