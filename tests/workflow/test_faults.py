"""Faults of an entire run: a killed node, and two runs in one folder."""

import os
import signal
import subprocess
from pathlib import Path

import pytest
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
