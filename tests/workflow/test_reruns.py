"""Reruns after a change: exactly the jobs that depend on it."""

import copy
import csv
import html
import os
import re
from typing import Any

import pytest
from working_copy import WorkingCopy, faulty_config

from speechmill.core.tables import read_table

pytestmark = pytest.mark.slow

DATA_RULES = {"ingest_dataset", "shards", "index", "status"}
RUN = "results/runs/demo_ru"


def with_changes(**changes: Any) -> dict[str, Any]:
    """Return the configuration of `finished` with other values for keys of the run, such as `card__title`."""
    config = copy.deepcopy(faulty_config())
    for key_path, value in changes.items():
        *sections, key = key_path.split("__")
        node = config["runs"]["demo_ru"]
        for section in sections:
            node = node.setdefault(section, {})
        node[key] = value
    return config


@pytest.fixture(scope="module")
def current(finished: WorkingCopy, tmp_path_factory: pytest.TempPathFactory) -> WorkingCopy:
    """A copy of `finished` for dry runs, which other processes do not read meanwhile."""
    return finished.copy(tmp_path_factory.mktemp("current") / "copy")


@pytest.fixture(scope="module")
def edited(finished: WorkingCopy, tmp_path_factory: pytest.TempPathFactory) -> WorkingCopy:
    """A copy of `finished` with edits in every module of the library, each of which changes its code."""
    copy = finished.copy(tmp_path_factory.mktemp("edited") / "copy")
    for module in (copy.folder / "workflow/speechmill").rglob("*.py"):
        module.write_text(module.read_text(encoding="utf-8") + "\n_EDITED = True\n", encoding="utf-8")
    return copy


def test_second_run_has_nothing_to_do(current: WorkingCopy) -> None:
    assert current.planned(faulty_config()) == {}


def test_touched_source_files_rerun_nothing(changed: WorkingCopy) -> None:
    for source in ("Snakefile", "workflow", "config", "envs"):
        for path in [changed.folder / source, *(changed.folder / source).rglob("*")]:
            os.utime(path)
    assert changed.planned(faulty_config()) == {}


def test_corpus_deleted_after_ingest_reruns_nothing(changed: WorkingCopy) -> None:
    (changed.folder / "corpus.tar.gz").unlink()
    assert changed.planned(faulty_config()) == {}


def test_edited_modules_rerun_nothing(edited: WorkingCopy) -> None:
    assert edited.planned(faulty_config()) == {}


# A stage, rules that run again with it, and rules that do not.
@pytest.mark.parametrize(
    ("stage", "rerun", "kept"),
    [
        ("shards", {"shards", "index", "status", "clips_train"}, {"ingest_dataset"}),
        ("clips", {"clips", "clips_train"}, DATA_RULES),
        ("plan", {"plan"}, DATA_RULES | {"clips", "vocab"}),
        ("finetune", {"finetune", "log_probs", "evaluate", "card"}, DATA_RULES | {"clips", "vocab", "plan", "lm"}),
        ("log_probs", {"log_probs", "evaluate", "card"}, DATA_RULES | {"plan", "finetune", "lm"}),
        ("evaluate", {"evaluate", "card"}, DATA_RULES | {"plan", "finetune", "lm"}),
        ("decoders", {"evaluate", "card"}, DATA_RULES | {"plan", "finetune", "lm"}),
        ("card", {"card"}, DATA_RULES | {"finetune", "log_probs", "evaluate", "summary", "select"}),
    ],
)
def test_raised_version_reruns_stage_and_dependents(
    edited: WorkingCopy, stage: str, rerun: set[str], kept: set[str]
) -> None:
    versions = edited.folder / "workflow/stage_versions.yaml"
    before = versions.read_text()
    edited.raise_version(stage)
    planned = set(edited.planned(faulty_config()))
    versions.write_text(before)
    assert rerun <= planned
    assert not kept & planned


def test_card_setting_reruns_the_card_only(current: WorkingCopy) -> None:
    assert current.planned(with_changes(card__title="Another title")) == {"card": 1}


def test_learning_rate_reruns_training_and_dependents(current: WorkingCopy) -> None:
    planned = set(current.planned(with_changes(finetune__learning_rate=1e-4)))
    assert {"finetune", "log_probs", "evaluate", "summary", "select", "card"} <= planned
    assert not planned & (DATA_RULES | {"clips", "clips_train", "vocab", "plan", "lm_text", "lm"})


def test_save_interval_reruns_from_the_plan(current: WorkingCopy) -> None:
    planned = set(current.planned(with_changes(plan__save_steps=2)))
    assert {"plan", "finetune"} <= planned
    assert not planned & (DATA_RULES | {"clips", "clips_train", "vocab"})


def test_text_rule_reruns_from_clips_and_vocabulary(current: WorkingCopy) -> None:
    planned = set(current.planned(with_changes(text__replace=[{"find": "ё", "replacement": "е"}])))
    assert {"clips_train", "vocab"} <= planned
    assert not planned & DATA_RULES


def test_settings_that_keep_weights_train_nothing(changed: WorkingCopy) -> None:
    """A new evaluation set with training clips in it, another dev, and settings of how training is run."""
    config = with_changes(
        # Greedy, since the weights of a language model depend on dev.
        evaluation={"sets": ["demo_ru-dev", "demo_ru-test", "demo_ru-train"], "worst_clips": 0},
        dev="demo_ru-test",
        gpu_memory_gib=40,
        checkpoints__dev_clips=3,
        finetune__workers=1,
        finetune__gradient_checkpointing=False,
    )
    run = changed.snakemake(config)
    # The training clips are compared with the new set first; none is removed, so training is current.
    assert {"clips", "clips_train", "plan", "log_probs", "evaluate", "select", "card"} <= run.executed
    # Forward passes over the test set do not wait for the language model any more: Snakemake sees other inputs.
    # The confidence of words on dev is that of one decoder less.
    assert run.scored_sets == {"demo_ru-train", "demo_ru-test", "demo_ru-dev"}
    assert not run.executed & (DATA_RULES | {"finetune"})
    leakage = changed.read_json(f"{RUN}/clips/leakage.json")
    assert leakage["demo_ru-train"]["audio"]["clips"] > 0
    assert leakage["demo_ru-train"]["removed"] == 0


def test_search_for_label_errors_trains_nothing_and_corrects(changed: WorkingCopy) -> None:
    run = changed.snakemake(with_changes(label_errors={"clips": 2}))
    assert run.executed - {"all"} == {"label_scores", "suspicious", "card"}
    folder = changed.folder / RUN / "label_errors"
    clips = read_table(changed.folder / RUN / "clips" / "train.parquet").num_rows
    assert read_table(folder / "scores.parquet").num_rows == clips
    with (folder / "suspicious.csv").open(encoding="utf-8-sig", newline="") as file:
        corrected, marked = csv.DictReader(file)
    with (changed.folder / "corrected.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(corrected))
        writer.writeheader()
        writer.writerows([corrected | {"correction": "Ноль один."}, marked | {"exclude": "yes"}])
    config = with_changes(clips__corrections="corrected.csv")
    changed.snakemake(config, f"{RUN}/clips/train.json")
    counts = changed.read_json(f"{RUN}/clips/train.json")
    assert (counts["clips"], counts["corrected"], counts["excluded"]["label_error"]) == (clips - 1, 1, 1)
    (changed.folder / "corrected.csv").write_text("dataset,split,id,correction,exclude\n", encoding="utf-8")
    assert "clips_train" in changed.planned(config)


def test_name_of_a_corpus_trains_and_scores_nothing(changed: WorkingCopy) -> None:
    config = faulty_config()
    # Signs of LaTeX, of templates and of HTML: every stage that shows the name shows it as it is.
    config["datasets"]["demo_ru"]["name"] = name = r"US$ and \CA$ {x} {{ y }} <b>"
    run = changed.snakemake(config)
    assert {"shards", "card", "worst", "robustness", "runs_table"} <= run.executed
    assert not run.executed & {"finetune", "log_probs", "evaluate"}
    assert html.escape(name) in (changed.folder / RUN / "card.html").read_text(encoding="utf-8")


def test_set_without_training_sentences_keeps_the_lm(changed: WorkingCopy) -> None:
    config = with_changes(evaluation__sets=["demo_ru-dev", "demo_ru-test", "again-test"], evaluation__worst_clips=0)
    config["datasets"]["again"] = config["datasets"]["demo_ru"] | {"splits": ["test"], "shards": 1}
    run = changed.snakemake(config)
    assert {"lm_text", "log_probs", "evaluate", "card"} <= run.executed
    assert run.scored_sets == {"again-test"}
    assert not run.executed & {"lm", "lm_weights", "finetune", "perturb"}


def test_unchanged_table_written_again_trains_nothing(changed: WorkingCopy) -> None:
    run = changed.snakemake(faulty_config(), "--forcerun", "clips_train", "clips")
    assert {"clips_train", "clips"} <= run.executed
    # Jobs that follow a forced job run too, as far as the checkpoint; there Snakemake compares digests again.
    assert not run.executed & {"finetune", "log_probs", "evaluate"}


def test_clock_that_jumps_backwards_trains_nothing(changed: WorkingCopy) -> None:
    results = [changed.folder / "results", *(changed.folder / "results").rglob("*")]
    times = [path.lstat().st_mtime_ns for path in results]
    # The order of all times is reversed.
    for path, time in zip(results, times, strict=True):
        os.utime(path, ns=(max(times) + min(times) - time,) * 2, follow_symlinks=False)
    output = changed.snakemake(faulty_config(), "--dry-run").output
    jobs = re.findall(r"^(?:local)?(?:rule|checkpoint) (\w+):$(.*?)^$", output, re.MULTILINE | re.DOTALL)
    changed_inputs = {rule for rule, description in jobs if "Updated input files" in description}
    # Directories are compared by time alone, files by their content.
    assert changed_inputs <= {"shards", "log_probs", "select"}


def test_adopted_results_are_current_except_raised(changed: WorkingCopy) -> None:
    # Parameters as an earlier release may have had them: without a version, or with other settings.
    changed.edit("workflow/rules/plan.smk", 'version=stage_version("plan"),', "")
    changed.edit("workflow/rules/shards.smk", 'split="{split}",', 'split="{split}", format="old",')
    stale = set(changed.planned(faulty_config()))
    assert {"plan", "shards", "clips_train"} <= stale
    changed.raise_version("card")
    # A file in the format of an earlier release, which nothing may read before its stage has run again.
    (changed.folder / "results/runs/demo_ru/evaluation/breakdown.json").write_text("{}")
    adopted = changed.snakemake(faulty_config(), "--touch", SPEECHMILL_ADOPT="9.0.0")
    assert {"plan", "shards", "clips_train"} <= adopted.executed
    assert changed.planned(faulty_config()) == {"card": 1}
