"""Files that are written atomically, JSON, and digests that tell a file that has changed since it was written."""

import glob
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from speechmill.core.command import SpeechmillError
from speechmill.core.selection import selected_mean

TEMPLATES = Path(__file__).parents[2] / "templates"
"""The folder of the Jinja templates."""

DIGESTS = "sha256.json"
"""The file in a folder with the sha256 of each of its other files, written by `write_digests`."""

# The last key of a JSON file, and how its value begins, so that damage to either of them does not hide the other.
_DIGEST = "digest"
_CONTENT = "content"
_SHA256 = "sha256:"

# Outputs of rules that are directories: snakemake does not notice when a file inside one is missing.
_DIRECTORY_OUTPUTS = re.compile(r"(?:.*/)?results/(?:raw/[^/]+|models/[^/]+|runs/[^/]+/(?:average|model/onnx))(?=/)")

# Outputs of the rule that trains: without one of them, snakemake deletes the others and trains again.
_TRAINING_OUTPUTS = re.compile(r"((?:.*/)?results/runs/[^/]+)/(?:checkpoints/checkpoint-(\d+)/.+|training\.jsonl?)")

# The results of a finished training, which the next run would use if snakemake deletes the outputs of the rule.
_FINISHED = re.compile(r"((?:.*/)?work/(?:[^/]+/)?finished-[^/]+)/.+")


def corrupt_file_error(path: Path, problem: str) -> SpeechmillError:
    """Return the error for a result that cannot be used any more; `problem` completes the sentence "the file ...".

    The message names what to delete so that the next run rebuilds it: the directory where a rule creates an entire
    directory, and the target of a link into snakemake's cache, which would otherwise be linked again. Where deleting
    would train again, it names the copy that restores the file, and what it costs to go on without one.
    """
    if found := _FINISHED.fullmatch(path.as_posix()):
        return SpeechmillError(
            f"{path} {problem}, so the results of this training cannot be used again; to train again from the start:"
            f" rm -r {found[1]}, and run snakemake again"
        )
    if found := _TRAINING_OUTPUTS.fullmatch(path.as_posix()):
        return SpeechmillError(f"{path} {problem}; {_how_to_restore(path, Path(found[1]), found[2])}")
    directory = _DIRECTORY_OUTPUTS.match(path.as_posix())
    output = Path(directory[0]) if directory else path
    target = output.resolve() if output.is_symlink() else output
    return SpeechmillError(f"{path} {problem}; delete {'it' if target == path else target} and run snakemake again")


def _how_to_restore(path: Path, run: Path, step: str | None) -> str:
    """Return how an output of training can be restored, given the folder of its run, and the step of a checkpoint."""
    if path.name == DIGESTS:
        return "delete it and run snakemake again: the files beside it are then used without a comparison"
    copies = [run / "checkpoints" / path.name, run / "model" / "evidence" / path.name]
    if step is not None:
        copies = [run / "model" / path.name] if step == _selected_step(run) else []
    copy = next((each for each in copies if each.is_file()), None)
    if copy is not None:
        how = f"copy it from where it is intact, `cp -p {copy} {path}`, and run snakemake again"
    else:
        how = (
            f"restore it from a backup and run snakemake again. Without one, `rm -r {run}/checkpoints` trains again,"
            f" from what is left in work/{run.name} or from the beginning"
        )
    return f"do not delete it, or snakemake trains again; {how}"


def _selected_step(run: Path) -> str | None:
    """Return the step of the checkpoint that the model of a run is a copy of, if it is one."""
    with suppress(OSError, ValueError):
        selection = json.loads((run / "selection.json").read_text(encoding="utf-8"))
        # The mean of several checkpoints is a copy of none of them.
        return None if selected_mean(selection) else str(selection.get("step"))
    return None


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


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder next to `path`, and replace `path` by it if the block succeeds."""
    with scratch_folder(path.with_name(f".{path.name}.part")) as temporary:
        yield temporary
        shutil.rmtree(path, ignore_errors=True)
        temporary.rename(path)


def write_text(text: str, path: Path) -> None:
    """Write `text` to `path` in UTF-8, atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(value: Any, path: Path) -> None:
    """Write `value` to `path` as indented JSON, atomically.

    A dictionary gets a last key `digest`, the sha256 of all else, which `read_json` compares and removes. Any other
    value becomes a dictionary first, as its only key `content`.
    """
    write_plain_json(_with_digest(value if isinstance(value, dict) else {_CONTENT: value}), path)


def write_plain_json(value: Any, path: Path) -> None:
    """Write `value` to `path` as indented JSON without a digest, for a file whose format is not ours, atomically."""
    write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", path)


def read_json(path: Path) -> Any:
    """Return the value of a JSON file, without its digest. One of release 0.1.0, or of another program, has none.

    Raises:
        SpeechmillError: The file is not JSON, or has changed since it was written.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise corrupt_file_error(path, f"is not JSON ({error})") from error
    if not isinstance(value, dict):
        return value
    content = {key: each for key, each in value.items() if key != _DIGEST and not _is_digest(each)}
    if value not in (content, _with_digest(content)):
        raise corrupt_file_error(path, "has changed since it was written: its content and its digest differ")
    return content[_CONTENT] if content.keys() == {_CONTENT} else content


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and value.startswith(_SHA256)


def _with_digest(content: dict[str, Any]) -> dict[str, Any]:
    return content | {_DIGEST: _SHA256 + hashlib.sha256(json.dumps(content).encode()).hexdigest()}


def file_digest(path: Path) -> str:
    """Return the sha256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def holds_digest(path: Path, digest: str) -> bool:
    """Return whether a file that holds nothing but a digest holds this one."""
    return path.read_bytes().strip() == digest.encode()


def write_digests(folder: Path) -> None:
    """Record the sha256 of each file in `folder` in the file `sha256.json` there."""
    write_json(_digests(folder, "*"), folder / DIGESTS)


def check_folder(folder: Path, pattern: str = "*") -> dict[str, str]:
    """Return the sha256 of each file in `folder` whose name matches, compared with what `write_digests` recorded.

    Folders of release 0.1.0 have no record, and nothing is compared.

    Raises:
        SpeechmillError: A file is missing, or has changed since it was written.
    """
    digests = _digests(folder, pattern)
    recorded = read_json(folder / DIGESTS) if (folder / DIGESTS).is_file() else {}
    _compare(folder, digests, {name: each for name, each in recorded.items() if fnmatch(name, pattern)})
    return digests


def _digests(folder: Path, pattern: str) -> dict[str, str]:
    files = sorted(path for path in folder.glob(pattern) if path.is_file() and path.name != DIGESTS)
    return {path.name: file_digest(path) for path in files}


def check_files(folder: Path, recorded: Mapping[str, str]) -> None:
    """Compare files in `folder` with their `recorded` sha256.

    Raises:
        SpeechmillError: A file is missing, or has changed since it was written.
    """
    found = {name: file_digest(folder / name) for name in recorded if (folder / name).is_file()}
    _compare(folder, found, recorded)


def _compare(folder: Path, found: Mapping[str, str], recorded: Mapping[str, str]) -> None:
    for name, digest in recorded.items():
        if name not in found:
            raise corrupt_file_error(folder / name, "is missing")
        if found[name] != digest:
            raise corrupt_file_error(folder / name, f"has changed since it was written: its sha256 is not {digest}")
