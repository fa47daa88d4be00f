"""Resume states in the work folder of a training run: a stopped run resumes from the newest intact state."""

import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from speechmill.core.command import DISK_FULL, SpeechmillError
from speechmill.core.files import file_digest, read_json, write_json, write_text

LOG = "training.jsonl"

UNFINISHED = "unfinished"
"""The folder in which a state is written before it is complete and gets its final name."""

_TIME = "training_time.json"
# Written last, so that a state with this file is complete.
_MANIFEST = "complete"
# The newest state, and one to fall back on if the newest is corrupt.
_KEPT_STATES = 2
# What release 0.1.0 recorded of a file.
_ENDS_DIGEST = "sha256"
_END_BYTES = 1 << 20


@dataclass(frozen=True)
class TrainingTime:
    """The time that the work in a resume state took: steps, dev evaluations and saves, in all sessions.

    A session is a start of the training that saved a state. Waiting for devices, loading, and work that a kill
    discarded are not counted.
    """

    wall_seconds: float
    sessions: int


def read_training_time(state: Path | None) -> TrainingTime:
    """Return the training time that a state records; zero for None."""
    return TrainingTime(**read_json(state / _TIME)) if state else TrainingTime(0.0, 0)


def write_training_time(time: TrainingTime, state: Path) -> None:
    """Record the training time in a state that is not committed yet."""
    write_json(asdict(time), state / _TIME)


def newest_resume_state(work: Path) -> Path | None:
    """Return the newest intact state in `work`, or None.

    A state with a missing, truncated or changed file is renamed to `broken-{step}`, with a message on stderr.
    """
    shutil.rmtree(work / UNFINISHED, ignore_errors=True)
    for state in reversed(resume_states(work)):
        defect = _defect(state)
        if defect is None:
            return state
        step = step_of(state)
        broken = work / f"broken-{step}"
        print(f"the resume state of step {step} is corrupt and was moved to {broken}: {defect}", file=sys.stderr)
        shutil.rmtree(broken, ignore_errors=True)
        state.rename(broken)
    return None


def resume_states(work: Path) -> list[Path]:
    """Return the resume states in `work`, the newest last."""
    return sorted((path for path in work.glob("*") if re.fullmatch(r"checkpoint-\d+", path.name)), key=step_of)


def step_of(state: Path | None) -> int:
    """Return the step at which a state or a checkpoint was saved; 0 for None."""
    return int(state.name.removeprefix("checkpoint-")) if state else 0


def empty_unfinished(work: Path) -> None:
    """Create an empty folder for the next state."""
    shutil.rmtree(work / UNFINISHED, ignore_errors=True)
    (work / UNFINISHED).mkdir(parents=True)


@contextmanager
def writing_state(work: Path, step: int, needed: int = 0) -> Iterator[None]:
    """Delete the unfinished state and raise a clear error if the block cannot write it.

    Args:
        work: The work folder.
        step: The step of the state that is being written.
        needed: The expected size of the state in bytes.

    Raises:
        SpeechmillError: The disk is full, or another error of the file system; the message names the folder, the
            reason and the state that is kept, and the size where the disk is full.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        # torch raises RuntimeError both for failed writes and for unrelated errors.
        if isinstance(error, RuntimeError) and not any(word in str(error) for word in ("inline_container", "iostream")):
            raise
        needed = max(needed, sum(path.stat().st_size for path in (work / UNFINISHED).glob("*/*")))
        shutil.rmtree(work / UNFINISHED, ignore_errors=True)
        states = resume_states(work)
        kept = f"the state of step {step_of(states[-1])} is kept" if states else "there is no earlier state"
        advice = "Run the same command again once the reason is removed"
        if _is_disk_full(error):
            advice = (
                f"It needs about {_gigabytes(needed)}, and {_gigabytes(shutil.disk_usage(work).free)} are free: free"
                " some space and run the same command again"
            )
        raise SpeechmillError(
            f"the resume state of step {step} could not be saved in {work} ({str(error).splitlines()[0]}); {kept}."
            f" {advice}"
        ) from error


def commit(work: Path, step: int) -> None:
    """Complete the unfinished state of `step` so that training can resume from it, and delete older states.

    The log and all files of the state are synced to disk before the state gets its final name.
    """
    if (work / LOG).is_file():
        _sync(work / LOG)
    state = work / UNFINISHED / f"checkpoint-{step}"
    sync_files(state)
    manifest = {path.name: _stamp(path) for path in sorted(state.iterdir())}
    (state / _MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    sync_files(state)
    committed = work / state.name
    shutil.rmtree(committed, ignore_errors=True)
    state.rename(committed)
    _sync(work)
    for older in resume_states(work)[:-_KEPT_STATES]:
        shutil.rmtree(older)
    for broken in work.glob("broken-*"):
        shutil.rmtree(broken)


def sync_files(folder: Path) -> None:
    """Sync the files of `folder` and its directory entries to disk."""
    for path in folder.iterdir():
        _sync(path)
    _sync(folder)


def cut_log(work: Path, step: int) -> None:
    """Remove the rows after `step`, and the summary of a finished run, from the log in `work`."""
    log = work / LOG
    if log.is_file():
        # An incomplete last line, left by a kill, is dropped.
        logged = _rows(log, log.read_bytes().rpartition(b"\n")[0])
        kept = [line for line, values in logged if values["step"] <= step and "train_loss" not in values]
        write_text("".join(f"{line.decode()}\n" for line in kept), log)


def append_log(work: Path, row: dict[str, Any]) -> None:
    """Append a row to the log in `work`."""
    with (work / LOG).open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def read_log(work: Path) -> list[dict[str, Any]]:
    """Return the rows of the log in `work`."""
    log = work / LOG
    return [values for _, values in _rows(log, log.read_bytes())] if log.is_file() else []


def _rows(log: Path, content: bytes) -> list[tuple[bytes, dict[str, Any]]]:
    """Return each line of a log with its values.

    Raises:
        SpeechmillError: A line is not JSON.
    """
    rows = []
    for number, line in enumerate(content.splitlines(), 1):
        try:
            rows.append((line, json.loads(line)))
        except ValueError as error:
            raise SpeechmillError(
                f"line {number} of {log} is corrupt ({error}); delete that line and run the same command again: no"
                " weights depend on it"
            ) from error
    return rows


def link(source: str, target: str) -> None:
    """Create a hard link `target` to the file `source`, or a copy if the file systems differ."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy(source, target)


def _defect(state: Path) -> str | None:
    """Return what is wrong with a state, or None if it is intact."""
    try:
        manifest = json.loads((state / _MANIFEST).read_text(encoding="utf-8"))
        for name, saved in manifest.items():
            size = (state / name).stat().st_size
            if size != saved["bytes"]:
                return f"{name} has {size} bytes instead of {saved['bytes']}"
            # Release 0.1.0 recorded another digest, of the ends of the file.
            if saved != (_ends_stamp(state / name) if _ENDS_DIGEST in saved else _stamp(state / name)):
                return f"{name} has changed since it was saved"
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        return str(error)
    return None


def _is_disk_full(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.errno in DISK_FULL
    # The messages of safetensors end with the number of the error; those of torch have none.
    number = re.search(r"os error (\d+)", str(error))
    return number is None or int(number[1]) in DISK_FULL


def _stamp(path: Path) -> dict[str, int | str]:
    """Return the size of a file and its sha256."""
    return {"bytes": path.stat().st_size, "digest": file_digest(path)}


def _ends_stamp(path: Path) -> dict[str, int | str]:
    """Return the size of a file and the sha256 of both of its ends, which cover a small file completely."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        digest = hashlib.sha256()
        for start in sorted({0, max(0, size - _END_BYTES)}):
            file.seek(start)
            digest.update(file.read(_END_BYTES))
    return {"bytes": size, _ENDS_DIGEST: digest.hexdigest()}


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.2f} GB"
