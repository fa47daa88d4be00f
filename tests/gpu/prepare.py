"""`make gpu-kit`: prepare what a machine with a GPU and without a network needs for the checks.

The kit contains packages for Python 3.12 that the machine lacks, a corpus that the workflow has made up to the step
before `finetune`, and the commands of all jobs from there on.
"""

import argparse
import lzma
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from zipfile import ZipFile

import yaml

from gpu.commands import before_training, record, snakemake
from material import ROOT

HERE = Path(__file__).parent
# A static ffmpeg, with which transformers reads files in the card's example; the workflow takes it from the system.
_FFMPEG = "imageio-ffmpeg==0.7.0"
# The versions of the C library with which packages of the lock file are built; pip accepts only those that are named.
_PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


def locked(packages: list[str], lock: str) -> list[str]:
    """Return `name==version` for each of the packages, as in the text of requirements.lock.

    Raises:
        ValueError: A package is not in the lock file.
    """
    pins = dict(re.findall(r"^([a-z0-9-]+)==([^\s;]+)", lock, re.MULTILINE))
    missing = [name for name in packages if name not in pins]
    if missing:
        raise ValueError(f"requirements.lock lacks {', '.join(missing)}, which tests/gpu/requirements.txt lists")
    return [f"{name}=={pins[name]}" for name in packages]


def _download(packages: list[str], target: Path) -> None:
    """Download packages for the machine with the GPU."""
    shutil.rmtree(target, ignore_errors=True)
    machine = ["--python-version", "3.12", "--implementation", "cp"]
    machine += [option for platform in _PLATFORMS for option in ("--platform", platform)]
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    subprocess.run([*download, *machine, "--dest", str(target), *packages], check=True)


def download_wheels(target: Path) -> None:
    """Download the packages of requirements.txt."""
    lines = (HERE / "requirements.txt").read_text(encoding="utf-8").splitlines()
    lock = (ROOT / "requirements.lock").read_text()
    _download(locked([line for line in lines if not line.startswith("#")], lock), target)


def download_ffmpeg(target: Path) -> None:
    """Write the program `ffmpeg`, compressed to 20 MiB, which is a quarter of its size."""
    with tempfile.TemporaryDirectory() as folder:
        _download([_FFMPEG], Path(folder, "wheel"))
        (wheel,) = Path(folder, "wheel").iterdir()
        with ZipFile(wheel) as archive:
            (member,) = [name for name in archive.namelist() if Path(name).name.startswith("ffmpeg-")]
            with archive.open(member) as program, lzma.open(target, "wb") as compressed:
                shutil.copyfileobj(program, compressed)


def prepare_pipeline(kit: Path) -> None:
    """Make the corpus with the workflow, and record the commands."""
    config = yaml.safe_load((HERE / "pipeline.yaml").read_text(encoding="utf-8"))
    built = kit / "built"
    built.mkdir(parents=True, exist_ok=True)
    # None of these needs a GPU.
    first = next(iter(config["runs"]))
    snakemake(built, config, [*before_training(config["runs"]), f"results/runs/{first}/lm/lm.binary"])
    record(built, config, kit)


def size(path: Path) -> int:
    """Return the bytes of a file, or of the files in a folder."""
    return sum(each.stat().st_size for each in [path, *path.rglob("*")] if each.is_file())


def main() -> None:
    """Write the kit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kit", type=Path)
    kit: Path = parser.parse_args().kit.resolve()
    kit.mkdir(exist_ok=True)
    download_wheels(kit / "wheels")
    download_ffmpeg(kit / "ffmpeg.xz")
    prepare_pipeline(kit)
    carried = [kit / name for name in ("wheels", "ffmpeg.xz", "pipeline", "commands.json")]
    print("\n".join(f"{size(part) / 2**20:5.1f} MiB  {part}" for part in carried))


if __name__ == "__main__":
    main()
