"""Only what changed runs again: each change read off a dry run."""

import copy
import json
import os
import re
from typing import Any

import pytest
from working_copy import Snakemake, WorkingCopy, faulty_config

pytestmark = pytest.mark.slow

DATA_RULES = {"ingest_dataset", "shards", "index", "status"}


def with_changes(**changes: Any) -> dict[str, Any]:
    config = copy.deepcopy(faulty_config())
    for place, value in changes.items():
        *sections, key = place.split("__")
        node = config["runs"]["demo_ru"]
        for section in sections:
            node = node.setdefault(section, {})
        node[key] = value
    return config


def test_a_second_run_has_nothing_to_do(finished: WorkingCopy) -> None:
    assert "Nothing to be done" in finished.snakemake(faulty_config(), "--dry-run").output


def test_touching_every_source_file_runs_nothing_again(changed: WorkingCopy) -> None:
    for source in ("Snakefile", "workflow", "config", "envs"):
        for path in [changed.folder / source, *(changed.folder / source).rglob("*")]:
            os.utime(path)
    assert "Nothing to be done" in changed.snakemake(faulty_config(), "--dry-run").output


def test_a_card_setting_renders_the_card_only(finished: WorkingCopy) -> None:
    assert finished.planned(with_changes(card__title="Another title")) == {"card": 1}


def test_a_learning_rate_retrains_and_what_follows(finished: WorkingCopy) -> None:
    planned = finished.planned(with_changes(finetune__learning_rate=1e-4))
    assert {"finetune", "log_probs", "evaluate", "summary", "select", "card"} <= set(planned)
    assert not set(planned) & (DATA_RULES | {"clips", "clips_train", "vocab", "plan", "lm_text", "lm"})


def test_the_save_interval_starts_at_the_plan(finished: WorkingCopy) -> None:
    planned = finished.planned(with_changes(plan__save_steps=2))
    assert {"plan", "finetune"} <= set(planned)
    assert not set(planned) & (DATA_RULES | {"clips", "clips_train", "vocab"})


def test_a_text_rule_starts_at_the_clips_of_the_vocabulary(finished: WorkingCopy) -> None:
    planned = finished.planned(with_changes(text__replace=[{"find": "ё", "replacement": "е"}]))
    assert {"clips_train", "vocab"} <= set(planned)
    assert not set(planned) & DATA_RULES


def test_a_new_evaluation_set_evaluates_only(changed: WorkingCopy) -> None:
    # Training is held against it first, and goes on to hold, since it loses no clip.
    greedy = {"sets": ["demo_ru-dev", "demo_ru-test", "demo_ru-train"], "worst_clips": 2}
    run = changed.snakemake(with_changes(evaluation=greedy))
    assert {"clips", "clips_train", "log_probs", "evaluate", "card"} <= run.executed
    assert heard(run) == {"demo_ru-train"}
    assert not run.executed & (DATA_RULES | {"finetune"})
    found = json.loads((changed.folder / "results/runs/demo_ru/clips/leakage.json").read_text())
    assert found["demo_ru-train"]["audio"]["clips"] > 0
    assert found["demo_ru-train"]["removed"] == 0


def test_a_new_evaluation_set_leaves_the_language_model_alone_if_no_sentence_of_it_was_learned(
    changed: WorkingCopy,
) -> None:
    config = with_changes(evaluation__sets=["demo_ru-dev", "demo_ru-test", "again-test"])
    config["datasets"]["again"] = config["datasets"]["demo_ru"] | {"splits": ["test"], "shards": 1}
    run = changed.snakemake(config)
    assert {"lm_text", "log_probs", "evaluate", "card"} <= run.executed
    assert heard(run) == {"again-test"}
    assert not run.executed & {"lm", "lm_weights", "finetune", "perturb"}


def heard(run: Snakemake) -> set[str]:
    """The sets that a model was run on."""
    return set(re.findall(r"rule log_probs:.*?^ +wildcards: .*?set=([\w-]+)", run.output, re.MULTILINE | re.DOTALL))


def test_an_evaluation_set_that_takes_clips_out_of_training_retrains_and_says_so(changed: WorkingCopy) -> None:
    config = with_changes(
        evaluation__sets=["demo_ru-dev", "demo_ru-test", "again-part"], leakage={"test": {"audio": "remove"}}
    )
    # The same corpus once more, of which a part is scored that is trained on.
    drawn = {"part": {"of": "train", "share": 0.3, "by": "sentence"}}
    config["datasets"]["again"] = config["datasets"]["demo_ru"] | {"splits": ["train"], "shards": 1, "drawn": drawn}
    run = changed.snakemake(config, "results/runs/demo_ru/training.json")
    assert "finetune" in run.executed
    assert re.search(r"again-part: training clips collide with it, .* by audio; \d+ are taken out", run.output)


@pytest.mark.parametrize(
    ("module", "old", "new", "first", "untouched"),
    [
        ("shards", "_ROW_GROUP = 16", "_ROW_GROUP = 8", "shards", {"ingest_dataset"}),
        ("text", '" ".join(', '"  ".join(', "clips_train", DATA_RULES),
        ("batching", "_LEAST_PARTS = 50, 4", "_LEAST_PARTS = 50, 8", "plan", DATA_RULES | {"clips", "vocab"}),
        ("scoring", "samples: int = 1000", "samples: int = 500", "evaluate", DATA_RULES | {"plan", "finetune"}),
        ("log_probs", "_ROW_GROUP = 64", "_ROW_GROUP = 32", "log_probs", DATA_RULES | {"plan", "finetune", "lm"}),
        ("decoders", "_NEVER = -1e5", "_NEVER = -1e6", "lm_weights", DATA_RULES | {"plan", "finetune", "lm"}),
        (
            "plots",
            "figsize=(8, 4.5)",
            "figsize=(8, 5)",
            "card",
            DATA_RULES | {"finetune", "log_probs", "evaluate", "summary", "select"},
        ),
    ],
)
def test_editing_a_module_reruns_the_stages_that_use_it(
    changed: WorkingCopy, module: str, old: str, new: str, first: str, untouched: set[str]
) -> None:
    changed.edit(f"workflow/speechmill/{module}.py", old, new)
    planned = changed.planned(faulty_config())
    assert first in planned
    assert not set(planned) & untouched


def test_a_comment_or_a_docstring_changes_nothing(changed: WorkingCopy) -> None:
    changed.edit("workflow/speechmill/corpus/shards.py", "_ROW_GROUP = 16", "# A remark.\n_ROW_GROUP = 16  # another")
    changed.edit("workflow/speechmill/training/finetune.py", '"""finetune: ', '"""Training. finetune: ')
    assert "Nothing to be done" in changed.snakemake(faulty_config(), "--dry-run").output


def test_a_table_that_is_written_again_unchanged_retrains_nothing(changed: WorkingCopy) -> None:
    run = changed.snakemake(faulty_config(), "--forcerun", "clips_train", "clips")
    assert {"clips_train", "clips"} <= run.executed
    # What follows a forced job runs, up to the checkpoint; there snakemake looks again and finds the digests unchanged.
    assert not run.executed & {"finetune", "log_probs", "evaluate"}


def test_a_corpus_that_was_taken_away_once_it_was_read_changes_nothing(changed: WorkingCopy) -> None:
    (changed.folder / "corpus.tar.gz").unlink()
    assert "Nothing to be done" in changed.snakemake(faulty_config(), "--dry-run").output
