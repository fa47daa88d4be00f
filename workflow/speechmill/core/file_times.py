"""Modification times in the future, which files have after the clock was set back."""

import os
import re
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

# Relative, as rules name them: a folder of the same name elsewhere may belong to others.
_RESULTS = re.compile(r"(?:[^/].*?/)??results(?=/)")


def reset_future_times(arguments: Iterable[str]) -> None:
    """Give files with a time in the future the present time, in the folders `results` that `arguments` name.

    Snakemake sets the times of a job's outputs when the job ends, and deletes outputs that are older than any input
    (https://github.com/snakemake/snakemake/issues/3261). All files are reset and not only the inputs of the job, so
    that no file becomes older than one that it was made of.
    """
    for folder in {found[0] for each in arguments if (found := _RESULTS.match(each))}:
        for parent, folders, files in os.walk(folder):
            for name in (*folders, *files):
                path = Path(parent, name)
                # Another job may have deleted the file, or another user may own it.
                with suppress(OSError):
                    if path.lstat().st_mtime > time.time():
                        os.utime(path, follow_symlinks=False)
