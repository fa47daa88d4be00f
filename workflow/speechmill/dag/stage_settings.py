"""The settings of each stage: the part of the configuration that its program reads, as JSON.

A stage runs again when its settings change, so they contain nothing that the stage does not use. Settings that change
no result are passed apart, as resources of the rule, which are no reason to run again: `location` and the functions
whose names end in `_runtime`.
"""

import json
from pathlib import Path
from typing import Any

from speechmill.config.checkpoints import CheckpointConfig
from speechmill.config.datasets import CommonVoice, Dataset, Folder, Hub, Zeroth
from speechmill.config.finetune import FinetuneConfig, MemoryConfig, RuntimeConfig
from speechmill.config.label_errors import LabelErrorsConfig
from speechmill.config.languages import separates_words
from speechmill.config.lm import LmConfig
from speechmill.config.pieces import Segment
from speechmill.config.root import Config, Run
from speechmill.config.shards import ShardSettings
from speechmill.config.text import TextConfig, casing_language
from speechmill.core.direction import isolate
from speechmill.core.versions import stage_version
from speechmill.dag.paths import (
    SPOKEN,
    averages,
    base_config,
    compared_runs,
    keeps_log_probs,
    perturbed_sets,
    role_sets,
    run_roles,
    scored_sets,
    teachers,
    uses_lm,
)
from speechmill.text.normaliser import output_clusters

# Keys of `published` that are compared with the results of runs; the others are the rest of a card.
_PUBLISHED_RESULTS = {"model", "title", "source", "differs", "evaluation", "results", "scores"}

# Keys of `finetune` that change no weights: recomputed activations are the same.
_RUNTIME = {*RuntimeConfig.model_fields, "gradient_checkpointing"}


def speak(config: Config, corpus: str) -> str:
    """Return the section of a spoken corpus."""
    return config.speak[corpus].model_dump_json()


def ingest_dataset(config: Config, dataset: str) -> str:
    """Return a dataset's source, without its location on this machine, and its splits with their shards."""
    section = config.ingested(dataset)
    source_type = next(each for each in (CommonVoice, Zeroth, Hub, Folder) if isinstance(section, each))
    source = {key: value for key, value in section.model_dump().items() if key in source_type.model_fields}
    source.pop("download", None)
    if section.location is not None:
        source["path"] = ""
    shards = {split: section.shard_count(split) for split in section.splits}
    return _json({"source": source, "splits": section.splits, "shards": shards, "optional": section.optional})


def location(config: Config, dataset: str) -> str:
    """Return where a dataset's source lies on this machine, and how it is downloaded."""
    section = config.ingested(dataset)
    download = section.archive_download
    return _json({"path": section.location, "download": None if download is None else download.model_dump()})


def ingest_text(config: Config, text: str) -> str:
    """Return the format of a text and how much of it is used, without its location on this machine."""
    return _json(config.texts[text].model_dump(include={"wikipedia", "format", "element", "max_sentences"}))


def text_location(config: Config, text: str) -> str:
    """Return where a text lies on this machine, and how it is downloaded."""
    section = config.texts[text]
    return _json({"path": section.file, "download": section.download and section.download.model_dump()})


def ingest_model(config: Config, model: str) -> str:
    """Return the base model with this folder name; changes of its configuration belong to later stages."""
    section = base_config(config, model)
    return _json(section.model_dump(include={"base", "run", "revision", "target_lang"}))


def ingest_model_runs(config: Config, model: str) -> str:
    """Return the language of each run that starts from a base model, and whether it trains."""
    return _json(
        {
            name: {"language": run.language, "trains": run.trains}
            for name, run in config.runs.items()
            if run.model.base is not None and run.model.base_name == model
        }
    )


def ingest_model_trainings(config: Config, model: str) -> str:
    """Return what has to fit the architecture of a base model: parts of each run that is trained from it.

    These include runs that start from the model of another run.
    """
    return _json(
        {
            name: {"config": run.model.config, **run.model_dump(include={"finetune", "augment"})}
            for name, run in config.runs.items()
            if run.trains and (start := config.start(name)).base is not None and start.base_name == model
        }
    )


def ingest_model_uses(config: Config, model: str) -> str:
    """Return the keys that need a CTC model, those that need a model that generates text, and the runs that export."""
    ctc = [f"datasets.{name}.model" for name, each in config.segmented.items() if each.model.base_name == model]
    generation = []
    for name, run in config.runs.items():
        if run.trains or run.model.base is None or run.model.base_name != model:
            continue
        evaluation = run.evaluation
        ctc += [f"runs.{name}.evaluation.decoders, lm"] if uses_lm(run) else []
        chunked = any(each.chunk_seconds is not None for each in evaluation.sets)
        ctc += [f"runs.{name}.evaluation.sets, chunk_seconds"] if chunked else []
        ctc += [f"runs.{name}.export"] if run.export else []
        ctc += [f"datasets.{dataset}.by" for dataset, each in config.transcribed.items() if each.by == name]
        generation += [f"runs.{name}.evaluation.generation"] if evaluation.generation is not None else []
    exports = [
        name
        for name, run in config.runs.items()
        if run.export and (start := config.start(name)).base is not None and start.base_name == model
    ]
    return _json({"ctc": ctc, "generation": generation} | ({"exports": exports} if exports else {}))


def ingest_model_runtime(config: Config, model: str) -> int:
    """Return the size that the configuration expects of a base model, or 0; it is only compared to the real one."""
    return base_config(config, model).expected_bytes or 0


def base_card(config: Config, model: str) -> str:
    """Return the base model with this folder name, whose card is read."""
    return _json(base_config(config, model).model_dump(include={"base", "revision"}))


def segment(config: Config, dataset: str) -> str:
    """Return how a dataset's recordings are aligned and cut: the device, the lengths of clips, and the text rules."""
    section = config.segmented[dataset]
    by_default = TextConfig(language=casing_language(section.language))
    text = section.text or (config.runs[section.model.run].text if section.model.run else by_default)
    keys = {"device", "min_seconds", "max_seconds"}
    return _json({**section.model_dump(include=keys), "text": text.model_dump()})


def transcribe(config: Config, dataset: str) -> str:
    """Return how a dataset's recordings are cut and transcribed: the lengths of clips, and how the run infers."""
    section = config.transcribed[dataset]
    run = config.runs[section.by]
    return _json(
        {
            "run": section.by,
            **section.model_dump(include={"min_seconds", "max_seconds"}),
            **_inference(run),
            "units": run.text.units,
        }
    )


def ingest_pieces(config: Config, dataset: str) -> str:
    """Return the lowest score of a piece that is kept, and what the card says about how the pieces were made."""
    section = config.pieces[dataset]
    about: dict[str, Any] = {"of": section.of, "stage": section.source}
    if isinstance(section, Segment):
        about["model"] = f"the run {section.model.run}" if section.model.run else section.model.base_title
    else:
        about |= {"run": section.by, "decoder": "lm" if uses_lm(config.runs[section.by]) else "greedy"}
    return _json({"min_score": section.threshold, "about": about})


def shards(config: Config, dataset: str) -> str:
    """Return the metadata of a dataset's shards, and the resampler."""
    section = config.datasets[dataset].model_dump()
    return _json({key: section[key] for key in ShardSettings.model_fields})


def status(config: Config, dataset: str) -> str:
    """Return a dataset's splits, the drawn ones, and the expected numbers."""
    section = config.datasets[dataset].model_dump()
    return _json({key: section[key] for key in ("splits", "drawn", "expected")} | {"dataset": dataset})


def audit(config: Config, dataset: str) -> str:
    """Return a dataset's title and splits, and whether the page may contain audio."""
    section = config.datasets[dataset]
    redistribute = _audio_redistributable(config, dataset)
    return _json({"dataset": dataset, "title": section.title, "splits": section.splits, "redistribute": redistribute})


def clips(config: Config, run: str, role: str) -> str:
    """Return the text rules and the drawn splits, and for training the filters and the rules for leakage."""
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
            # The content of the file of corrections counts, not its path.
            "clips": section.clips.model_dump(exclude={"corrections"}),
            "leakage": section.leakage.model_dump(),
            "dev": section.dev,
            "speakers": {name: config.datasets[name].speaker_namespace(name) for name in section.datasets},
            "of": config.cut_from(section.datasets),
        }
    return _json(settings)


def clips_train(config: Config, run: str) -> str:
    """Return the settings of the training clips."""
    return clips(config, run, "train")


def vocab(config: Config, run: str) -> str:
    """Return the clusters, and the configuration of a model with random weights, which the extractor has to fit.

    A vocabulary other than of characters is listed with whether a language model is made for it.
    """
    section = config.runs[run]
    settings: dict[str, Any] = {"init": section.model.init, "clusters": output_clusters(section.text)}
    if section.vocab != "characters":
        settings |= section.model_dump(include={"vocab"}) | {"lm": uses_lm(section)}
    return _json(settings)


def plan(config: Config, run: str) -> str:
    """Return the batches, epochs and checkpoints, the model, and what decides how much memory it needs."""
    section = config.runs[run]
    return _json(
        {
            **section.model_dump(include={"plan"}),
            **_mixing(config, section),
            "model": _model(section),
            "memory": section.model_dump(include={"finetune": set(MemoryConfig.model_fields)})["finetune"],
            "device": section.device,
            "gpus": section.gpus,
            "gpu_memory_gib": section.gpu_memory_gib,
            "best": section.checkpoints.best,
            **({"average": section.select.average} if averages(section) else {}),
            **section.model_dump(include={"augment"}),
            "log_probs": uses_lm(section),
            **_kept_vocab(section),
        }
    )


def finetune(config: Config, run: str) -> str:
    """Return all that changes weights, and what decides which checkpoints are kept."""
    section = config.runs[run]
    return _json(
        section.model_dump(include={"device", "gpus", "plan", "augment"})
        | section.model_dump(include={"finetune": set(FinetuneConfig.model_fields) - _RUNTIME, "checkpoints": {"best"}})
        | {"model": _model(section)}
        | _mixing(config, section)
        | _kept_vocab(section)
        | (_dev_evaluation(section) if section.checkpoints.best else {})
    )


def finetune_runtime(config: Config, run: str) -> str:
    """Return the settings of training that change no weights; their sections are merged with those of `finetune`."""
    section = config.runs[run]
    return _json(
        section.model_dump(include={"finetune": _RUNTIME, "checkpoints": set(CheckpointConfig.model_fields) - {"best"}})
        | ({} if section.checkpoints.best else _dev_evaluation(section))
    )


def log_probs(config: Config, run: str, set_name: str) -> str:
    """Return the device and precision, the size of a batch, and the chunks of a set."""
    section = config.runs[run]
    # Of a model that generates text; a trained one does not.
    generation = {} if section.trains else section.evaluation.model_dump(include={"generation"})
    language = {} if section.trains else {"language": section.language}
    return _json({**_inference(section), **_chunks(section, set_name), **generation, **language})


def log_probs_runtime(config: Config, run: str, step: str, set_name: str, outputs: str) -> str:
    """Return whether log-probabilities are stored."""
    return _json({"keep_log_probs": keeps_log_probs(config, run, step, set_name, outputs)})


def evaluate(config: Config, run: str) -> str:
    """Return the text rules, which are applied to hypotheses too."""
    return _json({"text": config.runs[run].text.model_dump()})


def protocols(config: Config, run: str, set_name: str) -> list[str]:
    """Return the protocols by which a set is scored."""
    return list(config.runs[run].evaluation.set_config(set_name).protocols)


def decoder_version(config: Config, run: str, decoder: str) -> list[int]:
    """Return the versions that scores by a decoder depend on; those of beam search are its own."""
    return [stage_version(stage) for stage in ("evaluate", *(["decoders"] if decoder == "lm" else []))]


def export(config: Config, run: str) -> str:
    """Return the precisions, and the units of the hypotheses."""
    section = config.runs[run]
    return _json({"precisions": section.export, "units": section.text.units})


def score_export(config: Config, run: str, set_name: str) -> str:
    """Return the precisions, the text rules, the error rate to compare, and the chunks of a set."""
    section = config.runs[run]
    settings = {"precisions": section.export, "text": section.text.model_dump(), "metric": section.error_rate}
    return _json({**settings, **_chunks(section, set_name)})


def lm_text(config: Config, run: str) -> str:
    """Return the text rules."""
    return evaluate(config, run)


def lm(config: Config, run: str) -> str:
    """Return the settings by which the language model is estimated."""
    section = _language_model(config, run)
    unit = config.runs[run].lm_unit
    order = section.order or {"words": 4, "characters": 6}[unit]
    return _json(
        section.model_dump(include={"prune", "format", "max_words", "max_mb"}) | {"unit": unit, "order": order}
    )


def select_tuning_checkpoint(config: Config, run: str) -> str:
    """Return the metric that decides."""
    return _json({"metric": config.runs[run].select_metric})


def lm_weights(config: Config, run: str) -> str:
    """Return dev, the text rules, the error rate that decides, the grid of weights, and the width of the search."""
    section = config.runs[run]
    keys = {"lm_weight", "word_score", "vocabulary", "beam", "tuning_clips"}
    searched = _language_model(config, run).model_dump(include=keys)
    if section.lm_unit == "characters":
        # The decoder adds no score per word where the units are characters.
        searched["word_score"] = [0.0]
    return _json({"dev": section.dev, "text": section.text.model_dump(), "metric": section.error_rate, **searched})


def perturb(config: Config, run: str, effect: str) -> str:
    """Return the definition of an effect."""
    robustness = config.runs[run].evaluation.robustness
    assert robustness is not None
    return robustness.effects[effect].model_dump_json(exclude_none=True)


def robustness(config: Config, run: str) -> str:
    """Return the error rate to plot, and the titles of the sets that have perturbed copies, and of the copies."""
    section = config.runs[run].evaluation.robustness
    names = [*(section.sets if section else []), *perturbed_sets(config, run)]
    return _json({"metric": config.runs[run].error_rate, "titles": {name: _title(config, name) for name in names}})


def runs_table(config: Config) -> str:
    """Return the runs and sets of the page of all runs, with their titles and published results."""
    runs = [
        {
            "name": name,
            "start": _start(section),
            "metric": section.error_rate,
            "trained_on": [_title(config, each) for each in section.train or []],
            **_base_training(config, name),
            "transcribed_by": _transcribed_by(config, section),
            # The page does not show the training table of a card.
            "published": [each.model_dump(include=_PUBLISHED_RESULTS, mode="json") for each in section.published],
        }
        for name, section in config.runs.items()
    ]
    names = dict.fromkeys(
        each
        for name, section in config.runs.items()
        for each in (*section.evaluation.set_names, *perturbed_sets(config, name))
    )
    sweeps = [
        {
            "name": sweep.name,
            "runs": {run: sweep.description(run) for run in sweep.points},
            "compares_models": sweep.compares_models,
        }
        for sweep in config.sweeps
    ]
    sets = [{"name": name, "title": _title(config, name)} for name in names]
    return _json({"runs": runs, "sets": sets, "sweeps": sweeps}, sort_keys=False)


def worst(config: Config, run: str, set_name: str) -> str:
    """Return what the page of a set shows of its corpus, how many clips, and how the model was run on them."""
    section = config.runs[run]
    dataset = config.datasets[set_name.split("-")[0]]
    return _json(
        {
            "title": _title(config, set_name),
            "language": dataset.language,
            "redistribute": _audio_redistributable(config, set_name.split("-")[0]),
            "units": section.text.units,
            "metric": section.error_rate,
            **section.evaluation.model_dump(include={"worst_clips", "batch_seconds"}),
            **_chunks(section, set_name),
        }
    )


def label_scores(config: Config, run: str) -> str:
    """Return how the model is run, and the text rules. Training clips are not split into chunks."""
    section = config.runs[run]
    return _json({"inference": _inference(section), "text": section.text.model_dump()})


def suspicious(config: Config, run: str) -> str:
    """Return how many clips are listed, how they are compared, and what the page may show of each dataset."""
    section = config.runs[run]
    names = section.train_datasets
    return _json(
        {
            "clips": (section.label_errors or LabelErrorsConfig()).clips,
            "metric": section.error_rate,
            "languages": {name: config.datasets[name].language for name in names},
            "redistribute": [name for name in names if _audio_redistributable(config, name)],
        }
    )


def select(config: Config, run: str) -> str:
    """Return the set, the decoder and the metric that decide, and how many checkpoints are averaged, if any."""
    return _json(_selection(config.runs[run]))


def confidence(config: Config, run: str) -> str:
    """Return the output units, and whether the language is written with spaces between words."""
    section = config.runs[run]
    return _json({"units": section.text.units, "separated": separates_words(section.language)})


def calibration(config: Config, run: str) -> str:
    """Return the set that calibrators are fitted on, and the titles of the sets to plot."""
    titles = {each["set_name"]: _title(config, each["set_name"]) for each in scored_sets(config, run)}
    return _json({"dev": str(config.runs[run].dev), "titles": titles})


def breakdown(config: Config, run: str) -> str:
    """Return the error rate of which intervals and comparisons are computed."""
    return _json({"metric": config.runs[run].error_rate})


def usage(config: Config, run: str) -> str:
    """Return the text rules, which name the units of the hypotheses, the unit of the language model, and the spaces."""
    section = config.runs[run]
    return _json(
        {
            "text": section.text.model_dump(),
            "lm_unit": section.lm_unit if uses_lm(section) else "words",
            "separated": separates_words(section.language),
        }
    )


def card(config: Config, run: str) -> str:
    """Return what the card says about the run and its datasets beside measured values."""
    section = config.runs[run]
    datasets = {}
    for name in section.datasets:
        dataset = config.datasets[name]
        about = dataset.model_dump(include={"name", "version", "licence", "hub_id", "language", "drawn"})
        datasets[name] = about | {
            # On the Hub a Common Voice release has one configuration for each language.
            "hub_config": dataset.config if isinstance(dataset, Hub) else _locale(dataset),
            "audio_redistributable": _audio_redistributable(config, name),
            "text_redistributable": dataset.text_redistributable,
        }
    return _json(
        {
            "run": run,
            "language": section.language,
            **section.model_dump(include={"card", "published"}),
            "base": section.model.base_title,
            "base_run": section.model.run,
            "base_model": _hub_base(config, run),
            **_base_training(config, run),
            "train": section.train,
            "text": section.text.model_dump(),
            **section.model_dump(include={"vocab"}),
            "select": _selection(section),
            "metric": section.error_rate,
            "datasets": datasets,
            "texts": _texts(config, run),
            "roles": run_roles(section),
            **_sweep(config, run),
            **_compared(config, run),
            "versions": {stage: stage_version(stage) for stage in ("finetune", "log_probs", "evaluate", "card")},
        }
    )


def reproduction(config: Config, run: str) -> str:
    """Return the configuration that reproduces a run, the runs and datasets that it is made of, and compared runs.

    Locations on this machine are reduced to their names; keys with their default values are left out.
    """
    runs: list[str] = []
    datasets: list[str] = []
    for name in [run, *config.runs[run].evaluation.compare]:
        for known, found in zip((runs, datasets), config.made_of(name), strict=True):
            known += [each for each in found if each not in known]
    paths = [config.datasets[name].location for name in datasets]
    spoken = [name for name in config.speak if f"{SPOKEN}{name}.tar.gz" in paths]
    chosen = config.model_dump(
        mode="json",
        exclude_unset=True,
        include={
            "speak": set(spoken),
            "datasets": set(datasets),
            "texts": {name for each in runs for name in _texts(config, each)},
            "runs": set(runs),
        },
    )
    for text in chosen.get("texts", {}).values():
        if "path" in text:
            text["path"] = Path(text["path"]).name
    for dataset in chosen["datasets"].values():
        if "path" in dataset and not dataset["path"].startswith(SPOKEN):
            dataset["path"] = Path(dataset["path"]).name
    for name, each in chosen["runs"].items():
        if "corrections" in each.get("clips", {}):
            each["clips"]["corrections"] = Path(each["clips"]["corrections"]).name
        # Who reproduces a run does not upload it to the same repository.
        each.pop("publish", None)
        if name != run:
            each["evaluation"].pop("compare", None)
        model = config.runs[name].model
        if model.base_is_folder:
            each["model"]["base"] = model.base_without_location
    return _json({key: value for key, value in chosen.items() if value}, sort_keys=False)


def _base_training(config: Config, run: str) -> dict[str, Any]:
    """Return what is known about the training data of a run's base, and the scored sets; nothing without a base."""
    section, start, earlier = config.runs[run], config.start(run), config.base_runs(run)
    if start.base is None and not earlier:
        return {}
    return {
        "base_training": {
            "base": start.base_title,
            **start.model_dump(mode="json", include={"released", "trained_on"}),
            "runs": {name: _run_corpora(config, name) for name in earlier},
            "sets": {name: _scored_set(config, name) for name in section.evaluation.set_names},
        }
    }


def _run_corpora(config: Config, run: str) -> list[dict[str, Any]]:
    sets = config.runs[run].train or []
    return [
        {
            "dataset": name,
            **config.datasets[name].model_dump(include={"name", "version"}),
            "splits": [each.split("-")[1] for each in sets if each.split("-")[0] == name],
        }
        for name in config.runs[run].train_datasets
    ]


def _scored_set(config: Config, set_name: str) -> dict[str, Any]:
    name, split = set_name.split("-")
    dataset, source = config.datasets[name], config.ingested(name).source
    drawn = dataset.drawn.get(split)
    # The sources that are one corpus each; the others are layouts.
    known = source if source in ("common_voice", "zeroth") else None
    return {
        "dataset": name,
        "split": split,
        "drawn_from": drawn.of if drawn else None,
        "names": [each for each in (dataset.name, dataset.hub_id, known) if each],
        **dataset.model_dump(mode="json", include={"version", "released"}, exclude_none=True),
    }


def _mixing(config: Config, section: Run) -> dict[str, Any]:
    """Return `mixing` with the group of each dataset of `train`, or nothing, so that other runs do not train again."""
    if section.mixing is None:
        return {}
    names = section.train_datasets
    groups = {
        "dataset": {name: name for name in names},
        "language": {name: config.datasets[name].language for name in names},
        "speaker": {name: config.datasets[name].speaker_namespace(name) for name in names},
    }
    return {"mixing": section.mixing.model_dump() | {"groups": groups[section.mixing.by]}}


def _sweep(config: Config, run: str) -> dict[str, Any]:
    """Return what the card says about the sweep of a run, or nothing, so that other cards stay as they are."""
    sweep = config.sweep_of(run)
    if sweep is None:
        return {}
    return {"sweep": {"name": sweep.name, "values": sweep.description(run), "other_seeds": sweep.other_seeds(run)}}


def _compared(config: Config, run: str) -> dict[str, Any]:
    """Return what the card says about the runs that it compares with, or nothing, so that other cards stay as they are.

    `compared` has a description of each run by its name.
    """
    transcribed = [each["teacher"] for each in teachers(config, run)]
    compared = {}
    for name in (each["other"] for each in compared_runs(config, run)):
        start = _start(config.runs[name])
        compared[name] = f"trained from {start}" if config.runs[name].trains else f"{start}, not trained"
        if name in transcribed:
            compared[name] += ", transcribed training data of this model"
    return {"compared": compared} if compared else {}


def _kept_vocab(section: Run) -> dict[str, Any]:
    """Return `vocab` where it decides on the head, or nothing, so that other runs do not train again.

    Any other vocabulary reaches training as a file.
    """
    return {"vocab": "keep"} if section.vocab == "keep" else {}


def _language_model(config: Config, run: str) -> LmConfig:
    settings = config.runs[run].evaluation.language_model
    assert settings is not None
    return settings


def _texts(config: Config, run: str) -> dict[str, dict[str, Any]]:
    """Return what the card says about the fetched texts of a run's language model."""
    lm = config.runs[run].evaluation.language_model
    return {
        name: config.texts[name].model_dump(include={"name", "licence", "date"}) for name in (lm.texts if lm else [])
    }


def _start(section: Run) -> str:
    if section.model.run is not None:
        return f"the run {section.model.run}"
    return section.model.base_title or "random weights"


def _hub_base(config: Config, run: str) -> str | None:
    """Return the Hub id of the model that a run starts from, perhaps through other runs; None if it is not there."""
    model = config.start(run)
    return None if model.base_is_folder else model.base


def _transcribed_by(config: Config, section: Run) -> dict[str, str]:
    """Return the run that transcribed each training dataset with machine-made transcripts."""
    return {name: config.transcribed[name].by for name in section.train_datasets if name in config.transcribed}


def _title(config: Config, set_name: str) -> str:
    dataset, split, *effect = set_name.split("-")
    return ", ".join([f"{isolate(config.datasets[dataset].title)} {split}", *effect])


def _audio_redistributable(config: Config, dataset: str) -> bool:
    """Return whether pages may contain audio of a dataset; what is made from another follows that one."""
    given = config.datasets[dataset].redistribute
    return config.ingested(dataset).audio_redistributable if given is None else given


def _inference(section: Run) -> dict[str, Any]:
    return {"device": section.device, **section.evaluation.model_dump(include={"precision", "batch_seconds"})}


def _chunks(section: Run, set_name: str) -> dict[str, float | None]:
    settings = section.evaluation.set_config(set_name)
    return {"chunk_seconds": settings.chunk_seconds, "stride_seconds": settings.stride}


def _locale(dataset: Dataset) -> str | None:
    return dataset.language if isinstance(dataset, CommonVoice) and dataset.hub_id else None


def _dev_evaluation(section: Run) -> dict[str, Any]:
    # How a checkpoint is scored during training, and by what the best are found.
    batch_seconds = section.evaluation.batch_seconds
    return {"text": section.text.model_dump(), "batch_seconds": batch_seconds, "metric": section.select_metric}


def _selection(section: Run) -> dict[str, Any]:
    average = {} if section.select.average is None else {"average": section.select.average}
    return section.select.model_dump(include={"decoder"}) | {
        "set": section.select_set,
        "metric": section.select_metric,
        **average,
    }


def _model(section: Run) -> dict[str, Any]:
    # Its expected size is for the forecast alone, its training data for the card; its language decides what is stored
    # of it. The record of the training contains these settings, and is published.
    settings = section.model.model_dump(exclude={"expected_bytes", "target_lang", "trained_on", "released"})
    return settings | {"base": section.model.base_without_location}


def _json(value: Any, sort_keys: bool = True) -> str:
    text = json.dumps(value, ensure_ascii=False, sort_keys=sort_keys)
    # The report of Snakemake has the parameters of jobs in a script element, which a name could otherwise end.
    return text.replace("</", r"<\/").replace("<!--", r"<\u0021--")
