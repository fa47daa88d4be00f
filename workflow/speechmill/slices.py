"""The slice of the configuration that each stage reads, as the JSON that its program takes.

A job runs again when its slice changes, so a slice holds nothing that its stage does not use.
"""

import json
from typing import Any

from speechmill.config.checkpoints import CheckpointSettings
from speechmill.config.datasets import CommonVoice, Folder, Hub, Zeroth
from speechmill.config.finetune import FinetuneSettings, MemorySettings, PaceSettings
from speechmill.config.lm import LmSettings
from speechmill.config.root import Config, Run
from speechmill.config.shards import ShardSettings
from speechmill.paths import base_settings, perturbed_sets, role_sets, run_datasets

# Keys of `finetune` that change no weights: activations that are computed twice are the same.
_PACE = {*PaceSettings.model_fields, "gradient_checkpointing"}


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
    """Batches, epochs, save interval, checkpoints; the model, and what decides how much memory it takes."""
    section = config.runs[run]
    return _json(
        {
            **section.model_dump(include={"plan"}),
            "model": _model(section),
            "memory": section.model_dump(include={"finetune": set(MemorySettings.model_fields)})["finetune"],
            "device": section.device,
            "gpus": section.gpus,
            "gpu_memory_gib": section.gpu_memory_gib,
            "best": section.checkpoints.best,
            "stretch": section.augment.longest_factor,
        }
    )


def finetune(config: Config, run: str) -> str:
    """All that changes weights, and what decides which of them are kept."""
    section = config.runs[run]
    return _json(
        section.model_dump(include={"device", "gpus", "plan", "augment"})
        | section.model_dump(include={"finetune": set(FinetuneSettings.model_fields) - _PACE, "checkpoints": {"best"}})
        | {"model": _model(section)}
        | (_probe(section) if section.checkpoints.best else {})
    )


def pace(config: Config, run: str) -> str:
    """What finetune reads beside its settings and what changes no weights, so that nothing is to be trained again.

    To be put into the settings: a section of it has keys that the same section of the settings lacks.
    """
    section = config.runs[run]
    return _json(
        section.model_dump(include={"finetune": _PACE, "checkpoints": set(CheckpointSettings.model_fields) - {"best"}})
        | ({} if section.checkpoints.best else _probe(section))
    )


def log_probs(config: Config, run: str, set_name: str) -> str:
    """Where and how exactly the model is run, the size of a batch, and the chunks of a set."""
    section = config.runs[run]
    how = section.evaluation.model_dump(include={"precision", "batch_seconds"})
    return _json({"device": section.device, **how, **_chunks(section, set_name)})


def evaluate(config: Config, run: str) -> str:
    """The text rules, which hypotheses go through too."""
    return _json({"text": config.runs[run].text.model_dump()})


def lm_text(config: Config, run: str) -> str:
    """The text rules."""
    return evaluate(config, run)


def lm(config: Config, run: str) -> str:
    """What the language model is made of its text by."""
    return _json(_language_model(config, run).model_dump(include={"order", "prune", "format", "max_words"}))


def lm_weights(config: Config, run: str) -> str:
    """The set that the weights are tuned on, the text rules, the weights that are tried, and how wide the search is."""
    section = config.runs[run]
    keys = {"lm_weight", "word_score", "vocabulary", "beam", "tuning_clips"}
    searched = _language_model(config, run).model_dump(include=keys)
    return _json({"dev": section.dev, "text": section.text.model_dump(), **searched})


def _language_model(config: Config, run: str) -> LmSettings:
    settings = config.runs[run].evaluation.language_model
    assert settings is not None
    return settings


def perturb(config: Config, run: str, effect: str) -> str:
    """What the effect with this name does."""
    robustness = config.runs[run].evaluation.robustness
    assert robustness is not None
    return robustness.effects[effect].model_dump_json(exclude_none=True)


def robustness(config: Config, run: str) -> str:
    """What the sets that have changed copies, and these, are called for people."""
    section = config.runs[run].evaluation.robustness
    names = [*(section.sets if section else []), *perturbed_sets(config, run)]
    return _json({"titles": {name: _title(config, name) for name in names}})


def worst(config: Config, run: str, set_name: str) -> str:
    """What a page says of a set and its corpus, how many clips it shows, and how the model heard them."""
    section = config.runs[run]
    about = config.datasets[set_name.split("-")[0]]
    return _json(
        {
            "title": _title(config, set_name),
            "language": about.language,
            "redistribute": about.audio_may_be_passed_on,
            "units": section.text.units,
            **section.evaluation.model_dump(include={"worst_clips", "batch_seconds"}),
            **_chunks(section, set_name),
        }
    )


def _title(config: Config, set_name: str) -> str:
    dataset, split, *effect = set_name.split("-")
    return ", ".join([f"{config.datasets[dataset].title} {split}", *effect])


def _chunks(section: Run, set_name: str) -> dict[str, float | None]:
    settings = section.evaluation.settings_of(set_name)
    return {"chunk_seconds": settings.chunk_seconds, "stride_seconds": settings.stride}


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
            **section.model_dump(include={"card"}),
            "base": section.model.base,
            "base_run": section.model.run,
            "train": section.train,
            "text": section.text.model_dump(),
            "select": section.select.model_dump() | {"set": section.select_set},
            "datasets": datasets,
        }
    )


def _probe(section: Run) -> dict[str, Any]:
    # How a checkpoint is scored while training goes on.
    return {"text": section.text.model_dump(), "batch_seconds": section.evaluation.batch_seconds}


def _model(section: Run) -> dict[str, Any]:
    # How large it is expected to be is for people.
    return section.model.model_dump(exclude={"expected_bytes"})


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)
