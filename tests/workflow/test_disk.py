"""What lies on the disk at once while checkpoints are scored: rules are real, the programs are stand-ins."""

from pathlib import Path

import pytest
from working_copy import SnakemakeRun, WorkingCopy, tiny_config, working_copy

from speechmill.core.files import write_json
from speechmill.dag.paths import LM_FILES

pytestmark = pytest.mark.slow

STEPS, SETS = list(range(1, 7)), ("demo_ru-dev", "demo_ru-test")
EVALUATION = "results/runs/demo_ru/evaluation"

# Replaces every stage: writes its outputs, of which those with log-probabilities take a megabyte, and records how many
# megabytes of them lie on the disk.
STAND_IN = """
import argparse, json, sys
from pathlib import Path

parser = argparse.ArgumentParser(allow_abbrev=False)
for name in ("--runtime-settings", "--ctc-outputs", "--decoder"):
    parser.add_argument(name)
outputs = ("--metrics", "--hypotheses", "--summary", "--tuning-checkpoint", "--weights", "--surface")
for name in outputs:
    parser.add_argument(name, nargs="*", default=[])
args, _ = parser.parse_known_args()
if args.runtime_settings:
    keep = json.loads(args.runtime_settings)["keep_log_probs"]
    Path(args.ctc_outputs).write_bytes(bytes(1_000_000 if keep else 1))
for name in outputs:
    for file in getattr(args, name[2:].replace("-", "_")):
        if not Path(file).exists():
            Path(file).write_text(json.dumps({"step": 1}))
found = sum(file.stat().st_size // 1_000_000 for file in Path("results").rglob("*.parquet"))
with Path("megabytes").open("a") as file:
    file.write(f"{found}\\n")
if args.decoder == "lm" and Path("fail").exists():
    sys.exit("refused")
"""


@pytest.fixture
def copy(tmp_path: Path) -> WorkingCopy:
    """A trained run whose checkpoints are to be scored by both decoders."""
    copy = working_copy(tmp_path / "copy")
    stages = ["inference/log_probs", "inference/evaluate", "lm/select_tuning_checkpoint", "lm/lm_weights"]
    for module in [*stages, "scoring/summary"]:
        (copy.folder / f"workflow/speechmill/{module}.py").write_text(STAND_IN)
    run = copy.folder / "results/runs/demo_ru"
    data = [f"results/data/demo_ru/{split}/shard-00000.parquet" for split in ("train", "dev", "test")]
    made = [
        "corpus.tar.gz",
        "results/data/demo_ru/status.json",
        *data,
        "results/data/demo_ru/train/shard-00001.parquet",
    ]
    roles = [f"clips/{role}.{kind}" for role in ("train", "dev", *SETS) for kind in ("parquet", "sha256")]
    of_plan = [
        "clips/train.json",
        "clips/leakage.json",
        "vocab/vocab.json",
        "lm/text.sha256",
        "plan.sha256",
        "plan.txt",
    ]
    of_run = [*roles, *of_plan, "training.jsonl", *(f"lm/{file}" for file in LM_FILES)]
    # What the plan reads is older than the plan.
    for name in SETS:
        write_json({"unavailable": None}, run / f"clips/{name}.json")
    for file in [*made, *(f"results/runs/demo_ru/{file}" for file in of_run)]:
        (copy.folder / file).parent.mkdir(parents=True, exist_ok=True)
        (copy.folder / file).touch()
    write_json({"parameters": 1, "memory_bytes": 1, "checkpoints": STEPS}, run / "plan.json")
    write_json({}, run / "training.json")
    (run / "checkpoints").mkdir()
    return copy


def score(copy: WorkingCopy, *options: str, check: bool = True) -> SnakemakeRun:
    """Score all checkpoints."""
    config = tiny_config("corpus.tar.gz")
    config["runs"]["demo_ru"]["evaluation"] |= {"sets": list(SETS), "robustness": None}
    rules = ["plan", "log_probs", "evaluate", "select_tuning_checkpoint", "lm_weights", "steps"]
    return copy.snakemake(config, f"{EVALUATION}/steps.parquet", *options, "--allowed-rules", *rules, check=check)


def lying(copy: WorkingCopy) -> list[Path]:
    """Return the temporary files of the evaluation."""
    return [
        file for kind in ("ctc_outputs", "log_probs") for file in (copy.folder / EVALUATION).rglob(f"{kind}.parquet")
    ]


def test_log_probs_of_one_checkpoint_at_a_time_lie_on_the_disk(copy: WorkingCopy) -> None:
    (copy.folder / "fail").touch()
    assert score(copy, check=False).returncode != 0
    # The next run reads it.
    (kept,) = lying(copy)
    (copy.folder / "fail").unlink()
    assert f"output: {kept.relative_to(copy.folder)}" not in score(copy).output
    assert lying(copy) == []
    # On two cores, one forward pass or beam search runs at a time.
    assert max(map(int, (copy.folder / "megabytes").read_text().split())) == 1
