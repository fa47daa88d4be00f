"""Kills at random moments of all stages: of a job, of Snakemake alone, and of all processes, as when a node is lost.

SPEECHMILL_KILLS is their number; a hundred take about 20 minutes on two cores. SPEECHMILL_KILLS_SEED gives another
sequence.
"""

import os
import random
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from processes import kill, kill_all, processes
from servers import wait_until
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from working_copy import WorkingCopy, faulty_config, working_copy

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("SPEECHMILL_KILLS", "3"))
SEED = int(os.environ.get("SPEECHMILL_KILLS_SEED", "1"))
# A kill comes within this time, in seconds, after snakemake or its first job has started.
LONGEST = 8


def jobs(folder: Path) -> list[int]:
    """Return the numbers of the processes of jobs that run in a folder."""
    return sorted(number for number, name in processes(folder).items() if name.startswith("speechmill"))


def runs_until_kill(run: subprocess.Popen[bytes], folder: Path, rng: random.Random) -> bool:
    """Wait for a random moment, mostly after the start of a job; return whether snakemake is still running."""
    if rng.random() < 0.75:
        wait_until(lambda: run.poll() is not None or bool(jobs(folder)))
    try:
        run.wait(rng.uniform(0, LONGEST))
    except subprocess.TimeoutExpired:
        return True
    return False


def kill_one(folder: Path, rng: random.Random) -> str:
    """Kill a job, snakemake, or everything that runs in a folder; return which. If there is no job, snakemake."""
    kind, running = rng.choice(["job", "snakemake", "all"]), jobs(folder)
    if kind == "all":
        kill_all(folder)
    elif kind == "job" and running:
        kill([rng.choice(running)])
    else:
        kind = "snakemake"
        kill(number for number, name in processes(folder).items() if name == kind)
    return kind


def run_with_kills(copy: WorkingCopy, kills: int, rng: random.Random) -> Counter[str]:
    """Run the workflow until it succeeds, with at most `kills` kills; return how many there were of each kind."""
    file, killed = copy.write_config(faulty_config()), Counter[str]()
    output = copy.folder / "output.txt"
    while True:
        with output.open("a") as shown:
            run = subprocess.Popen(
                ["python", "-m", "snakemake", "--configfile", file, "--cores", "2", "--nocolor"],
                cwd=copy.folder,
                stdout=shown,
                stderr=subprocess.STDOUT,
            )
        is_killed = killed.total() < kills and runs_until_kill(run, copy.folder, rng)
        if is_killed:
            killed[kill_one(copy.folder, rng)] += 1
        if run.wait() == 0:
            # Where snakemake alone was killed, its jobs may still run.
            wait_until(lambda: not processes(copy.folder))
            return killed
        assert is_killed, output.read_text()[-6000:]
        if list((copy.folder / ".snakemake" / "locks").glob("*")):
            copy.snakemake(faulty_config(), "--unlock")


def trained_steps(copy: WorkingCopy) -> list[list[int]]:
    """Return the steps that each session of the training has trained, from its TensorBoard files."""
    files = sorted((copy.folder / "work/demo_ru/tensorboard").glob("*/events*"), key=lambda file: file.stat().st_mtime)
    sessions = [
        [event.step for event in EventFileLoader(str(file)).Load() if any(v.tag == "loss" for v in event.summary.value)]
        for file in files
    ]
    return [steps for steps in sessions if steps]


def test_random_kills_lose_nothing(finished: WorkingCopy, tmp_path: Path) -> None:
    rng, killed, expected = random.Random(SEED), Counter[str](), finished.results()
    while killed.total() < KILLS:
        copy = working_copy(tmp_path / f"{killed.total()}")
        shutil.copy2(finished.folder / "corpus.tar.gz", copy.folder)
        killed += run_with_kills(copy, KILLS - killed.total(), rng)
        print(dict(killed))
        results = copy.results()
        assert results.keys() == expected.keys()
        assert [name for name in expected if results[name] != expected[name]] == []
        saved, last = copy.read_json("results/runs/demo_ru/plan.json")["checkpoints"], 0
        sessions = trained_steps(copy)
        for steps in sessions:
            # What was saved before the last step of the session before is not trained again.
            assert steps[0] > max((step for step in saved if step < last), default=0)
            last = steps[-1]
        assert last == saved[-1]
        assert list((copy.folder / "work/demo_ru").glob("*/checkpoint-*")) == []
        assert list((copy.folder / "work/demo_ru").glob("finished-*")) == []
        shutil.rmtree(copy.folder)
