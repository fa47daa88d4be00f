"""Training as the workflow runs it: a signal that ends it, and only the best of its checkpoints."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from working_copy import PROGRAMS, WorkingCopy, faulty_config, working_copy

from speechmill.core.tables import write_json

pytestmark = pytest.mark.slow

RUN = Path("results/runs/demo_ru")

# Without a language model, whose weights are of dev and of the checkpoints that there are.
GREEDY = {"sets": ["demo_ru-dev", "demo_ru-test"], "worst_clips": 0}

# Signals all that a cluster's time limit does: snakemake, the shell and tee as well.
SIGNALLED = """
import os, signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.killpg(0, signal.SIGTERM)
print("the state is saved", flush=True)
sys.exit(75)
"""


def test_a_signal_to_all_processes_lets_training_save_and_leave_with_its_own_status(tmp_path: Path) -> None:
    copy = working_copy(tmp_path)
    (copy.folder / "workflow/speechmill/training/finetune.py").write_text(SIGNALLED)
    inputs = [RUN / "clips" / f"{role}.{kind}" for role in ("train", "dev") for kind in ("parquet", "sha256")]
    inputs += [RUN / "plan.sha256"]
    inputs += [RUN / "vocab" / f"{name}.json" for name in ("vocab", "tokenizer_config", "processor_config")]
    shards = {"train": 4, "dev": 1, "test": 1}
    inputs += [Path(f"results/data/demo_ru/{s}/shard-{i:05d}.parquet") for s, n in shards.items() for i in range(n)]
    for path in inputs:
        (copy.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (copy.folder / path).touch()
    write_json({"parameters": 1, "memory_bytes": 1}, copy.folder / RUN / "plan.json")
    run = subprocess.run(
        [sys.executable, "-m", "snakemake", RUN / "training.json", "--allowed-rules", "finetune", "--cores", "1"],
        cwd=copy.folder,
        env=os.environ | {"PATH": f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        start_new_session=True,
    )
    assert run.returncode == 1, run.stderr
    assert "exit status 75" in run.stderr
    assert "the state is saved" in (copy.folder / "logs/finetune/demo_ru.log").read_text()


def test_only_the_best_checkpoints_are_kept_and_scored_and_all_have_a_row_in_the_card(changed: WorkingCopy) -> None:
    config = faulty_config()
    config["runs"]["demo_ru"] |= {"checkpoints": {"best": 1}, "evaluation": GREEDY}
    run = changed.snakemake(config)
    assert {"finetune", "log_probs", "evaluate", "card"} <= run.executed
    folder = changed.folder / RUN
    planned = json.loads((folder / "plan.json").read_text())["checkpoints"]
    assert len(planned) > 1
    (kept,) = json.loads((folder / "training.json").read_text())["kept"]
    assert kept in planned
    assert [path.name for path in (folder / "checkpoints").glob("checkpoint-*")] == [f"checkpoint-{kept}"]
    summary = pd.read_parquet(folder / "evaluation" / "summary.parquet")
    assert sorted(zip(summary["step"], summary["set"], strict=True)) == [
        (kept, "demo_ru-dev"),
        (kept, "demo_ru-test"),
    ]
    assert json.loads((folder / "selection.json").read_text())["step"] == kept
    table = (folder / "model/README.md").read_text().split("### Training results")[1].split("###")[0]
    rows = [[cell.strip() for cell in line.split("|")] for line in table.splitlines() if line.startswith("| ")][1:]
    assert [int(row[3]) for row in rows] == planned
    assert [int(row[3]) for row in rows if "†" not in row[5]] == [kept]
    assert "Nothing to be done" in changed.snakemake(config, "--dry-run").output


def test_what_changes_no_weights_is_no_reason_to_train_again(changed: WorkingCopy) -> None:
    config = faulty_config()
    run = config["runs"]["demo_ru"]
    run |= {"dev": "demo_ru-test", "gpu_memory_gib": 40, "checkpoints": {"dev_clips": 3}, "evaluation": GREEDY}
    run["finetune"] |= {"workers": 1, "gradient_checkpointing": False}
    made = changed.snakemake(config)
    assert {"plan", "select", "card"} <= made.executed
    assert not made.executed & {"finetune", "log_probs", "evaluate"}
