"""Faults of a whole run: kills, two runs in one folder, a clock that jumps backwards."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from working_copy import PROGRAMS, WorkingCopy, faulty_config

pytestmark = pytest.mark.slow

AUDIT = Path("results/data/demo_ru/audit.json")

# Leaves half of what it makes, says that it is at work, and never ends.
HANGING = """
import sys
with open(sys.argv[sys.argv.index("--audit") + 1], "w") as audit:
    audit.write("half")
with open({at_work!r}, "w"):
    pass
with open({never!r}):
    pass
"""


def test_a_node_that_dies_under_a_run_costs_one_unlock_and_another_run_beside_it_is_refused(
    changed: WorkingCopy, tmp_path: Path
) -> None:
    at_work, never = tmp_path / "at work", tmp_path / "never"
    os.mkfifo(at_work)
    os.mkfifo(never)
    module, audit = changed.folder / "workflow/speechmill/corpus/audit.py", (changed.folder / AUDIT).read_bytes()
    code = module.read_text()
    module.write_text(HANGING.format(at_work=str(at_work), never=str(never)))
    # With a plain Python, whose jobs are in one group of processes with it.
    run = subprocess.Popen(
        [sys.executable, "-m", "snakemake", "--configfile", "test.yaml", "--cores", "2"],
        cwd=changed.folder,
        env=os.environ | {"PATH": f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    # Waits until the job is at work.
    at_work.read_bytes()
    assert (changed.folder / AUDIT).read_text() == "half"
    second = changed.snakemake(faulty_config(), check=False)
    assert second.returncode != 0
    assert "Directory cannot be locked" in second.output
    os.killpg(run.pid, signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL
    module.write_text(code)

    refused = changed.snakemake(faulty_config(), check=False)
    assert refused.returncode != 0
    assert "It can be removed with the --unlock argument" in refused.output
    changed.snakemake(faulty_config(), "--unlock")
    again = changed.snakemake(faulty_config())
    assert again.executed == {"audit", "all"}
    assert (changed.folder / AUDIT).read_bytes() == audit


def test_a_clock_that_jumps_backwards_makes_nothing_train_again(changed: WorkingCopy) -> None:
    results = [changed.folder / "results", *(changed.folder / "results").rglob("*")]
    times = [path.lstat().st_mtime_ns for path in results]
    # What was made first seems to have been made last.
    for path, time in zip(results, times, strict=True):
        os.utime(path, ns=(max(times) + min(times) - time,) * 2, follow_symlinks=False)
    planned = changed.snakemake(faulty_config(), "--dry-run").output
    jobs = re.findall(r"^(?:local)?(?:rule|checkpoint) (\w+):$(.*?)^$", planned, re.MULTILINE | re.DOTALL)
    moved = {rule for rule, about in jobs if "Updated input files" in about}
    # Folders are known by their time alone; of all else the contents decide.
    assert moved <= {"shards", "log_probs", "select"}
