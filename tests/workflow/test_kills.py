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
# The longest time between the start of snakemake and a kill, in seconds.
LONGEST = 16


def kill_one(folder: Path, kind: str, rng: random.Random) -> str:
    """Kill a job, snakemake, or everything that runs in a folder; return what was killed: without a job, snakemake."""
    running = processes(folder)
    jobs = sorted(number for number, name in running.items() if name.startswith("speechmill"))
    if kind == "all":
        kill_all(folder)
    elif kind == "job" and jobs:
        kill([rng.choice(jobs)])
    else:
        kind = "snakemake"
        kill(number for number, name in running.items() if name == kind)
    return kind


def run_with_kills(copy: WorkingCopy, kills: int, rng: random.Random) -> Counter[str]:
    """Run the workflow until it succeeds, with at most `kills` kills; return how many there were of each kind."""
    file, killed = copy.write_config(faulty_config()), Counter[str]()
    output = (copy.folder / "output.txt").open("a")
    while True:
        run = subprocess.Popen(
            ["python", "-m", "snakemake", "--configfile", file, "--cores", "2", "--nocolor"],
            cwd=copy.folder,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        was_killed = False
        if killed.total() < kills:
            try:
                run.wait(rng.uniform(0, LONGEST))
            except subprocess.TimeoutExpired:
                was_killed = True
                killed[kill_one(copy.folder, rng.choice(["job", "snakemake", "all"]), rng)] += 1
        status = run.wait()
        if status == 0:
            output.close()
            # Of snakemake alone: its jobs go on.
            wait_until(lambda: not processes(copy.folder))
            return killed
        assert was_killed, (copy.folder / "output.txt").read_text()[-6000:]
        if list((copy.folder / ".snakemake/locks").glob("*")):
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
        assert [name for name in results if results[name] != expected[name]] == []
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
