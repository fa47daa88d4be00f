"""Files that are written atomically, JSON, and digests."""

import glob
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from speechmill.core.command import SpeechmillError

TEMPLATES = Path(__file__).parents[2] / "templates"
"""The folder of the Jinja templates."""

# Outputs of rules that are directories: snakemake does not notice when a file inside one is missing.
_DIRECTORY_OUTPUTS = re.compile(r"(?:.*/)?results/(?:raw/[^/]+|models/[^/]+|runs/[^/]+/checkpoints)(?=/)")


def corrupt_file_error(path: Path, problem: str) -> SpeechmillError:
    """Return the error for a result that cannot be used any more; `problem` completes the sentence "the file ...".

    The message names what to delete so that the next run rebuilds it: the directory where a rule creates an entire
    directory, and the target of a link into snakemake's cache, which would otherwise be linked again.
    """
    directory = _DIRECTORY_OUTPUTS.match(path.as_posix())
    output = Path(directory[0]) if directory else path
    target = output.resolve() if output.is_symlink() else output
    return SpeechmillError(f"{path} {problem}; delete {'it' if target == path else target} and run snakemake again")


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to `path`, and rename it to `path` if the block succeeds.

    No reader, and no run that starts after a kill, sees an incomplete file. Temporary files of killed processes are
    removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        leftover.unlink(missing_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """Create an empty folder for the block, without what a killed process left in it, and delete it afterwards."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def write_text(text: str, path: Path) -> None:
    """Write `text` to `path` in UTF-8, atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(value: Any, path: Path) -> None:
    """Write `value` to `path` as indented JSON, atomically."""
    write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", path)


def read_json(path: Path) -> Any:
    """Return the value of a JSON file.

    Raises:
        SpeechmillError: The file is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise corrupt_file_error(path, f"is not JSON ({error})") from error


def file_digest(path: Path) -> str:
    """Return the sha256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
