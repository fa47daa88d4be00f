"""The lists of files, sets and steps that depend on the configuration.

Paths stand in the rules. A function here lists values for their wildcards, such as the splits that can hold the clips
of a set, or, where a rule needs files of several kinds, the paths themselves.
"""

from collections.abc import Iterable
from pathlib import Path

from speechmill.config.datasets import Dataset
from speechmill.config.model import ModelConfig
from speechmill.config.root import Config, Run
from speechmill.config.sets import stored_splits
from speechmill.core.files import read_json

Items = list[dict[str, str]]
"""Values for the wildcards of a path, one dictionary a file."""

MODEL_FILES = ["model.safetensors", "config.json", "processor_config.json", "tokenizer_config.json", "vocab.json"]
"""The files that plain transformers loads a model from."""

APP_FILES = ["app.py", "requirements.txt"]
"""The page on which a model can be tried, and what it needs."""

LM_FILES = ["lm.binary", "lexicon.txt", "tokens.txt", "arpa.json"]
"""The files of a language model, as the stage `lm` writes them."""

DECODING_FILES = [*LM_FILES, "weights.json"]
"""The files that beam search reads."""

SPOKEN = "results/speak/"
"""The folder of the corpora that the rule `speak` makes."""

STEP_RECORDS = {
    "tuning": "results/runs/{run}/lm/tuning_checkpoint.json",
    "average": "results/runs/{run}/average.json",
    "selected": "results/runs/{run}/selection.json",
}
"""Where the step is recorded that a value of the wildcard `step` stands for; any other value is the step itself."""


# Conditions on a run.


def trains(run: Run) -> bool:
    """Return whether the run trains a model, instead of only scoring one."""
    return run.trains


def uses_lm(run: Run) -> bool:
    """Return whether a decoder of the run uses a language model."""
    return run.evaluation.language_model is not None


def trains_lm_on_clips(run: Run) -> bool:
    """Return whether the text of the language model has the training clips."""
    lm = run.evaluation.language_model
    return lm is not None and "training" in lm.text


def keeps_best(run: Run) -> bool:
    """Return whether only the checkpoints with the lowest error rate or loss on dev are kept."""
    return run.checkpoints.best is not None


def keeps_vocab(run: Run) -> bool:
    """Return whether the run keeps the vocabulary and the head of its base."""
    return run.vocab == "keep"


def averages(run: Run) -> bool:
    """Return whether the mean of the weights of several checkpoints is scored, and may be selected."""
    return run.select.average is not None


def scores_labels(run: Run) -> bool:
    """Return whether the sentences of the training clips are scored after training."""
    return run.label_errors is not None


def exports(run: Run) -> bool:
    """Return whether the selected model is exported."""
    return bool(run.export)


def is_perturbed(run: Run) -> bool:
    """Return whether perturbed copies of evaluation sets are scored."""
    return bool(_perturbed_sets(run))


# Splits and shards.


def split_shards(config: Config, dataset: str, split: str) -> Items:
    """Return the numbers of the shards of a split."""
    return [{"number": f"{number:05d}"} for number in range(config.datasets[dataset].shard_count(split))]


def dataset_shards(config: Config, dataset: str) -> Items:
    """Return the split and the number of every shard of a dataset."""
    return [
        {"split": split} | shard
        for split in config.datasets[dataset].splits
        for shard in split_shards(config, dataset, split)
    ]


def role_splits(config: Config, run: str, role: str) -> Items:
    """Return the dataset and the split of every index that can list clips of a role.

    A role is `train`, `dev`, or the name of an evaluation set.
    """
    return _splits(config, role_sets(config.runs[run], role))


def train_splits(config: Config, run: str) -> Items:
    """Return the dataset and the split of every index that can list training clips."""
    return role_splits(config, run, "train")


def evaluation_splits(config: Config, run: str) -> Items:
    """Return the dataset and the split of every index that can list clips of the evaluation sets."""
    return _splits(config, config.runs[run].evaluation.set_names)


def train_shards(config: Config, run: str) -> Items:
    """Return every shard that can hold training clips."""
    return _shards(config, train_splits(config, run))


def dev_shards(config: Config, run: str) -> Items:
    """Return all shards of the dataset of dev.

    The list is the same whichever split of the dataset is dev: training runs again where a list of inputs changes.
    """
    dataset = str(config.runs[run].dev).split("-")[0]
    return [{"dataset": dataset} | shard for shard in dataset_shards(config, dataset)]


def set_shards(config: Config, run: str, set_name: str) -> list[str]:
    """Return the shards that can hold clips of a scored set, or the one shard of a perturbed copy."""
    dataset, split, *effect = set_name.split("-")
    if effect:
        return [f"results/runs/{run}/perturbed/{effect[0]}/{dataset}/{split}/shard-00000.parquet"]
    return [
        "results/data/{dataset}/{split}/shard-{number}.parquet".format(**shard)
        for shard in _shards(config, _splits(config, [set_name]))
    ]


def original_shards(config: Config, run: str, dataset: str, split: str) -> list[str]:
    """Return the shards that can hold the clips that a perturbed copy is made of."""
    return set_shards(config, run, f"{dataset}-{split}")


def selection_shards(config: Config, run: str) -> list[str]:
    """Return the shards that can hold clips of the set by which a checkpoint is selected."""
    return set_shards(config, run, str(config.runs[run].select_set))


def _splits(config: Config, sets: Iterable[str]) -> Items:
    pairs = dict.fromkeys(pair for name in sets for pair in stored_splits(config, name))
    return [{"dataset": dataset, "split": split} for dataset, split in pairs]


def _shards(config: Config, splits: Items) -> Items:
    return [each | shard for each in splits for shard in split_shards(config, **each)]


# Sets and datasets of a run.


def role_sets(run: Run, role: str) -> list[str]:
    """Return the names of the sets of a role: `train`, `dev`, or an evaluation set's own name."""
    if role == "train":
        return run.train or []
    return [str(run.dev) if role == "dev" else role]


def run_roles(run: Run) -> list[str]:
    """Return the roles that a run has clips for: training, dev, and the evaluation sets."""
    return list(dict.fromkeys(["train", "dev", *run.evaluation.set_names]))


def roles(config: Config, run: str) -> Items:
    """Return every role of a run."""
    return [{"role": role} for role in run_roles(config.runs[run])]


def scored_sets(config: Config, run: str) -> Items:
    """Return dev and the evaluation sets, each once: the sets that decide something or are scored."""
    section = config.runs[run]
    names = dict.fromkeys([*([section.dev] if section.dev else []), *section.evaluation.set_names])
    return [{"set_name": name} for name in names]


def exported_sets(config: Config, run: str) -> Items:
    """Return the evaluation sets that exports are scored on; nothing where the model is not exported."""
    section = config.runs[run]
    return [{"set_name": name} for name in (section.evaluation.set_names if section.export else [])]


def evaluated_sets(config: Config, run: str) -> Items:
    """Return the evaluation sets and their perturbed copies."""
    section = config.runs[run]
    return [{"set_name": name} for name in [*section.evaluation.set_names, *_perturbed_sets(section)]]


def dev_set(config: Config, run: str) -> Items:
    """Return the set that choices are made on."""
    return [{"set_name": str(config.runs[run].dev)}]


def selection_set(config: Config, run: str) -> Items:
    """Return the set by which a checkpoint is selected."""
    return [{"set_name": str(config.runs[run].select_set)}]


def selection_set_name(config: Config, run: str) -> str:
    """Return the name of the set by which a checkpoint is selected."""
    return str(config.runs[run].select_set)


def datasets(config: Config, run: str) -> Items:
    """Return the datasets that a run reads."""
    return [{"dataset": name} for name in config.runs[run].datasets]


def perturbed_sets(config: Config, run: str) -> list[str]:
    """Return the names of the perturbed copies of a run's evaluation sets."""
    return _perturbed_sets(config.runs[run])


def _perturbed_sets(run: Run) -> list[str]:
    robustness = run.evaluation.robustness
    return [f"{name}-{effect}" for name in robustness.sets for effect in robustness.effects] if robustness else []


def other_seeds(config: Config, run: str) -> Items:
    """Return the runs of the same sweep that differ from a run only in their seed."""
    sweep = config.sweep_of(run)
    return [{"other": other} for other in (sweep.other_seeds(run) if sweep else [])]


# Base models.


def base(config: Config, run: str) -> Items:
    """Return the folder name of a run's base model; nothing where it starts from random weights."""
    model = config.runs[run].model
    return [{"model": model.base_name}] if model.has_base else []


def base_cards(config: Config, run: str) -> Items:
    """Return the folder name of the base that a run starts from, perhaps through other runs; nothing without a base."""
    start = config.start(run)
    return [{"model": start.base_name}] if start.base else []


def all_base_cards(config: Config) -> list[str]:
    """Return the folder name of the base of each run that has one, in the order of the runs."""
    return [each["model"] for run in config.runs for each in base_cards(config, run)]


def scored_base(config: Config, run: str) -> Items:
    """Return the folder name of the model that a run only scores; nothing where it trains one."""
    return [] if config.runs[run].trains else base(config, run)


def scored_bases(config: Config) -> list[str]:
    """Return the folder name of the model of each run that only scores one."""
    return [each["model"] for run in config.runs for each in scored_base(config, run)]


def base_run(config: Config, model: str) -> Items:
    """Return the run whose model is the base with this folder name; nothing where it is no run's."""
    run = base_config(config, model).run
    return [{"run": run}] if run else []


def base_config(config: Config, model: str) -> ModelConfig:
    """Return the section that names the base model with this folder name, of a run or of an alignment."""
    sections = [run.model for run in config.runs.values()]
    sections += [dataset.model for dataset in config.segmented.values()]
    return next(section for section in sections if section.base_name == model)


# Datasets that are made from the recordings of another one.


def recordings(config: Config, dataset: str) -> Items:
    """Return the dataset whose recordings are cut into the clips of a dataset."""
    return [{"of": config.pieces[dataset].of}]


def piece_shards(config: Config, dataset: str) -> Items:
    """Return the split and the number of every table of pieces of a dataset; none if it is not made from another."""
    return dataset_shards(config, dataset) if dataset in config.pieces else []


def recording_splits(config: Config, run: str) -> Items:
    """Return the dataset and the split of every index with recordings that clips of a run were cut from by a model."""
    of = config.cut_from(config.runs[run].datasets)
    pairs = dict.fromkeys((of[name], split) for name in of for split in config.datasets[name].splits)
    return [{"dataset": dataset, "split": split} for dataset, split in pairs]


def alignment_model(config: Config, dataset: str) -> Items:
    """Return the folder name of the model that aligns the transcripts of a dataset."""
    return [{"model": config.segmented[dataset].model.base_name}]


def transcriber(config: Config, dataset: str) -> Items:
    """Return the run that transcribes the recordings of a dataset; nothing for one that is aligned."""
    return [{"run": config.transcribed[dataset].by}] if dataset in config.transcribed else []


def teachers(config: Config, run: str) -> Items:
    """Return the runs that transcribed training data of a run, each once."""
    names = [name for name in config.runs[run].train_datasets if name in config.transcribed]
    return [{"teacher": teacher} for teacher in dict.fromkeys(config.transcribed[name].by for name in names)]


def compared_runs(config: Config, run: str) -> Items:
    """Return the runs that a run is compared with in its card, each once: its teachers, and `evaluation.compare`."""
    names = [*(each["teacher"] for each in teachers(config, run)), *config.runs[run].evaluation.compare]
    return [{"other": name} for name in dict.fromkeys(names)]


def transcription_model(config: Config, dataset: str) -> list[str]:
    """Return the files of the model that transcribes the recordings of a dataset."""
    return selected_model(config, config.transcribed[dataset].by)


def transcription_lm(config: Config, dataset: str) -> list[str]:
    """Return the files of the language model that transcribes the recordings of a dataset, if its run has one."""
    by = config.transcribed[dataset].by
    return decoding_files(config, by, "lm") if uses_lm(config.runs[by]) else []


def transcription_selection(config: Config, dataset: str) -> str:
    """Return the record of the checkpoint that transcribes the recordings of a dataset."""
    return f"results/runs/{config.transcribed[dataset].by}/selection.json"


# Steps and scores.


def steps(plan: str, record: str | None = None) -> list[int]:
    """Return the steps of the checkpoints that are scored.

    Args:
        plan: The file `plan.json`, which lists those to be saved.
        record: The file `training.json`, which lists those that were kept, where not all are.
    """
    file, key = (plan, "checkpoints") if record is None else (record, "kept")
    return [int(step) for step in read_json(Path(file))[key]]


def selected_step(selection: str) -> int:
    """Return the step of the selected checkpoint, of the file `selection.json`."""
    return int(read_json(Path(selection))["step"])


def step_scores(config: Config, run: str, steps: Iterable[int | str]) -> list[str]:
    """Return the folders with the scores of each step: one for every set of all checkpoints and every decoder."""
    evaluation = config.runs[run].evaluation
    return [
        f"results/runs/{run}/evaluation/{step}/{each.set}/{decoder}"
        for step in steps
        for each in evaluation.sets
        if each.checkpoints == "all"
        for decoder in evaluation.decoders
    ]


def all_scores(config: Config, run: str, steps: Iterable[int]) -> list[str]:
    """Return the folders with all scores of a run.

    Beside those of each step there are those of the mean of several checkpoints, if the run averages, and those of the
    selected checkpoint alone: on sets that ask for no others, and on perturbed copies.
    """
    section = config.runs[run]
    scored: list[int | str] = [*steps, *(["average"] if averages(section) else [])]
    sets = [each.set for each in section.evaluation.sets if each.checkpoints == "selected"]
    step = "selected" if section.trains else "0"
    return [
        *step_scores(config, run, scored),
        *(
            f"results/runs/{run}/evaluation/{step}/{name}/{decoder}"
            for name in [*sets, *_perturbed_sets(section)]
            for decoder in section.evaluation.decoders
        ),
    ]


def dev_scores(config: Config, run: str, steps: Iterable[int]) -> list[str]:
    """Return the folders with the greedy scores of each step on dev."""
    return [f"results/runs/{run}/evaluation/{step}/{config.runs[run].dev}/greedy" for step in steps]


def set_scores(config: Config, run: str, set_name: str, steps: Iterable[int]) -> list[str]:
    """Return the folders with the scores of one set, at every step, by the decoder whose worst clips are shown."""
    end = f"/{set_name}/{worst_decoder(config, run)}"
    return [folder for folder in all_scores(config, run, steps) if folder.endswith(end)]


def confidence_scores(config: Config, run: str, set_name: str, steps: Iterable[int]) -> list[str]:
    """Return the folders with the scores of one set by all decoders, at every step.

    Of dev, if it is no evaluation set, only the selected checkpoint is scored by all decoders, for this purpose.
    """
    decoders = config.runs[run].evaluation.decoders
    selected = [f"results/runs/{run}/evaluation/selected/{set_name}/{decoder}" for decoder in decoders]
    return [folder for folder in all_scores(config, run, steps) if folder.split("/")[-2] == set_name] or selected


def shared_scores(config: Config, run: str, other: str, steps: Iterable[int]) -> list[str]:
    """Return the folders with the scores of another run on the evaluation sets of a run."""
    sets = config.runs[run].evaluation.set_names
    return [folder for folder in all_scores(config, other, steps) if folder.split("/")[-2] in sets]


def worst_decoder(config: Config, run: str) -> str:
    """Return the decoder whose worst clips are shown: the one that selects, where the run uses it."""
    section = config.runs[run]
    decoders = section.evaluation.decoders
    return section.select.decoder if section.select.decoder in decoders else decoders[0]


def usage_decoders(config: Config, run: str) -> list[str]:
    """Return the decoders for which a card shows code."""
    return ["greedy", *(["lm"] if uses_lm(config.runs[run]) else [])]


def ctc_outputs(config: Config, run: str, step: str, set_name: str, decoder: str) -> str:
    """Return the CTC outputs that a decoder reads.

    Decoders share one forward pass, with one exception. The greedy scores of all checkpoints on dev are needed before
    the language model is tuned and any of its scores: log-probabilities of dev would wait on the disk, of all
    checkpoints at once. They are computed in a second forward pass, after tuning.
    """
    second = decoder == "lm" and _precedes_tuning(config.runs[run], step, set_name)
    return f"results/runs/{run}/evaluation/{step}/{set_name}/{'log_probs' if second else 'ctc_outputs'}.parquet"


def keeps_log_probs(config: Config, run: str, step: str, set_name: str, outputs: str) -> bool:
    """Return whether a forward pass stores log-probabilities beside the greedy hypotheses.

    They are for beam search, and of the selected checkpoint, except on perturbed copies, for the confidence of words.
    `outputs` is the name of its output, `ctc_outputs` or `log_probs`.
    """
    section = config.runs[run]
    if step == "selected" and set_name not in _perturbed_sets(section):
        return True
    return uses_lm(section) and (outputs == "log_probs" or not _precedes_tuning(section, step, set_name))


def _precedes_tuning(run: Run, step: str, set_name: str) -> bool:
    """Return whether the greedy scores of a step on a set decide at which checkpoint the language model is tuned."""
    return run.trains and step.isdigit() and set_name == run.dev


def tuning_ctc_outputs(config: Config, run: str) -> str:
    """Return the CTC outputs on dev of the checkpoint at which the weights of the language model are tuned."""
    section = config.runs[run]
    return ctc_outputs(config, run, "tuning" if section.trains else "0", str(section.dev), "lm")


def weights_before_log_probs(config: Config, run: str, step: str, set_name: str, outputs: str) -> list[str]:
    """Return the weights of the language model where a forward pass waits for them, except for that of tuning.

    Beam search then follows at once, and log-probabilities are deleted before those of later checkpoints exist.
    """
    tunes = f"results/runs/{run}/evaluation/{step}/{set_name}/{outputs}.parquet" == tuning_ctc_outputs(config, run)
    waits = uses_lm(config.runs[run]) and keeps_log_probs(config, run, step, set_name, outputs) and not tunes
    return [f"results/runs/{run}/lm/weights.json"] if waits else []


def step_record(config: Config, run: str, step: str) -> list[str]:
    """Return the file that records which step `step` stands for; nothing for a number."""
    return [STEP_RECORDS[step].format(run=run)] if step in STEP_RECORDS else []


def step_average(config: Config, run: str, step: str) -> list[str]:
    """Return the folder of the mean of several checkpoints where `step` is that, or may stand for it."""
    return [f"results/runs/{run}/average"] if averages(config.runs[run]) and step in ("average", "selected") else []


def average_metrics(config: Config, run: str) -> list[str]:
    """Return the scores that decide whether the mean of several checkpoints is selected, if the run averages."""
    section = config.runs[run]
    folder = f"results/runs/{run}/evaluation/average/{section.select_set}/{section.select.decoder}"
    return [f"{folder}/metrics.json"] if averages(section) else []


def decoding_files(config: Config, run: str, decoder: str) -> list[str]:
    """Return the files that a decoder reads beside CTC outputs: those of the language model, or none."""
    return [f"results/runs/{run}/lm/{file}" for file in DECODING_FILES] if decoder == "lm" else []


def lm_text_files(config: Config, run: str) -> list[str]:
    """Return the text files that a run's language model is made of, as the configuration names them."""
    lm = config.runs[run].evaluation.language_model
    return lm.files if lm else []


def corrections(config: Config, run: str) -> list[str]:
    """Return the file of corrections of a run's training clips, as the configuration names it; nothing if none."""
    file = config.runs[run].clips.corrections
    return [file] if file else []


def lm_texts(config: Config, run: str) -> Items:
    """Return the fetched texts that a run's language model is made of."""
    lm = config.runs[run].evaluation.language_model
    return [{"text": name} for name in lm.texts] if lm else []


def lm_text_tokenizer(config: Config, run: str) -> list[str]:
    """Return the run's tokenizer where sentences are left out by it: where the language model has fetched texts."""
    return tokenizer_files(config, run) if lm_texts(config, run) else []


def selected_model(config: Config, run: str) -> list[str]:
    """Return the files of the selected checkpoint, or the folder of the model that a run only scores."""
    if config.runs[run].trains:
        return [f"results/runs/{run}/model/{file}" for file in MODEL_FILES]
    return [f"results/models/{each['model']}" for each in base(config, run)]


def tokenizer_files(config: Config, run: str) -> list[str]:
    """Return the files of the run's tokenizer, or the folder of the model that a run only scores."""
    if config.runs[run].trains:
        return [f"results/runs/{run}/vocab/{file}" for file in ("vocab.json", "tokenizer_config.json")]
    return [f"results/models/{each['model']}" for each in base(config, run)]


def folder_of(config: Config, run: str, files: list[str]) -> str:
    """Return the folder that `selected_model` or `tokenizer_files` stand for, wherever Snakemake has staged them."""
    return Path(files[0]).parent.as_posix() if config.runs[run].trains else files[0]


# Targets.


def results(config: Config, run: str) -> list[str]:
    """Return the files that a run is for."""
    section, folder = config.runs[run], f"results/runs/{run}"
    targets = [f"{folder}/model/README.md"] if section.trains else [f"{folder}/evaluation/summary.parquet"]
    if section.evaluation.worst_clips:
        targets += [f"{folder}/worst/{name}.html" for name in section.evaluation.set_names]
    if scores_labels(section):
        targets.append(f"{folder}/label_errors/suspicious.html")
    targets += [f"{folder}/export/{each['set_name']}/metrics.json" for each in exported_sets(config, run)]
    return [*targets, f"{folder}/evaluation/breakdown.json"]


def temporary_files(run_folder: Path) -> list[Path]:
    """Return the temporary files of a run that Snakemake did not delete, as when it is killed at that moment."""
    patterns = ["evaluation/*/*/ctc_outputs.parquet", "evaluation/*/*/log_probs.parquet", "perturbed/*/*/*/*.parquet"]
    return [file for pattern in patterns for file in run_folder.glob(pattern)]


def spoken_archive(dataset: Dataset) -> list[str]:
    """Return the dataset's archive where the rule `speak` makes it, otherwise nothing."""
    return [path] if (path := dataset.location) is not None and path.startswith(SPOKEN) else []
