"""Working copies of the project, tiny corpora, and runs of snakemake."""

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

REPOSITORY = Path(__file__).parents[2]
SOURCES = ["Snakefile", "workflow", "config", "envs", "profiles"]

PROGRAMS = Path(sys.executable).parent.as_posix()
SPOKEN = "results/speak/demo_ru.tar.gz"
"""The archive that the workflow synthesises."""

NOTHING_TO_DO = "Nothing to be done"

# Fields of results that depend on the speed of the machine.
TIMES = {
    "wall_seconds", "forward_seconds", "decoding_seconds", "sessions", "audio_seconds_per_second", "mfu",
}  # fmt: skip


@dataclass(frozen=True)
class SnakemakeRun:
    """The exit status and the output of a run of snakemake."""

    returncode: int
    output: str

    @property
    def jobs(self) -> dict[str, int]:
        """The number of planned or executed jobs of each rule except `all`."""
        table = re.search(r"^job +count\n[- ]+\n(.*?)^total ", self.output, re.MULTILINE | re.DOTALL)
        rows = [line.split() for line in table[1].splitlines()] if table else []
        return {rule: int(count) for rule, count in rows if rule != "all"}

    @property
    def executed(self) -> set[str]:
        """The rules with at least one executed job."""
        return set(re.findall(r"^(?:local)?(?:rule|checkpoint) (\w+):$", self.output, re.MULTILINE))

    @property
    def scored_sets(self) -> set[str]:
        """The sets on which a model was run."""
        return set(re.findall(r"rule log_probs:.*?^ +wildcards: .*?set_name=([\w-]+)", self.output, re.M | re.S))


@dataclass(frozen=True)
class WorkingCopy:
    """A copy of the project's sources in which workflows run."""

    folder: Path

    def snakemake(
        self, config: dict[str, Any] | None, *options: str, check: bool = True, plain: bool = False, **env: str
    ) -> SnakemakeRun:
        """Run snakemake in the working copy.

        Args:
            config: The configuration; None for that of `options`, or the default.
            options: Further arguments.
            check: Whether an exit status other than 0 is an error.
            plain: Whether to run .venv/bin/snakemake, and its jobs, without the fork server of the tests.
            env: Changes of the environment.
        """
        chosen = [] if config is None else ["--configfile", self.write_config(config)]
        program = [f"{PROGRAMS}/snakemake"] if plain else ["python", "-m", "snakemake"]
        run = subprocess.run(
            [*program, *chosen, "--cores", "2", "--nocolor", *options],
            cwd=self.folder,
            env=os.environ | env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if check:
            assert run.returncode == 0, run.stdout[-6000:]
        return SnakemakeRun(run.returncode, run.stdout)

    def planned(self, config: dict[str, Any] | None, *options: str, **env: str) -> dict[str, int]:
        """Return the jobs of a dry run, counted by rule."""
        run = self.snakemake(config, "--dry-run", *options, **env)
        assert bool(run.jobs) != (NOTHING_TO_DO in run.output)
        return run.jobs

    def write_config(self, config: dict[str, Any]) -> str:
        """Write a configuration file and return its name."""
        text = yaml.safe_dump(config, allow_unicode=True)
        (self.folder / "test.yaml").write_text(text, encoding="utf-8")
        return "test.yaml"

    def read_json(self, file: str | Path) -> Any:
        """Return the content of a JSON file."""
        return json.loads((self.folder / file).read_text(encoding="utf-8"))

    def edit(self, file: str, old: str, new: str) -> None:
        """Replace the first occurrence of a text in a source file."""
        path = self.folder / file
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new, 1), encoding="utf-8")

    def redefine(self, file: str, function: str) -> None:
        """Define a function of a program again, before its `main`."""
        main = "\n\ndef main() -> None:"
        self.edit(file, main, function + main)

    def raise_version(self, stage: str) -> None:
        """Raise the version of a stage, since a release in the future."""
        path = self.folder / "workflow/stage_versions.yaml"
        versions = yaml.safe_load(path.read_text(encoding="utf-8"))
        versions[stage] |= {"version": versions[stage]["version"] + 1, "since": "9.9.9"}
        path.write_text(yaml.safe_dump(versions), encoding="utf-8")

    def results(self) -> dict[str, Any]:
        """Return the content of all result files by name, without recorded times."""
        files = [path for path in (self.folder / "results").rglob("*") if path.is_file()]
        return {path.relative_to(self.folder).as_posix(): _without_times(path) for path in files}

    def copy(self, target: Path) -> "WorkingCopy":
        """Return another working copy with the same results, Snakemake's records of them, and times of change."""
        shutil.copytree(self.folder, target, symlinks=True)
        return WorkingCopy(target)


def _without_times(path: Path) -> Any:
    """Return the content of a file without the times that it records."""
    if path.suffix == ".parquet":
        names = pq.read_schema(path).names
        if not TIMES.isdisjoint(names):
            return pq.read_table(path, columns=[name for name in names if name not in TIMES])
    if path.suffix == ".json":
        content = json.loads(path.read_text(encoding="utf-8"))
        if path.name == "manifest.json":
            # It has digests of files that record times.
            content["files"] = list(content["files"])
        if path.name == "training.json":
            # It has a digest of the log.
            del content["sha256"]
        return {name: value for name, value in content.items() if name not in TIMES and name != "digest"}
    if path.suffix == ".jsonl":
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return [{name: row[name] for name in row if name not in TIMES} for row in rows]
    if path.suffix in (".md", ".html"):
        return re.sub(r"[\d.]+ (minutes|sessions?)", "", path.read_text(encoding="utf-8"))
    return path.read_bytes()


def working_copy(folder: Path) -> WorkingCopy:
    """Copy the project's sources, as a clone would contain them."""
    folder.mkdir(parents=True, exist_ok=True)
    ignored = shutil.ignore_patterns("__pycache__", ".*")
    for source in SOURCES:
        path = REPOSITORY / source
        if path.is_dir():
            shutil.copytree(path, folder / source, ignore=ignored)
        else:
            shutil.copy(path, folder / source)
    return WorkingCopy(folder)


def tiny_config(archive: str) -> dict[str, Any]:
    """Return the demo's configuration with a small model, few steps, and the corpus in `archive`."""
    config = yaml.safe_load((REPOSITORY / "config" / "config.yaml").read_text(encoding="utf-8"))
    config["speak"]["demo_ru"]["splits"] = {
        "train": {"voices": 4, "clips": 40},
        "dev": {"voices": 2, "clips": 6},
        "test": {"voices": 2, "clips": 8},
    }
    config["datasets"]["demo_ru"] |= {"path": archive, "shards": {"train": 2, "dev": 1, "test": 1}}
    if archive != SPOKEN:
        del config["speak"]
    run = config["runs"]["demo_ru"]
    run["device"] = "cpu"
    run["model"]["init"] |= {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 32, "conv_dim": [16] * 7}
    run["plan"] |= {"epochs": 2, "batch": {"seconds": 30}, "save_steps": 3}
    run["finetune"] |= {"warmup_steps": 1, "logging_steps": 1, "threads": 1}
    run["evaluation"] |= {"lm": {"lm_weight": [1.0], "word_score": [0.0]}, "worst_clips": 2}
    return config


def faulty_config() -> dict[str, Any]:
    """Return the configuration of the fixture `finished`."""
    return tiny_config("corpus.tar.gz")


def plant_faults(archive: Path, target: Path) -> None:
    """Copy a Common Voice archive and add faults, which the names of the added clips describe."""
    with tarfile.open(archive) as source, tarfile.open(target, "w:gz") as out:
        for member in source:
            file = source.extractfile(member)
            if file is None:
                continue
            data = file.read()
            if member.name.endswith(("/train.tsv", "/test.tsv")):
                data = _with_faults(data, is_train=member.name.endswith("/train.tsv"))
            member.size = len(data)
            out.addfile(member, io.BytesIO(data))
            top = member.name.split("/")[0]
        not_audio = tarfile.TarInfo(f"{top}/ru/clips/not_audio.mp3")
        not_audio.size = 1000
        out.addfile(not_audio, io.BytesIO(b"this is no sound" * 63))


def _with_faults(table: bytes, is_train: bool) -> bytes:
    rows = list(csv.DictReader(io.StringIO(table.decode()), delimiter="\t", quoting=csv.QUOTE_NONE))
    if is_train:
        rows[0]["sentence"] = ""
        rows.append(rows[1] | {"path": "absent.mp3"})
        rows.append(rows[1] | {"path": "not_audio.mp3"})
    else:
        rows[0]["sentence"] = "Один, ёжик."
        rows.append(rows[1] | {"path": "absent_from_test.mp3"})
    out = io.StringIO()
    writer = csv.DictWriter(
        out, list(rows[0]), delimiter="\t", quoting=csv.QUOTE_NONE, lineterminator="\n", quotechar=None
    )
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()
