"""A corpus of a million clips and 10,000 hours: planning depends on its shards and reads no table of clips."""

import subprocess
from pathlib import Path

import pytest
from working_copy import PROGRAMS, SnakemakeRun, WorkingCopy, tiny_config, working_copy

from material import run_measured

pytestmark = pytest.mark.slow

# Each of 1,600 clips, or 16 hours.
SHARDS = {"train": 600, "dev": 8, "test": 8}

GIBIBYTE = 1 << 30


@pytest.fixture
def copy(tmp_path: Path) -> WorkingCopy:
    """A working copy with a corpus that has not been ingested."""
    copy = working_copy(tmp_path)
    (copy.folder / "corpus.tar.gz").write_bytes(b"a corpus")
    return copy


def test_million_clips_plan_in_less_than_a_gibibyte(copy: WorkingCopy) -> None:
    config = tiny_config("corpus.tar.gz")
    config["datasets"]["demo_ru"]["shards"] = SHARDS
    command = [f"{PROGRAMS}/snakemake", "--configfile", copy.write_config(config), "--dry-run", "--nocolor"]
    done, memory = run_measured(command, cwd=copy.folder, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout[-3000:]
    jobs = SnakemakeRun(done.returncode, done.stdout).jobs
    assert jobs["shards"] == sum(SHARDS.values())
    # The number of other jobs does not depend on the size of the corpus.
    assert sum(jobs.values()) < sum(SHARDS.values()) + 50
    assert memory < GIBIBYTE


def test_planning_reads_no_table_of_clips(copy: WorkingCopy) -> None:
    config = tiny_config("corpus.tar.gz")
    (copy.folder / "results/raw/demo_ru").mkdir(parents=True)
    for split, count in config["datasets"]["demo_ru"]["shards"].items():
        folder = copy.folder / "results/data/demo_ru" / split
        folder.mkdir(parents=True)
        names = [f"{kind}-{number:05d}.parquet" for number in range(count) for kind in ("shard", "rows")]
        for name in [*names, "index.parquet"]:
            (folder / name).write_text("not a table")
    jobs = copy.planned(config)
    assert "shards" not in jobs
    assert {"clips", "clips_train", "finetune", "card"} <= set(jobs)
