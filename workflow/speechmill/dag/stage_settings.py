"""The slice of the configuration that each stage reads, as the JSON that its program takes.

A job runs again when its slice changes, so a slice holds nothing that its stage does not use.
"""

import json
from pathlib import Path
from typing import Any

from speechmill.config.checkpoints import CheckpointConfig
from speechmill.config.datasets import CommonVoice, Dataset, Folder, Hub, Zeroth
from speechmill.config.finetune import FinetuneConfig, MemoryConfig, RuntimeConfig
from speechmill.config.lm import LmConfig
from speechmill.config.root import Config, Run
from speechmill.config.shards import ShardSettings
from speechmill.dag.paths import SPOKEN, base_settings, perturbed_sets, role_sets, run_datasets, run_roles

# Keys of `finetune` that change no weights: activations that are computed twice are the same.
_PACE = {*RuntimeConfig.model_fields, "gradient_checkpointing"}


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
            "memory": section.model_dump(include={"finetune": set(MemoryConfig.model_fields)})["finetune"],
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
        | section.model_dump(include={"finetune": set(FinetuneConfig.model_fields) - _PACE, "checkpoints": {"best"}})
        | {"model": _model(section)}
        | (_probe(section) if section.checkpoints.best else {})
    )


def pace(config: Config, run: str) -> str:
    """What finetune reads beside its settings and what changes no weights, so that nothing is to be trained again.

    To be put into the settings: a section of it has keys that the same section of the settings lacks.
    """
    section = config.runs[run]
    return _json(
        section.model_dump(include={"finetune": _PACE, "checkpoints": set(CheckpointConfig.model_fields) - {"best"}})
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


def _language_model(config: Config, run: str) -> LmConfig:
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


def runs_table(config: Config) -> str:
    """What the page of all runs says of each beside what was measured, and what their sets are called."""
    runs = [
        {
            "name": name,
            "start": _start(section),
            "trained_on": [_title(config, each) for each in section.train or []],
            # The tables of its training are not shown.
            "reference_card": section.reference_card
            and section.reference_card.model_dump(include={"model", "title", "evaluation", "results"}, mode="json"),
        }
        for name, section in config.runs.items()
    ]
    names = dict.fromkeys(
        each
        for name, section in config.runs.items()
        for each in (*section.evaluation.set_names, *perturbed_sets(config, name))
    )
    return _json({"runs": runs, "sets": [{"name": name, "title": _title(config, name)} for name in names]})


def _start(section: Run) -> str:
    if section.model.run is not None:
        return f"the run {section.model.run}"
    return section.model.base or "random weights"


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


def usage(config: Config, run: str) -> str:
    """The text rules, for what a hypothesis is made of."""
    return evaluate(config, run)


def card(config: Config, run: str, code: dict[str, str]) -> str:
    """What the card says of the run and of its datasets beside what was measured; `code` are digests of stages."""
    section = config.runs[run]
    datasets = {}
    for name in run_datasets(section):
        dataset = config.datasets[name]
        about = dataset.model_dump(include={"name", "version", "licence", "hub_id", "language", "drawn"})
        datasets[name] = about | {
            # On the Hub a Common Voice release has a configuration a language.
            "hub_config": dataset.config if isinstance(dataset, Hub) else _locale(dataset),
            "audio_may_be_passed_on": dataset.audio_may_be_passed_on,
        }
    return _json(
        {
            "run": run,
            "language": section.language,
            **section.model_dump(include={"card", "reference_card"}),
            "base": section.model.base,
            "base_run": section.model.run,
            "train": section.train,
            "text": section.text.model_dump(),
            "select": section.select.model_dump() | {"set": section.select_set},
            "datasets": datasets,
            "roles": run_roles(section),
            "code": code,
        }
    )


def _locale(dataset: Dataset) -> str | None:
    return dataset.language if isinstance(dataset, CommonVoice) and dataset.hub_id else None


def reproduction(config: Config, run: str) -> str:
    """The configuration that makes a run again, with those that it starts from; of a place on this host only its name.

    What was left to its default is left out.
    """
    runs = [run]
    while (base := config.runs[runs[0]].model.run) is not None:
        runs.insert(0, base)
    datasets = list(dict.fromkeys(name for each in runs for name in run_datasets(config.runs[each])))
    spoken = [name for name, settings in config.speak.items() if f"{SPOKEN}{name}.tar.gz" in _places(config, datasets)]
    chosen = config.model_dump(
        mode="json",
        exclude_unset=True,
        include={"speak": set(spoken), "datasets": set(datasets), "runs": set(runs)},
    )
    for dataset in chosen["datasets"].values():
        if "path" in dataset and not dataset["path"].startswith(SPOKEN):
            dataset["path"] = Path(dataset["path"]).name
    for each in chosen["runs"].values():
        # What is asked of a run again is not to put it somewhere.
        each.pop("publish", None)
    return json.dumps({key: value for key, value in chosen.items() if value}, ensure_ascii=False)


def _places(config: Config, datasets: list[str]) -> list[str | None]:
    return [config.datasets[name].path for name in datasets]


def _probe(section: Run) -> dict[str, Any]:
    # How a checkpoint is scored while training goes on.
    return {"text": section.text.model_dump(), "batch_seconds": section.evaluation.batch_seconds}


def _model(section: Run) -> dict[str, Any]:
    # How large it is expected to be is for people.
    return section.model.model_dump(exclude={"expected_bytes"})


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)
