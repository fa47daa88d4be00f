"""Training as the workflow runs it: a signal that stops it, and the selection of checkpoints to keep."""

import os
import re
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from working_copy import PROGRAMS, WorkingCopy, faulty_config, working_copy

from speechmill.core.files import write_json

pytestmark = pytest.mark.slow

RUN = Path("results/runs/demo_ru")

# Signals all processes of the job, as a cluster does at its time limit: snakemake, the shell and tee as well.
SIGNALLED = """
import os, signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.killpg(0, signal.SIGTERM)
print("the state is saved", flush=True)
sys.exit(75)
"""


def test_signal_lets_training_save_and_exit_with_75(tmp_path: Path) -> None:
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
        [f"{PROGRAMS}/snakemake", RUN / "training.json", "--allowed-rules", "finetune", "--cores", "1"],
        cwd=copy.folder,
        env=os.environ,
        capture_output=True,
        text=True,
        start_new_session=True,
    )
    assert run.returncode == 1, run.stderr
    assert "exit status 75" in run.stderr
    assert "the state is saved" in (copy.folder / "logs/finetune/demo_ru.log").read_text()


def test_mean_of_checkpoints_is_scored_and_selected_without_training(changed: WorkingCopy) -> None:
    config = faulty_config()
    config["runs"]["demo_ru"]["select"] = {"average": 2}
    executed = changed.snakemake(config).executed
    assert {"average", "log_probs", "evaluate", "select", "card"} <= executed
    assert not {"finetune", "lm_weights"} & executed
    folder = changed.folder / RUN
    average = changed.read_json(RUN / "selection.json")["average"]
    assert average["steps"] == changed.read_json(RUN / "average.json")["averaged"]
    summary = pd.read_parquet(folder / "evaluation/summary.parquet")
    means = summary[summary["averaged"] == " ".join(map(str, average["steps"]))]
    assert {"demo_ru-dev", "demo_ru-test"} <= set(means["set"])
    assert set(means["decoder"]) == {"greedy", "lm"}
    deciding = summary[(summary["set"] == "demo_ru-dev") & (summary["decoder"] == "greedy")]
    ranks = [(row.averaged == "", (row.wer, row.cer, row.loss)) for row in deciding.itertuples()]
    (mean,), singles = ([rank for single, rank in ranks if single is which] for which in (False, True))
    assert average["selected"] == (mean < min(singles))
    source = folder / "average" if average["selected"] else folder / f"checkpoints/checkpoint-{average['single']}"
    assert (folder / "model/model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()
    steps = ", ".join(map(str, average["steps"]))
    assert f"The mean of the weights of the checkpoints at steps {steps} is" in (folder / "model/README.md").read_text()
    assert "DIFFERS" not in changed.snakemake(config, "verify").output
    assert changed.planned(config) == {}


@pytest.fixture(scope="module")
def best(finished: WorkingCopy, tmp_path_factory: pytest.TempPathFactory) -> tuple[WorkingCopy, str]:
    """A copy of `finished` that has trained again, and the output of snakemake.

    Only the best checkpoint is kept. The same corpus is another dataset, of which a part is scored: its clips are
    removed from training.
    """
    copy = finished.copy(tmp_path_factory.mktemp("best") / "copy")
    run = copy.snakemake(best_config())
    assert {"clips_train", "finetune", "log_probs", "evaluate", "card"} <= run.executed
    return copy, run.output


def best_config() -> dict[str, object]:
    config = faulty_config()
    part = {"of": "train", "share": 0.3, "by": "sentence"}
    config["datasets"]["again"] = config["datasets"]["demo_ru"] | {
        "splits": ["train"],
        "shards": 1,
        "drawn": {"part": part},
    }
    config["runs"]["demo_ru"] |= {
        "checkpoints": {"best": 1},
        # Greedy, so that all checkpoints have one score.
        "evaluation": {"sets": ["demo_ru-dev", "demo_ru-test", "again-part"], "worst_clips": 0},
        "leakage": {"test": {"audio": "remove"}},
    }
    return config


def test_set_that_removes_training_clips_trains_again(best: tuple[WorkingCopy, str]) -> None:
    _, output = best
    assert re.search(r"again-part: training clips collide with it, .* by audio; \d+ are removed", output)


def test_only_the_best_checkpoint_is_kept_and_scored(best: tuple[WorkingCopy, str]) -> None:
    copy, _ = best
    planned = copy.read_json(RUN / "plan.json")["checkpoints"]
    assert len(planned) > 1
    (kept,) = copy.read_json(RUN / "training.json")["kept"]
    assert kept in planned
    folder = copy.folder / RUN
    assert [path.name for path in (folder / "checkpoints").glob("checkpoint-*")] == [f"checkpoint-{kept}"]
    summary = pd.read_parquet(folder / "evaluation" / "summary.parquet")
    assert sorted(zip(summary["step"], summary["set"], strict=True)) == [
        (kept, "again-part"),
        (kept, "demo_ru-dev"),
        (kept, "demo_ru-test"),
    ]
    assert copy.read_json(RUN / "selection.json")["step"] == kept
    assert copy.planned(best_config()) == {}


def test_card_has_a_row_for_every_checkpoint(best: tuple[WorkingCopy, str]) -> None:
    copy, _ = best
    planned = copy.read_json(RUN / "plan.json")["checkpoints"]
    kept = copy.read_json(RUN / "training.json")["kept"]
    table = (copy.folder / RUN / "model/README.md").read_text().split("### Training results")[1].split("###")[0]
    rows = [[cell.strip() for cell in line.split("|")] for line in table.splitlines() if line.startswith("| ")][1:]
    assert [int(row[3]) for row in rows] == planned
    assert [int(row[3]) for row in rows if "†" not in row[5]] == kept
