"""The slice of the configuration that each stage reads, as the JSON that its program takes.

A job runs again when its slice changes, so a slice holds nothing that its stage does not use.
"""

import json
from typing import Any

from speechmill.config.datasets import CommonVoice, Folder
from speechmill.config.root import Config
from speechmill.config.shards import ShardSettings
from speechmill.paths import base_settings, run_datasets


def ingest(config: Config, name: str) -> str:
    """A dataset's source, without its place, which is the host's affair; its splits and their shards."""
    dataset = config.datasets[name]
    source_type = CommonVoice if isinstance(dataset, CommonVoice) else Folder
    source = {key: value for key, value in dataset.model_dump().items() if key in source_type.model_fields}
    shards = {split: dataset.shard_count(split) for split in dataset.splits}
    return _json({"source": source | {"path": ""}, "splits": dataset.splits, "shards": shards})


def ingest_model(config: Config, base_name: str) -> str:
    """The base model whose folder has this name; without changes to its configuration, which come later."""
    model = base_settings(config, base_name)
    return _json({"base": model.base, "revision": model.revision})


def shards(config: Config, name: str) -> str:
    """What is written about a dataset's shards, and the resampler."""
    dataset = config.datasets[name].model_dump()
    return _json({key: dataset[key] for key in ShardSettings.model_fields})


def clips(config: Config, run: str, role: str) -> str:
    """The text rules, and for training the filters."""
    section = config.runs[run]
    return _json({"text": section.text.model_dump(), "clips": section.clips.model_dump() if role == "train" else None})


def vocab(config: Config, run: str) -> str:
    """The configuration of new weights, which the feature extractor has to fit."""
    return _json({"init": config.runs[run].model.init})


def plan(config: Config, run: str) -> str:
    """Batches, epochs, save interval; the model, and what a value of it takes in memory."""
    section = config.runs[run]
    return _json(
        {
            "plan": section.plan.model_dump(),
            "model": section.model.model_dump(),
            "device": section.device,
            "activation_bytes": 4 if section.finetune.precision == "fp32" else 2,
        }
    )


def finetune(config: Config, run: str) -> str:
    """All that changes weights."""
    section = config.runs[run]
    return _json({key: section.model_dump()[key] for key in ("device", "plan", "model", "finetune")})


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
    about = ("name", "version", "licence", "hub_id", "language")
    datasets = {
        name: {key: value for key, value in config.datasets[name].model_dump().items() if key in about}
        for name in run_datasets(section)
    }
    return _json(
        {
            "language": section.language,
            "card": section.card.model_dump(),
            "base": section.model.base,
            "train": section.train,
            "text": section.text.model_dump(),
            "select": section.select.model_dump() | {"set": section.select_set},
            "datasets": datasets,
        }
    )


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)
