"""Working copies of the project, tiny corpora, and runs of snakemake."""

import csv
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).parents[2]
SOURCES = ["Snakefile", "workflow", "config", "envs", "profiles"]

PROGRAMS = Path(sys.executable).parent.as_posix()


@dataclass
class Snakemake:
    """What a run of snakemake said."""

    returncode: int
    output: str

    @property
    def jobs(self) -> dict[str, int]:
        """The planned or executed jobs, by rule, without the targets; none where there was nothing to do."""
        table = re.search(r"^job +count\n[- ]+\n(.*?)^total ", self.output, re.MULTILINE | re.DOTALL)
        rows = [line.split() for line in table[1].splitlines()] if table else []
        return {rule: int(count) for rule, count in rows if rule != "all"}

    @property
    def executed(self) -> set[str]:
        """The rules that ran."""
        return set(re.findall(r"^(?:local)?(?:rule|checkpoint) (\w+):$", self.output, re.MULTILINE))


@dataclass
class WorkingCopy:
    """A copy of the project's sources, in which workflows run."""

    folder: Path

    def snakemake(self, config: dict[str, Any] | None, *options: str, check: bool = True, **env: str) -> Snakemake:
        """Run snakemake with `config` as its configuration file; with None, with whatever `options` say."""
        given = []
        if config is not None:
            file = self.folder / "test.yaml"
            file.write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8")
            given = ["--configfile", file.name]
        run = subprocess.run(
            ["python", "-m", "snakemake", *given, "--cores", "2", "--nocolor", *options],
            cwd=self.folder,
            env=os.environ | env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if check:
            assert run.returncode == 0, run.stdout[-6000:]
        return Snakemake(run.returncode, run.stdout)

    def planned(self, config: dict[str, Any], *options: str) -> dict[str, int]:
        """The jobs of a dry run."""
        return self.snakemake(config, "--dry-run", *options).jobs

    def edit(self, file: str, old: str, new: str) -> None:
        """Change a source file."""
        path = self.folder / file
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new, 1), encoding="utf-8")

    def copy(self, target: Path) -> "WorkingCopy":
        """Another working copy, results and snakemake's records included, times kept."""
        shutil.copytree(self.folder, target, symlinks=True)
        return WorkingCopy(target)


def working_copy(folder: Path) -> WorkingCopy:
    """The project's sources, copied as a clone would have them."""
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
    """The demo's configuration with a small model, a few steps, and `archive` for its corpus."""
    config = yaml.safe_load((REPOSITORY / "config" / "config.yaml").read_text(encoding="utf-8"))
    config["speak"]["demo_ru"]["splits"] = {
        "train": {"voices": 4, "clips": 40},
        "dev": {"voices": 2, "clips": 6},
        "test": {"voices": 2, "clips": 8},
    }
    config["datasets"]["demo_ru"] |= {"path": archive, "shards": {"train": 2, "dev": 1, "test": 1}}
    run = config["runs"]["demo_ru"]
    run["device"] = "cpu"
    run["model"]["init"] |= {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 32, "conv_dim": [16] * 7}
    run["plan"] |= {"epochs": 2, "batch": {"seconds": 30}, "save_steps": 3}
    run["finetune"] |= {"warmup_steps": 1, "logging_steps": 1, "threads": 1}
    run["evaluation"] |= {"lm": {"lm_weight": [1.0], "word_score": [0.0]}, "worst_clips": 2}
    return config


SPOKEN = "results/speak/demo_ru.tar.gz"


def faulty_config() -> dict[str, Any]:
    """The configuration of `finished`."""
    config = tiny_config("corpus.tar.gz")
    del config["speak"]
    return config


def plant_faults(archive: Path, target: Path) -> None:
    """Copy a Common Voice archive with faults: see the names of the planted clips."""
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
        noise = tarfile.TarInfo(f"{top}/ru/clips/not_audio.mp3")
        noise.size = 1000
        out.addfile(noise, io.BytesIO(b"this is no sound" * 63))


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
