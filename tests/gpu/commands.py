"""The commands of the workflow's jobs, as a dry run of Snakemake prints them, to be run elsewhere without Snakemake."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from material import ROOT

# A job in the output of `snakemake --dry-run --printshellcmds`: its rule, its properties, and its command.
_JOB = re.compile(r"^(?:local)?(?:rule|checkpoint) (\w+):\n((?:    .*\n)+)Shell command: (.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Job:
    """A job of the workflow."""

    rule: str
    inputs: list[str]
    outputs: list[str]
    log: str
    command: str


def parse_jobs(output: str) -> list[Job]:
    """Return the jobs in the output of a dry run."""

    def files(properties: str, key: str) -> list[str]:
        found = re.search(rf"^    {key}: (.*)$", properties, re.MULTILINE)
        return found[1].split(", ") if found else []

    return [
        Job(rule, files(properties, "input"), files(properties, "output"), *files(properties, "log"), command)
        for rule, properties, command in _JOB.findall(output)
    ]


def snakemake(folder: Path, config: Mapping[str, Any], targets: Sequence[str], *options: str) -> str:
    """Run snakemake in `folder` to make `targets`, and return its output.

    Raises:
        RuntimeError: It failed.
    """
    file = folder / "gpu.yaml"
    file.write_text(yaml.safe_dump(dict(config), allow_unicode=True), encoding="utf-8")
    source = ["--snakefile", str(ROOT / "Snakefile"), "--configfile", str(file)]
    run = subprocess.run(
        ["snakemake", *targets, *source, "--cores", "all", "--nocolor", *options],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if run.returncode != 0:
        raise RuntimeError(run.stdout)
    return run.stdout


def before_training(runs: Iterable[str]) -> list[str]:
    """Return the files whose making prepares the training of runs."""
    return [f"results/runs/{run}/{file}" for run in runs for file in ("plan.json", "clips/dev.parquet")]


def record(folder: Path, config: Mapping[str, Any], kit: Path) -> None:
    """Write to the kit the commands from `finetune` on, and the files that they read and none of them makes.

    The commands make the verified card of the first run, and the training alone of the second.

    Args:
        folder: A folder in which the workflow has made all that comes before `finetune`, and the language model.
        config: A configuration with two runs.
        kit: The folder of the kit.
    """
    first, second = config["runs"]
    targets = {first: [f"results/runs/{first}/card.html", "verify"], second: [f"results/runs/{second}/training.json"]}
    jobs = []
    for run, files in targets.items():
        # `verify` reads all runs of a configuration.
        alone = {**config, "runs": {run: config["runs"][run]}}
        options = ("--dry-run", "--printshellcmds", "--forcerun", "finetune", "--rerun-triggers", "mtime")
        jobs += parse_jobs(snakemake(folder, alone, files, *options))
    shutil.rmtree(kit / "pipeline", ignore_errors=True)
    made = {file for job in jobs for file in job.outputs}
    for file in sorted({file for job in jobs for file in job.inputs} - made):
        target = kit / "pipeline" / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / file, target)
    lines = json.dumps([asdict(job) for job in jobs], ensure_ascii=False, indent=1)
    (kit / "commands.json").write_text(lines, encoding="utf-8")


def read_jobs(kit: Path) -> list[Job]:
    """Return the jobs that `record` has written."""
    return [Job(**job) for job in json.loads((kit / "commands.json").read_text(encoding="utf-8"))]
