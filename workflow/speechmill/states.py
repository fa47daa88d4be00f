"""The states of a training in its work folder: kept so that a killed one goes on from the newest whole one."""

import json
import os
import shutil
from pathlib import Path

from speechmill.command import written_whole

WEIGHTS = "model.safetensors"

_COMPLETE = "complete"


def newest_state(work: Path) -> Path | None:
    """The newest state in `work` that was saved to its end, and cut the log back to it."""
    states = sorted(
        (int(path.name.removeprefix("checkpoint-")), path)
        for path in work.glob("checkpoint-*")
        if (path / _COMPLETE).is_file()
    )
    step, state = states[-1] if states else (0, None)
    log = work / "training.jsonl"
    if log.is_file():
        # Without a last line that a kill cut short, and without the summary of a training that ended.
        lines = log.read_text(encoding="utf-8").rpartition("\n")[0].splitlines()
        logged = [(line, json.loads(line)) for line in lines]
        kept = [line for line, values in logged if values["step"] <= step and "train_runtime" not in values]
        with written_whole(log) as beside:
            beside.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
    return state


def mark_complete(state: Path) -> None:
    """Mark a state as one that was saved to its end."""
    (state / _COMPLETE).touch()


def link(source: str, target: str) -> None:
    """Link a file to another name, or copy it."""
    try:
        os.link(source, target)
    except OSError:
        # Results may lie on another disk than the states of training.
        shutil.copy(source, target)
