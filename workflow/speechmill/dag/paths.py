"""Which files a stage needs, from the configuration alone."""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from speechmill.config.datasets import Dataset, Download
from speechmill.config.model import ModelConfig
from speechmill.config.root import Config, Run
from speechmill.corpus.download_record import downloaded

MODEL_FILES = [
    "model.safetensors",
    "config.json",
    "processor_config.json",
    "tokenizer_config.json",
    "vocab.json",
]
"""What plain transformers loads a model from."""

LM_FILES = ["lm.binary", "lexicon.txt", "tokens.txt", "arpa.json"]
"""A language model, as the stage `lm` makes it."""

DECODING_FILES = [*LM_FILES, "weights.json"]
"""What beam search decodes with."""

SPOKEN = "results/speak/"
"""Where the corpora lie that a rule speaks."""

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
        return run.train or []
    return [str(run.dev) if role == "dev" else role]


def role_indexes(config: Config, run: str, role: str) -> list[str]:
    """The indexes that can list clips of a role."""
    found = [pair for name in role_sets(config.runs[run], role) for pair in stored_splits(config, name)]
    return [f"results/data/{dataset}/{split}/index.parquet" for dataset, split in dict.fromkeys(found)]


def role_shards(config: Config, run: str, role: str) -> list[str]:
    """The clip shards that can hold clips of a role."""
    found = [pair for name in role_sets(config.runs[run], role) for pair in stored_splits(config, name)]
    return [file for dataset, split in dict.fromkeys(found) for file in split_files(config, dataset, split, "shard")]


def set_shards(config: Config, run: str, set_name: str) -> list[str]:
    """The clip shards that can hold clips of a scored set, or the one with its changed copy."""
    dataset, split, *effect = set_name.split("-")
    if effect:
        return [f"results/runs/{run}/perturbed/{effect[0]}/{dataset}/{split}/shard-00000.parquet"]
    return role_shards(config, run, set_name)


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
    return list(dict.fromkeys([*([run.dev] if run.dev else []), *run.evaluation.set_names]))


def run_datasets(run: Run) -> list[str]:
    """The datasets that a run reads, each once."""
    return list(dict.fromkeys(name.split("-")[0] for name in [*(run.train or []), *scored_sets(run)]))


def spoken_archive(dataset: Dataset) -> list[str]:
    """The dataset's archive where a rule makes it, otherwise nothing."""
    return [dataset.path] if dataset.path is not None and dataset.path.startswith(SPOKEN) else []


def source_fingerprint(name: str, dataset: Dataset) -> str:
    """What the corpus at a dataset's `path` is, without saying where: sizes, names in a folder, times of change.

    Once it has been read it may be taken away: then the fingerprint that was recorded goes on to hold. One that is
    fetched is what its settings say, before and after.
    """
    if spoken_archive(dataset):
        return "spoken"
    if dataset.in_storage:
        return "in storage, as snakemake knows it"
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


def base_settings(config: Config, base_name: str) -> ModelConfig:
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
        inside = os.path.relpath(folder, path)
        for file in sorted(files):
            # What a link that leads nowhere is, the source says when it is read.
            with suppress(FileNotFoundError):
                stat = os.stat(f"{folder}/{file}")  # noqa: PTH116 (a million files)
                digest.update(f"{inside}/{file} {stat.st_size} {stat.st_mtime_ns}\n".encode())
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


def dev_shards(config: Config, run: str) -> list[str]:
    """The clip shards of dev's dataset, all of them.

    Whichever of its splits is dev, the list is the same: snakemake retrains where a list of inputs changes.
    """
    return dataset_files(config, str(config.runs[run].dev).split("-")[0], "shard")


def deciding_digest(config: Config, run: str) -> list[str]:
    """The digest of dev's clips where the checkpoints that are kept are the best on them, otherwise nothing."""
    return [f"results/runs/{run}/clips/dev.sha256"] if config.runs[run].checkpoints.best else []


def steps(plan: str, record: str | None = None) -> list[int]:
    """The steps of a run that are scored: those that its plan lists, or with `record`, its `training.json`, those kept.

    Both are files.
    """
    file, key = (plan, "checkpoints") if record is None else (record, "kept")
    return [int(step) for step in json.loads(Path(file).read_text())[key]]


def step_metrics(config: Config, run: str, steps: Iterable[int]) -> list[str]:
    """The scores of each of the steps: on each set for all checkpoints, by each decoder."""
    evaluation = config.runs[run].evaluation
    return [
        f"{_evaluation(run, step, each.set)}/{decoder}/metrics.json"
        for step in steps
        for each in evaluation.sets
        if each.checkpoints == "all"
        for decoder in evaluation.decoders
    ]


def selected_metrics(config: Config, run: str) -> list[str]:
    """The scores that the selected checkpoint alone has: on sets that want no others, and on changed copies."""
    evaluation = config.runs[run].evaluation
    names = [each.set for each in evaluation.sets if each.checkpoints == "selected"] + perturbed_sets(config, run)
    step = "selected" if config.runs[run].trains else 0
    return [
        f"{_evaluation(run, step, name)}/{decoder}/metrics.json" for name in names for decoder in evaluation.decoders
    ]


def all_metrics(config: Config, run: str, steps: Iterable[int]) -> list[str]:
    """All scores of a run."""
    return [*step_metrics(config, run, steps), *selected_metrics(config, run)]


def hypotheses(metrics: Iterable[str]) -> list[str]:
    """The hypotheses beside scores."""
    return [file.replace("metrics.json", "hypotheses.parquet") for file in metrics]


def set_hypotheses(config: Config, run: str, steps: Iterable[int], set_name: str) -> list[str]:
    """The hypotheses of which the worst are shown: of a set at every step that is scored on it."""
    scored = f"/{set_name}/{worst_decoder(config.runs[run])}/"
    return [file for file in hypotheses(all_metrics(config, run, steps)) if scored in file]


def dev_metrics(config: Config, run: str, steps: Iterable[int]) -> list[str]:
    """The greedy scores of each of the steps on dev."""
    return [f"{_evaluation(run, step, str(config.runs[run].dev))}/greedy/metrics.json" for step in steps]


def dev_ctc_outputs(config: Config, run: str) -> str:
    """What the model that is best greedily hears in dev's clips, on which the language model's weights are tuned."""
    section = config.runs[run]
    return f"{_evaluation(run, 'best' if section.trains else 0, str(section.dev))}/ctc_outputs.parquet"


def _evaluation(run: str, step: int | str, set_name: str) -> str:
    return f"results/runs/{run}/evaluation/{step}/{set_name}"


def checkpoints_folder(run_name: str, run: Run) -> list[str]:
    """The folder of a run's checkpoints; nothing where it only evaluates."""
    return [f"results/runs/{run_name}/checkpoints"] if run.trains else []


def run_plan(run_name: str, run: Run) -> list[str]:
    """The plan of a run's training; nothing where it only evaluates."""
    return [f"results/runs/{run_name}/plan.json"] if run.trains else []


def scored_base(run: Run) -> list[str]:
    """The folder of the base where it is what a run evaluates, otherwise nothing."""
    return [] if run.trains else base_folder(run)


def scored_source(run: Run) -> list[str]:
    """What is known of the base where it is what a run evaluates, otherwise nothing."""
    return [] if run.trains else base_source(run)


def selected_files(run_name: str, run: Run) -> list[str]:
    """What stands for the folder of the model that a run has come to.

    That is the selected checkpoint, or the base where the run only evaluates.
    """
    return [f"results/runs/{run_name}/model/{file}" for file in MODEL_FILES] if run.trains else base_folder(run)


def processor_files(run_name: str, run: Run) -> list[str]:
    """What stands for the folder with the vocabulary and the tokenizer that a run's model writes with."""
    files = ("vocab.json", "tokenizer_config.json")
    return [f"results/runs/{run_name}/vocab/{file}" for file in files] if run.trains else base_folder(run)


def folder_of(run: Run, files: Sequence[str]) -> str:
    """The folder that such files stand for, wherever snakemake has put them for the job."""
    return Path(files[0]).parent.as_posix() if run.trains else files[0]


def dev_clips(config: Config, run: str, kind: str) -> list[str]:
    """The clips of dev, or their digest: `kind` is how the file ends."""
    return [f"results/runs/{run}/clips/{config.runs[run].dev}.{kind}"]


def selecting_clips(config: Config, run: str, kind: str) -> list[str]:
    """The clips of the set that a checkpoint is selected on, or their digest: `kind` is how the file ends."""
    return [f"results/runs/{run}/clips/{config.runs[run].select_set}.{kind}"]


def step_source(run: str, step: str) -> list[str]:
    """The file that says which step `best` or `selected` is; nothing for a number."""
    named = {"best": "lm/best.json", "selected": "selection.json"}
    return [f"results/runs/{run}/{named[step]}"] if step in named else []


def step_options(step: str, base: Sequence[str], checkpoints: Sequence[str], source: Sequence[str]) -> str:
    """How `log_probs` is told which model it is to run, by its inputs, wherever snakemake has put them for the job."""
    if base:
        return f"--model {base[0]}"
    if source:
        return f"--checkpoints {checkpoints[0]} --step-from {source[0]}"
    return f"--checkpoint {checkpoints[0]}/checkpoint-{step}"


def needs_log_probs(run: Run, step: str, set_name: str) -> bool:
    """Whether a decoder goes through the log-probabilities of a set at a step, beside reading what is greedy."""
    scored = [each.set for each in run.evaluation.sets if each.checkpoints == "all"]
    # On its way to the best checkpoint, dev is decoded greedily where it is no evaluation set of all checkpoints.
    return "lm" in run.evaluation.decoders and (not run.trains or not step.isdigit() or set_name in scored)


def lm_clips(config: Config, run: str, kind: str) -> list[str]:
    """The training clips where the language model is made of them, or their digest: `kind` is how the file ends."""
    settings = config.runs[run].evaluation.language_model
    return [f"results/runs/{run}/clips/train.{kind}"] if settings and settings.text == "training" else []


def lm_text_digest(config: Config, run: str) -> list[str]:
    """The digest of a language model's text; nothing where a run has none."""
    return [f"results/runs/{run}/lm/text.sha256"] if config.runs[run].evaluation.language_model else []


def decoding_files(run: str) -> list[str]:
    """What beam search decodes with."""
    return [f"results/runs/{run}/lm/{file}" for file in DECODING_FILES]


def lm_records(config: Config, run: str) -> list[str]:
    """What is known of a run's language model: its text, its n-grams, its weights; nothing where it has none."""
    if config.runs[run].evaluation.language_model is None:
        return []
    return [f"results/runs/{run}/lm/{file}" for file in ("text.json", "arpa.json", "weights.json")]


def robustness_plot(config: Config, run: str) -> list[str]:
    """The plot of the changed copies; nothing where there are none."""
    return [f"results/runs/{run}/model/plots/robustness.png"] if perturbed_sets(config, run) else []


def results(config: Config, run: str) -> list[str]:
    """What a run is made for."""
    section, folder = config.runs[run], f"results/runs/{run}"
    made = [f"{folder}/model/README.md"] if section.trains else [f"{folder}/evaluation/summary.parquet"]
    if section.evaluation.worst_clips:
        made += [f"{folder}/worst/{name}.html" for name in section.evaluation.set_names]
    return [*made, f"{folder}/evaluation/breakdown.json"]


def worst_decoder(run: Run) -> str:
    """The decoder whose worst clips are shown."""
    evaluation = run.evaluation
    return run.select.decoder if run.select.decoder in evaluation.decoders else evaluation.decoders[0]


def perturbed_sets(config: Config, run: str) -> list[str]:
    """The names of the changed copies of a run's evaluation sets."""
    robustness = config.runs[run].evaluation.robustness
    return [f"{name}-{effect}" for name in robustness.sets for effect in robustness.effects] if robustness else []


def run_roles(run: Run) -> list[str]:
    """What a run uses clips for: training, dev, and the sets that are scored."""
    return list(dict.fromkeys(["train", "dev", *run.evaluation.set_names]))


def run_counts(config: Config, run: str) -> list[str]:
    """The counts of a run's clips in each role."""
    return [f"results/runs/{run}/clips/{role}.json" for role in run_roles(config.runs[run])]


def evaluated_clips(config: Config, run: str) -> list[str]:
    """The clips of each set that is scored, changed copies included."""
    names = [*config.runs[run].evaluation.set_names, *perturbed_sets(config, run)]
    return [f"results/runs/{run}/clips/{name}.parquet" for name in names]


def usage_decoders(run: Run) -> list[str]:
    """The decoders that a card shows how to use."""
    return ["greedy", *(["lm"] if run.evaluation.language_model else [])]


def model_lm_files(config: Config, run: str) -> list[str]:
    """The language model in the folder of a run's model; nothing where it has none."""
    return [f"results/runs/{run}/model/lm/{file}" for file in DECODING_FILES if lm_records(config, run)]


def role_status(config: Config, run: str, role: str) -> list[str]:
    """The status of each dataset that clips of a role can come from."""
    datasets = dict.fromkeys(name.split("-")[0] for name in role_sets(config.runs[run], role))
    return [f"results/data/{dataset}/status.json" for dataset in datasets]


def scored_clips(config: Config, run: str, kind: str = "parquet") -> list[str]:
    """The clips of each set that choices are made on or that is scored, or their digests, files that end in `kind`."""
    return [f"results/runs/{run}/clips/{name}.{kind}" for name in scored_sets(config.runs[run])]


def scored_indexes(config: Config, run: str) -> list[str]:
    """The indexes that can list clips of the evaluation sets."""
    names = config.runs[run].evaluation.set_names
    return list(dict.fromkeys(index for name in names for index in role_indexes(config, run, name)))


def run_status(config: Config, run: str) -> list[str]:
    """The status of each dataset that a run reads."""
    return [f"results/data/{dataset}/status.json" for dataset in run_datasets(config.runs[run])]
