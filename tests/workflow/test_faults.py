"""Faults of an entire run: a killed node, and two runs in one folder."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from processes import kill_all
from working_copy import PROGRAMS, WorkingCopy, faulty_config

pytestmark = pytest.mark.slow

AUDIT = Path("results/data/demo_ru/audit.json")

# Writes half of its output, reports that it is running, and never ends.
HANGING = """
import sys
with open(sys.argv[sys.argv.index("--audit") + 1], "w") as audit:
    audit.write("half")
with open({running!r}, "w"):
    pass
with open({never!r}):
    pass
"""


# Trains, and loses an output.
INCOMPLETE = """
import os, sys
from speechmill.core.command import run_command
from speechmill.training import finetune_as_it_is
run_command(finetune_as_it_is.main)
os.unlink(sys.argv[sys.argv.index("--log") + 1])
"""

# Waits for a kill when all outputs are written.
COMPLETE = """
from speechmill.core.command import run_command
from speechmill.training import finetune_as_it_is
run_command(finetune_as_it_is.main)
with open({running!r}, "w"):
    pass
with open({never!r}):
    pass
"""


def test_training_is_not_repeated_when_its_outputs_are_deleted(changed: WorkingCopy, tmp_path: Path) -> None:
    running, never = tmp_path / "running", tmp_path / "never"
    os.mkfifo(running)
    os.mkfifo(never)
    config, target = faulty_config(), "results/runs/demo_ru/training.json"
    config["runs"]["demo_ru"]["finetune"]["weight_decay"] = 0.02
    module = changed.folder / "workflow/speechmill/training/finetune.py"
    shutil.copy(module, module.with_name("finetune_as_it_is.py"))
    code = module.read_text()
    module.write_text(INCOMPLETE)
    failed = changed.snakemake(config, target, "--latency-wait", "0", check=False)
    assert failed.returncode != 0
    assert "Removing output files of failed job finetune" in failed.output
    assert not (changed.folder / target).exists()

    module.write_text(COMPLETE.format(running=str(running), never=str(never)))
    run = subprocess.Popen(
        ["python", "-m", "snakemake", "--configfile", changed.write_config(config), "--cores", "2", target],
        cwd=changed.folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    # Blocks until training has ended.
    running.read_bytes()
    results = [changed.folder / "results/runs/demo_ru" / name for name in ("training.json", "training.jsonl")]
    (finished,) = (changed.folder / "work/demo_ru").glob("finished-*")
    expected = [(finished / path.name).read_bytes() for path in results]
    assert [path.read_bytes() for path in results] == expected
    kill_all(changed.folder)
    run.wait()
    module.write_text(code)

    # The clock is set back: Snakemake deletes outputs that are older than an input.
    future = time.time() + 7200
    for path in (changed.folder / "results/runs/demo_ru").rglob("*"):
        os.utime(path, (future, future))
    changed.snakemake(config, "--unlock")
    resumed = changed.snakemake(config, target)
    assert resumed.executed == {"finetune"}
    assert "training has finished: its results are taken from work/demo_ru/finished-" in resumed.output
    assert [path.read_bytes() for path in results] == expected
    assert changed.planned(config, target) == {}


def test_killed_run_needs_one_unlock_and_excludes_others(changed: WorkingCopy, tmp_path: Path) -> None:
    running, never = tmp_path / "running", tmp_path / "never"
    os.mkfifo(running)
    os.mkfifo(never)
    module, audit = changed.folder / "workflow/speechmill/corpus/audit.py", (changed.folder / AUDIT).read_bytes()
    code = module.read_text()
    module.write_text(HANGING.format(running=str(running), never=str(never)))
    changed.raise_version("audit")
    # Without the fork server: snakemake and its jobs are one group of processes.
    run = subprocess.Popen(
        [f"{PROGRAMS}/snakemake", "--configfile", changed.write_config(faulty_config()), "--cores", "2"],
        cwd=changed.folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    # Blocks until the job is running.
    running.read_bytes()
    assert (changed.folder / AUDIT).read_text() == "half"
    second = changed.snakemake(faulty_config(), check=False)
    assert second.returncode != 0
    assert "Directory cannot be locked" in second.output
    os.killpg(run.pid, signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL
    # Snakemake can also be killed before it deletes a temporary file.
    temporary = changed.folder / "results/runs/demo_ru/evaluation/3/demo_ru-test/log_probs.parquet"
    temporary.touch()
    os.utime(temporary, (0, 0))
    module.write_text(code)

    refused = changed.snakemake(faulty_config(), check=False)
    assert refused.returncode != 0
    assert "It can be removed with the --unlock argument" in refused.output
    changed.snakemake(faulty_config(), "--unlock")
    resumed = changed.snakemake(faulty_config())
    assert resumed.executed == {"audit", "all"}
    assert (changed.folder / AUDIT).read_bytes() == audit
    assert not temporary.exists()
