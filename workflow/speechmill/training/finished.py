"""The results of a finished training run in its work folder, where they stay until a later rule has used them.

Snakemake deletes the outputs of a job that it could not accept: it was killed at that moment, an upload to storage
failed, an output was missing. The next run takes the results from here and trains nothing. The rule `select` deletes
them.
"""

import shutil
from pathlib import Path
from typing import Any

from speechmill.core.command import SpeechmillError
from speechmill.core.files import check_files, check_folder, read_json, write_json, write_text
from speechmill.training.checkpoint_callback import CHECKPOINTS
from speechmill.training.resume_state import LOG, link, resume_states, step_of, sync_files

_RECORD = "training.json"


def finished_folder(work: Path) -> Path:
    """Return the name that the work folder of a training run has once it is finished."""
    return work.with_name(f"finished-{work.name}")


def finish(work: Path, record: dict[str, Any]) -> None:
    """Complete the results of a training run that has trained all steps, and rename its work folder.

    Args:
        work: The work folder, with the checkpoints of the steps that `record` lists as `kept`.
        record: The content of `training.json`.

    Raises:
        SpeechmillError: A checkpoint is missing.
    """
    for step in record["kept"]:
        if not (work / CHECKPOINTS / f"checkpoint-{step}").is_dir():
            raise SpeechmillError(
                f"{work / CHECKPOINTS} lacks the checkpoint of step {step}, which another program has removed; to start"
                f" over: rm -r {work.parent}"
            )
    write_json(record, work / _RECORD)
    sync_files(work)
    # Only now, since a resume state is needed until all results are complete.
    work.rename(finished_folder(work))


def check_finished(finished: Path) -> None:
    """Compare the results of a finished training run with the digests that were recorded when they were written.

    Raises:
        SpeechmillError: A file is missing, or has changed.
    """
    record = read_json(finished / _RECORD)
    check_files(finished, record["sha256"])
    for step in record["kept"]:
        check_folder(finished / CHECKPOINTS / f"checkpoint-{step}")


def export(finished: Path, checkpoints: Path, record: Path, log: Path) -> None:
    """Write the results of a finished training run to the outputs of the rule.

    Checkpoints are hard links, which need no disk space. Resume states, which do, are deleted.
    """
    kept = read_json(finished / _RECORD)["kept"]
    worse = [folder for folder in (finished / CHECKPOINTS).iterdir() if step_of(folder) not in kept]
    for folder in (*resume_states(finished), *worse):
        shutil.rmtree(folder)
    shutil.rmtree(checkpoints, ignore_errors=True)
    shutil.copytree(finished / CHECKPOINTS, checkpoints, copy_function=link)
    for name, output in ((LOG, log), (_RECORD, record)):
        # One for the rule, and a copy with which a damaged one can be restored without training again.
        for target in (output, checkpoints / name):
            write_text((finished / name).read_text(encoding="utf-8"), target)
