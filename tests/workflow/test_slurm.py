"""The demo in miniature on a Slurm cluster of two nodes: GPUs, a time limit during training, a lost node."""

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

import pytest
from servers import wait_until
from slurm_cluster import NODES, SlurmCluster, control, slurm_cluster
from working_copy import PROGRAMS, WorkingCopy, tiny_config, working_copy

pytestmark = pytest.mark.slow

RUN = Path("results/runs/demo_ru")
PROFILE = "workflow/profiles/slurm"
BARRIER = "barrier"
"""A file; forward passes start when it is deleted."""
# This cluster has no accounting. Without shared software deployment, a job runs the `python` on its PATH.
OPTIONS = [
    "--slurm-no-account", "--slurm-status-command=squeue",
    "--shared-fs-usage", "persistence", "input-output", "sources", "source-cache", "storage-local-copies",
]  # fmt: skip
# Snakemake in a plain Python. The plugin checks the status of jobs every 40 seconds or more, far longer than the jobs
# of this run take. The executable is the Python on PATH, since the workflow puts its folder first on the PATH of jobs.
_SNAKEMAKE = """\
import shutil, sys
from snakemake.cli import main
from snakemake_executor_plugin_slurm import Executor
Executor.next_seconds_between_status_checks = property(lambda self: 0.5, lambda self, seconds: None)
sys.executable = shutil.which("python")
main()
"""

# Records each call with its job, node and devices. Training and the Snakemake that runs it are descendants of Slurm's
# daemon, not forks of the tests' server, so that training receives Slurm's signals. Forward passes wait until the node
# is lost, so that none of them ends before that, however busy the machine is.
_PYTHON = """\
#!/bin/sh
echo "$2 ${{SLURM_JOB_ID-}} ${{SLURMD_NODENAME-}} $$ ${{CUDA_VISIBLE_DEVICES-}}" >> {calls}
case "$2" in speechmill.inference.log_probs) while [ -e {barrier} ]; do sleep 0.1; done;; esac
case "$*" in
"-m snakemake "*"--allowed-rules finetune "*) shift 2; exec {plain} {snakemake} "$@";;
"-m speechmill.training.finetune "*) exec {plain} "$@";;
*) exec {forked} "$@";;
esac
"""


@dataclass(frozen=True)
class Call:
    """The start of a stage in a job."""

    stage: str
    job: str
    node: str
    process: int
    devices: str


@dataclass(frozen=True)
class Runs:
    """A local run, and the same run on the cluster, in which both faults have occurred."""

    local: WorkingCopy
    slurm: WorkingCopy
    calls: list[Call]
    limited: str
    """The job in which training reached its time limit."""
    lost: set[str]
    """The jobs that were running on the node when it was lost."""


def calls(folder: Path) -> list[Call]:
    """Return the recorded calls."""
    lines = (folder / "calls").read_text().splitlines() if (folder / "calls").is_file() else []
    rows = [line.split(" ") for line in lines if line.startswith("speechmill.")]
    return [Call(stage.split(".")[-1], job, node, int(pid), gpu) for stage, job, node, pid, gpu in rows]


def reach_time_limit(folder: Path, failed: Callable[[], bool]) -> str:
    """Let training reach its time limit, before which the profile lets Slurm send a signal; return its job."""
    wait_until(
        lambda: any(len(log.read_text().splitlines()) >= 2 for log in folder.glob("work/*/*/training.jsonl")), failed
    )
    (training,) = [call for call in calls(folder) if call.stage == "finetune"]
    # Slurm checks time limits twice a minute. Training is suspended until then, and continues with Slurm's signal.
    os.kill(training.process, signal.SIGSTOP)
    end = datetime.now() + timedelta(minutes=5)
    control("scontrol", "update", f"JobId={training.job}", f"EndTime={end:%Y-%m-%dT%H:%M:%S}")
    return training.job


def lose_node(folder: Path, cluster: SlurmCluster, failed: Callable[[], bool]) -> set[str]:
    """Take a node down while each node runs two forward passes; return the jobs that ran there."""
    wait_until(
        lambda: sorted(call.node for call in calls(folder) if call.stage == "log_probs") == sorted(2 * NODES), failed
    )
    lost = cluster.running("n2")
    cluster.lose("n2")
    return lost


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    """A running Slurm cluster."""
    with slurm_cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, spoken_archive: Path, cluster: SlurmCluster) -> Runs:
    """Both runs of one configuration."""
    config = tiny_config("corpus.tar.gz")
    config["datasets"]["demo_ru"]["shards"] = {"train": 1, "dev": 1, "test": 1}
    run = config["runs"]["demo_ru"]
    run["device"] = "auto"
    # Enough steps to stop between two of them; two checkpoints and two sets, which are a forward pass for each GPU.
    run["plan"] |= {"epochs": 4, "save_steps": 6}
    run["evaluation"] = {"sets": ["demo_ru-dev", "demo_ru-test"], "worst_clips": 0}
    local, slurm = (working_copy(tmp_path_factory.mktemp(name)) for name in ("local", "slurm"))
    for copy in (local, slurm):
        shutil.copy2(spoken_archive, copy.folder / "corpus.tar.gz")
    # The site's own values, for both rules that need a GPU.
    for _ in ("finetune", "log_probs"):
        slurm.edit(f"{PROFILE}/config.yaml", "# slurm_partition: gpu", "slurm_partition: main")
        slurm.edit(f"{PROFILE}/config.yaml", "# gpu_model: a100", "gpu_model: standin")
    python = slurm.folder / "bin" / "python"
    python.parent.mkdir()
    snakemake = python.with_name("run_snakemake.py")
    snakemake.write_text(_SNAKEMAKE)
    python.write_text(
        _PYTHON.format(
            calls=slurm.folder / "calls",
            barrier=slurm.folder / BARRIER,
            plain=f"{PROGRAMS}/python",
            forked=shutil.which("python"),
            snakemake=snakemake,
        )
    )
    python.chmod(0o755)
    (slurm.folder / BARRIER).touch()

    # Concurrently, since the run on the cluster mostly waits.
    with ThreadPoolExecutor() as pool:
        ran = pool.submit(on_slurm, slurm, config, f"{python.parent}{os.pathsep}{os.environ['PATH']}")
        peer = pool.submit(local.snakemake, config)
        try:
            limited = reach_time_limit(slurm.folder, ran.done)
            lost = lose_node(slurm.folder, cluster, ran.done)
        finally:
            (slurm.folder / BARRIER).unlink()
        peer.result()
        ran.result()
        return Runs(local, slurm, calls(slurm.folder), limited, lost)


def on_slurm(copy: WorkingCopy, config: dict[str, Any], path: str) -> None:
    """Run the workflow through the cluster."""
    file = copy.write_config(config)
    run = subprocess.run(
        [
            f"{PROGRAMS}/python",
            "bin/run_snakemake.py",
            "--profile",
            PROFILE,
            "--configfile",
            file,
            "--nocolor",
            *OPTIONS,
        ],
        cwd=copy.folder,
        env=os.environ | {"PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-6000:]


def test_all_results_equal_those_of_a_local_run(runs: Runs) -> None:
    local, slurm = runs.local.results(), runs.slurm.results()
    assert RUN / "card.html" in map(Path, slurm)
    assert slurm.keys() == local.keys()
    assert [name for name in slurm if slurm[name] != local[name]] == []


def test_jobs_see_the_devices_that_slurm_allocated(runs: Runs) -> None:
    gpu_stages = {"finetune", "log_probs"}
    on_slurm = [call for call in runs.calls if call.job]
    assert all(call.devices in ("0", "1") for call in on_slurm if call.stage in gpu_stages)
    assert not any(call.devices for call in on_slurm if call.stage not in gpu_stages)
    # Two forward passes at the same time on one node had different devices.
    kept = [call for call in on_slurm if call.stage == "log_probs" and call.job not in runs.lost]
    assert {(call.node, call.devices) for call in kept} == {("n1", "0"), ("n1", "1")}


def test_training_resumes_after_its_time_limit(runs: Runs) -> None:
    first, second = [call.job for call in runs.calls if call.stage == "finetune"]
    assert (first, second != first) == (runs.limited, True)
    steps = json.loads((runs.slurm.folder / RUN / "plan.json").read_text())["total_steps"]
    step = re.search(r"resuming from step (\d+)", (runs.slurm.folder / "logs/finetune/demo_ru.log").read_text())
    assert step is not None
    assert 2 <= int(step[1]) < steps


def test_a_lost_node_costs_only_its_jobs(runs: Runs) -> None:
    nodes: dict[str, list[str]] = {}
    for call in runs.calls:
        if call.stage == "log_probs":
            nodes.setdefault(call.job, []).append(call.node)
    # Two sets at two steps, and again at the selected one for the confidence of words.
    assert len(nodes) == 6
    assert {job for job in nodes if "n2" in nodes[job]} <= runs.lost <= nodes.keys()
    assert all(nodes[job][-1] == "n1" for job in runs.lost)
    assert all(nodes[job] == ["n1"] for job in nodes.keys() - runs.lost)
    assert {call.node for call in runs.calls if call.stage == "evaluate"} == {"n1"}
