"""The results of a finished training run in its work folder, where they stay until a later rule has used them.

Snakemake deletes the outputs of a job that it could not accept: it was killed at that moment, an upload to storage
failed, an output was missing. The next run takes the results from here and trains nothing. The rule `select` deletes
them.
"""

import shutil
from pathlib import Path
from typing import Any

from speechmill.core.command import SpeechmillError
from speechmill.core.files import file_digest, read_json, write_json, write_text
from speechmill.training.checkpoint_callback import CHECKPOINTS
from speechmill.training.resume_state import LOG, link, resume_states, step_of, sync_files

_RECORD = "training.json"
_DIGESTS = "sha256.json"


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
    write_json(record, work / _RECORD)
    files = [work / _RECORD, work / LOG]
    for step in record["kept"]:
        checkpoint = work / CHECKPOINTS / f"checkpoint-{step}"
        if not checkpoint.is_dir():
            raise SpeechmillError(
                f"{work / CHECKPOINTS} lacks the checkpoint of step {step}, which another program has removed; to start"
                f" over: rm -r {work.parent}"
            )
        files += sorted(checkpoint.iterdir())
    write_json({path.relative_to(work).as_posix(): file_digest(path) for path in files}, work / _DIGESTS)
    sync_files(work)
    # Only now, since a resume state is needed until all results are complete.
    work.rename(finished_folder(work))


def check_finished(finished: Path) -> None:
    """Compare the results of a finished training run with the digests that were recorded when it ended.

    Raises:
        SpeechmillError: A file is missing, or has changed.
    """
    for name, digest in read_json(finished / _DIGESTS).items():
        path = finished / name
        if not path.is_file() or file_digest(path) != digest:
            raise SpeechmillError(
                f"{path} {'has changed' if path.is_file() else 'is missing'} since training finished, so its results"
                f" cannot be used again. To train again from the start: rm -r {finished}, and run snakemake again"
            )


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
        write_text((finished / name).read_text(encoding="utf-8"), output)
