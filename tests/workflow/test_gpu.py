"""All checks on a GPU, on a CPU with tiny models, so that nothing but the GPU is new where there is one."""

import os
import subprocess
from pathlib import Path

import pytest
from working_copy import REPOSITORY, WorkingCopy, faulty_config

from gpu.checks import CHECKS
from gpu.commands import before_training, record
from gpu.results import read

pytestmark = pytest.mark.slow


def test_all_checks_pass_on_a_cpu(changed: WorkingCopy, tmp_path: Path) -> None:
    config = faulty_config()
    section = config["runs"]["demo_ru"]
    # Long enough for a kill after the first saved state.
    section["plan"] |= {"epochs": 40, "save_steps": 40}
    config["runs"]["other"] = section | {"evaluation": {"sets": ["demo_ru-dev"], "decoders": ["greedy"]}}
    changed.snakemake(config, *before_training(config["runs"]))
    kit = tmp_path / "kit"
    kit.mkdir()
    record(changed.folder, config, kit)

    run = subprocess.run(
        [REPOSITORY / "tests/gpu/run.sh", tmp_path / "out", "--small"],
        env=os.environ | {"KIT": str(kit), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )

    assert run.returncode == 0, run.stdout
    lines = read(tmp_path / "out" / "results.jsonl")
    assert {line["step"]: line["outcome"] for line in lines if "outcome" in line} == {c.name: "ok" for c in CHECKS}
    (training,) = [line["values"] for line in lines if line.get("name") == "training"]
    assert training["sessions"] == 2
    (verify,) = [line["values"]["output"] for line in lines if line.get("name") == "verify"]
    assert "DIFFERS" not in "".join(verify)
