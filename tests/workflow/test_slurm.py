"""The demo in miniature on a Slurm of two nodes: GPUs, a time limit in mid-training, a node that is lost."""

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from servers import until
from slurm_cluster import NODES, SlurmCluster, control, slurm_cluster
from working_copy import PROGRAMS, WorkingCopy, tiny_config, working_copy

pytestmark = pytest.mark.slow

RUN = Path("results/runs/demo_ru")
PROFILE = "workflow/profiles/slurm"
# What results say of how long something took.
TIMES = {
    "wall_seconds", "forward_seconds", "decoding_seconds", "sessions", "audio_seconds_per_second", "mfu",
}  # fmt: skip
# Of this cluster, which has no accounting; and all usage of shared disks but that of software, so that a job starts the
# `python` that is on PATH.
OPTIONS = [
    "--slurm-no-account", "--slurm-status-command=squeue",
    "--shared-fs-usage", "persistence", "input-output", "sources", "source-cache", "storage-local-copies",
]  # fmt: skip
# The plugin asks Slurm ever less often how jobs do; a run of short ones would be most of all a wait for that.
_SNAKEMAKE = """
from snakemake.cli import main
from snakemake_executor_plugin_slurm import Executor
Executor.next_seconds_between_status_checks = property(lambda self: 2, lambda self, seconds: None)
main()
"""

# Notes who calls, and with which devices. Training, like the Snakemake of its step, is a child of Slurm's own, which
# gets Slurm's signals.
_PYTHON = """\
#!/bin/sh
echo "$2 ${{SLURM_JOB_ID-}} ${{SLURMD_NODENAME-}} $$ ${{CUDA_VISIBLE_DEVICES-}}" >> {calls}
case "$2" in speechmill.training.finetune) exec {plain} "$@";; *) exec {warm} "$@";; esac
"""


@dataclass(frozen=True)
class Call:
    """A stage that a job has started."""

    stage: str
    job: str
    node: str
    process: int
    devices: str


@dataclass(frozen=True)
class Runs:
    """A run on this machine, and the same on the cluster, which has met both faults."""

    local: WorkingCopy
    slurm: WorkingCopy
    calls: list[Call]
    limited: str
    """The job of the training that came to its time limit."""
    lost: set[str]
    """The jobs that ran on the node when it was lost."""


def calls(folder: Path) -> list[Call]:
    lines = (folder / "calls").read_text().splitlines() if (folder / "calls").is_file() else []
    rows = [line.split(" ") for line in lines if line.startswith("speechmill.")]
    return [Call(stage.removeprefix("speechmill."), job, node, int(pid), gpu) for stage, job, node, pid, gpu in rows]


def limit_in_training(folder: Path, over: Callable[[], bool]) -> str:
    """Let the training come to its time limit, of which the profile has Slurm warn it; returns its job."""
    until(lambda: any(len(log.read_text().splitlines()) >= 2 for log in folder.glob("work/*/*/training.jsonl")), over)
    (training,) = [call for call in calls(folder) if call.stage == "finetune"]
    # It is held in mid-training, for Slurm looks at time limits twice a minute; with its signal it lets it go.
    os.kill(training.process, signal.SIGSTOP)
    end = datetime.now() + timedelta(minutes=5)
    control("scontrol", "update", f"JobId={training.job}", f"EndTime={end:%Y-%m-%dT%H:%M:%S}")
    return training.job


def lose_in_evaluation(folder: Path, cluster: SlurmCluster, over: Callable[[], bool]) -> set[str]:
    """Take a node down while checkpoints are evaluated on both; returns the jobs that ran there."""
    until(lambda: {call.node for call in calls(folder) if call.stage == "log_probs"} == set(NODES), over)
    lost = cluster.running("n2")
    cluster.lose("n2")
    return lost


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    with slurm_cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, spoken_archive: Path, cluster: SlurmCluster) -> Runs:
    config = tiny_config("corpus.tar.gz")
    del config["speak"]
    config["datasets"]["demo_ru"]["shards"] = {"train": 1, "dev": 1, "test": 1}
    run = config["runs"]["demo_ru"]
    run["device"] = "auto"
    # Steps enough to be stopped between, and two checkpoints of two sets: a pass for each GPU.
    run["plan"] |= {"epochs": 4, "save_steps": 6}
    run["evaluation"] = {"sets": ["demo_ru-dev", "demo_ru-test"], "worst_clips": 0}
    local, slurm = (working_copy(tmp_path_factory.mktemp(name)) for name in ("local", "slurm"))
    for copy in (local, slurm):
        shutil.copy2(spoken_archive, copy.folder / "corpus.tar.gz")
    # What a site's users set, for both rules that want a GPU.
    for _ in ("finetune", "log_probs"):
        slurm.edit(f"{PROFILE}/config.yaml", "# slurm_partition: gpu", "slurm_partition: main")
        slurm.edit(f"{PROFILE}/config.yaml", "# gpu_model: a100", "gpu_model: standin")
    python = slurm.folder / "bin" / "python"
    python.parent.mkdir()
    python.write_text(
        _PYTHON.format(calls=slurm.folder / "calls", plain=f"{PROGRAMS}/python", warm=shutil.which("python"))
    )
    python.chmod(0o755)

    # At the same time: while one waits until Slurm is asked again, the other runs.
    with ThreadPoolExecutor() as pool:
        ran = pool.submit(on_slurm, slurm, config, f"{python.parent}{os.pathsep}{os.environ['PATH']}")
        peer = pool.submit(local.snakemake, config)
        limited = limit_in_training(slurm.folder, ran.done)
        lost = lose_in_evaluation(slurm.folder, cluster, ran.done)
        peer.result()
        ran.result()
        return Runs(local, slurm, calls(slurm.folder), limited, lost)


def on_slurm(copy: WorkingCopy, config: dict[str, Any], path: str) -> None:
    """Run the workflow through the cluster."""
    (copy.folder / "test.yaml").write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8")
    run = subprocess.run(
        ["python", "-c", _SNAKEMAKE, "--profile", PROFILE, "--configfile", "test.yaml", "--nocolor", *OPTIONS],
        cwd=copy.folder,
        env=os.environ | {"PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-6000:]


def results(copy: WorkingCopy) -> dict[str, Any]:
    """What the files of results say, by name, without the times that they record."""
    files = [path for path in (copy.folder / "results").rglob("*") if path.is_file()]
    return {path.relative_to(copy.folder).as_posix(): without_times(path) for path in files}


def without_times(path: Path) -> Any:
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        return table.select([name for name in table.column_names if name not in TIMES])
    if path.suffix == ".json":
        said = json.loads(path.read_text())
        if path.name == "manifest.json":
            # Its digests are of files that record times.
            return said | {"files": list(said["files"])}
        return {name: value for name, value in said.items() if name not in TIMES} if isinstance(said, dict) else said
    if path.suffix == ".jsonl":
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        return [{name: row[name] for name in row if name not in TIMES} for row in rows]
    if path.suffix in (".md", ".html"):
        return re.sub(r"[\d.]+ (minutes|sessions?)", "", path.read_text())
    return path.read_bytes()


def test_from_ingest_to_card_all_results_are_those_of_a_local_run(runs: Runs) -> None:
    local, slurm = results(runs.local), results(runs.slurm)
    assert RUN / "card.html" in map(Path, slurm)
    assert slurm.keys() == local.keys()
    assert [name for name in slurm if slurm[name] != local[name]] == []


def test_jobs_see_the_devices_that_slurm_gave_them(runs: Runs) -> None:
    gpu_stages = {"finetune", "log_probs"}
    on_slurm = [call for call in runs.calls if call.job]
    assert all(call.devices in ("0", "1") for call in on_slurm if call.stage in gpu_stages)
    assert not any(call.devices for call in on_slurm if call.stage not in gpu_stages)
    # Two passes that were side by side on one node had a device each.
    kept = [call for call in on_slurm if call.stage == "log_probs" and call.job not in runs.lost]
    assert sorted((call.node, call.devices) for call in kept) == [("n1", "0"), ("n1", "1")]


def test_training_at_its_time_limit_goes_on_in_the_next_job(runs: Runs) -> None:
    first, second = [call.job for call in runs.calls if call.stage == "finetune"]
    assert (first, second != first) == (runs.limited, True)
    steps = json.loads((runs.slurm.folder / RUN / "plan.json").read_text())["total_steps"]
    step = re.search(r"going on from step (\d+)", (runs.slurm.folder / "logs/finetune/demo_ru.log").read_text())
    assert step is not None
    assert 2 <= int(step[1]) < steps


def test_a_lost_node_costs_only_its_jobs(runs: Runs) -> None:
    nodes: dict[str, list[str]] = {}
    for call in runs.calls:
        if call.stage == "log_probs":
            nodes.setdefault(call.job, []).append(call.node)
    assert len(nodes) == 4
    assert {job for job in nodes if "n2" in nodes[job]} <= runs.lost <= nodes.keys()
    assert all(nodes[job][-1] == "n1" for job in runs.lost)
    assert all(nodes[job] == ["n1"] for job in nodes.keys() - runs.lost)
    assert {call.node for call in runs.calls if call.stage == "evaluate"} == {"n1"}
