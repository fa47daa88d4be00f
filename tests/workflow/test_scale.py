"""A corpus of a million clips and 10,000 hours is planned by its shards; no table of clips is read for it."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from working_copy import Snakemake, WorkingCopy, tiny_config, working_copy

from material import run_measured

pytestmark = pytest.mark.slow

# 1,600 clips, or 16 hours, each.
SHARDS = {"train": 600, "dev": 8, "test": 8}

GIBIBYTE = 1 << 30


@pytest.fixture
def large(tmp_path: Path) -> WorkingCopy:
    """A working copy with a corpus that nobody has read yet."""
    copy = working_copy(tmp_path)
    (copy.folder / "corpus.tar.gz").write_bytes(b"a corpus")
    return copy


def large_config() -> dict[str, Any]:
    config = tiny_config("corpus.tar.gz")
    del config["speak"]
    config["datasets"]["demo_ru"]["shards"] = SHARDS
    return config


def planned(copy: WorkingCopy) -> tuple[Snakemake, int]:
    """A dry run of the whole workflow, and the most bytes that it had in memory."""
    (copy.folder / "test.yaml").write_text(yaml.safe_dump(large_config(), allow_unicode=True), encoding="utf-8")
    command = [sys.executable, "-m", "snakemake", "--configfile", "test.yaml", "--dry-run", "--nocolor"]
    done, memory = run_measured(command, cwd=copy.folder, stderr=subprocess.STDOUT)
    return Snakemake(done.returncode, done.stdout), memory


def test_a_million_clips_are_planned_as_a_job_a_shard_in_less_than_a_gibibyte(large: WorkingCopy) -> None:
    run, memory = planned(large)
    assert run.returncode == 0, run.output[-3000:]
    assert run.jobs["shards"] == sum(SHARDS.values())
    # All else does not grow with the corpus.
    assert sum(run.jobs.values()) < sum(SHARDS.values()) + 50
    assert memory < GIBIBYTE


def test_no_table_of_clips_is_read_to_plan_what_follows_the_shards(large: WorkingCopy) -> None:
    (large.folder / "results/raw/demo_ru").mkdir(parents=True)
    for split, count in SHARDS.items():
        folder = large.folder / "results/data/demo_ru" / split
        folder.mkdir(parents=True)
        names = [f"{kind}-{number:05d}.parquet" for number in range(count) for kind in ("shard", "rows")]
        for name in [*names, "index.parquet"]:
            (folder / name).write_text("no table")
    run, _ = planned(large)
    assert run.returncode == 0, run.output[-3000:]
    assert "shards" not in run.jobs
    assert {"clips", "clips_train", "finetune", "card"} <= set(run.jobs)
