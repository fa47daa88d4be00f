"""The states of a training in its work folder: kept so that a stopped one goes on from the newest whole one."""

import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from speechmill.core.command import SpeechmillError, atomic_write

WEIGHTS = "model.safetensors"

LOG = "training.jsonl"

UNFINISHED = "unfinished"
"""The folder in which a state is made, before it is whole and takes its name."""

# Written last, so that a state that has it was written to its end.
_MANIFEST = "complete"
# The newest, and one to fall back on where a disk has spoiled the newest.
_STATES = 2
# Of a large file its ends are read: that is where a truncated one, or one whose tail never reached the disk, differs.
_END_BYTES = 1 << 20


def newest_resume_state(work: Path) -> Path | None:
    """The newest whole state in `work`, if there is one.

    A state that lacks a file, or has one that is shorter or another than when it was saved, is set aside as
    `broken-{step}`, with a sentence on stderr.
    """
    shutil.rmtree(work / UNFINISHED, ignore_errors=True)
    for step, state in reversed(_states(work)):
        fault = _fault(state)
        if fault is None:
            return state
        aside = work / f"broken-{step}"
        print(f"the state of step {step} is set aside as {aside}: {fault}", file=sys.stderr)
        shutil.rmtree(aside, ignore_errors=True)
        state.rename(aside)
    return None


def step_of(state: Path | None) -> int:
    """The step that a state, or a checkpoint, was saved at; 0 for none."""
    return int(state.name.removeprefix("checkpoint-")) if state else 0


def empty_unfinished(work: Path) -> None:
    """Make room for the next state."""
    shutil.rmtree(work / UNFINISHED, ignore_errors=True)
    (work / UNFINISHED).mkdir(parents=True)


@contextmanager
def disk_space_for_state(work: Path, step: int, needed: int = 0) -> Iterator[None]:
    """A block that writes a state; where the disk does not take it, nothing is left of it.

    Raises SpeechmillError with the folder, the bytes that are `needed` or what is written of it already, and where
    training will go on.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        # So torch says that it could not write a file; its other errors are of the same type.
        if isinstance(error, RuntimeError) and not any(word in str(error) for word in ("inline_container", "iostream")):
            raise
        needed = max(needed, sum(path.stat().st_size for path in (work / UNFINISHED).glob("*/*")))
        shutil.rmtree(work / UNFINISHED, ignore_errors=True)
        states = _states(work)
        kept = f"the state of step {states[-1][0]} is kept" if states else "there is no earlier state"
        raise SpeechmillError(
            f"the state of step {step} could not be saved in {work} ({str(error).splitlines()[0]}); it takes about"
            f" {_gigabytes(needed)}, and {_gigabytes(shutil.disk_usage(work).free)} are free there. Make room and run"
            f" the same command again: {kept}"
        ) from error


def commit(work: Path, step: int) -> None:
    """Make what was written of the state of `step` one that can be gone on from, and drop older ones.

    Everything that a state stands for, the log included, is on the disk before the state is.
    """
    if (work / LOG).is_file():
        _sync(work / LOG)
    state = work / UNFINISHED / f"checkpoint-{step}"
    sync_files(state)
    manifest = {path.name: _stamp(path) for path in sorted(state.iterdir())}
    (state / _MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    sync_files(state)
    whole = work / state.name
    shutil.rmtree(whole, ignore_errors=True)
    state.rename(whole)
    _sync(work)
    for _, older in _states(work)[:-_STATES]:
        shutil.rmtree(older)
    for broken in work.glob("broken-*"):
        shutil.rmtree(broken)


def sync_files(folder: Path) -> None:
    """Wait until the files of `folder`, and their names, are on the disk."""
    for path in folder.iterdir():
        _sync(path)
    _sync(folder)


def cut_log(work: Path, step: int) -> None:
    """Take out of the log in `work` what training wrote after `step`, and the summary of one that ended."""
    log = work / LOG
    if log.is_file():
        # Without a last line that a kill cut short.
        lines = log.read_text(encoding="utf-8").rpartition("\n")[0].splitlines()
        logged = [(line, json.loads(line)) for line in lines]
        kept = [line for line, values in logged if values["step"] <= step and "train_runtime" not in values]
        with atomic_write(log) as beside:
            beside.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")


def append_log(work: Path, row: dict[str, Any]) -> None:
    """Append a row to the log in `work`."""
    with (work / LOG).open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def read_log(work: Path) -> list[dict[str, Any]]:
    """The rows of the log in `work`."""
    log = work / LOG
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.is_file() else []


def link(source: str, target: str) -> None:
    """Link a file to another name, or copy it."""
    try:
        os.link(source, target)
    except OSError:
        # Results may lie on another disk than the states of training.
        shutil.copy(source, target)


def _states(work: Path) -> list[tuple[int, Path]]:
    return sorted((step_of(path), path) for path in work.glob("*") if re.fullmatch(r"checkpoint-\d+", path.name))


def _fault(state: Path) -> str | None:
    """What is wrong with a state, or None where it is whole."""
    try:
        manifest = json.loads((state / _MANIFEST).read_text(encoding="utf-8"))
        for name, saved in manifest.items():
            found = _stamp(state / name)
            if found["bytes"] != saved["bytes"]:
                return f"{name} has {found['bytes']} bytes of {saved['bytes']}"
            if found != saved:
                return f"{name} is not as it was saved"
    except (OSError, ValueError) as error:
        return str(error)
    return None


def _stamp(path: Path) -> dict[str, int | str]:
    """The size of a file and the sha256 of its ends, which are all of a small one."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        digest = hashlib.sha256()
        for start in sorted({0, max(0, size - _END_BYTES)}):
            file.seek(start)
            digest.update(file.read(_END_BYTES))
    return {"bytes": size, "sha256": digest.hexdigest()}


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.2f} GB"
