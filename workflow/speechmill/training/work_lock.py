"""One training at a time in the work folder of a run.

A job outlives a Snakemake that is killed alone. The next run starts the same training again, which has to wait: two
trainings would delete each other's resume states, and write the same results.
"""

import errno
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

# Network file systems may be mounted without support for locks, and training must be possible there.
_UNSUPPORTED = {errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK}
_POLL_SECONDS = 1


@contextmanager
def exclusive_use(work: Path, run: str) -> Iterator[None]:
    """Lock the work folder of `run` until the block ends; wait if another process holds the lock.

    A line on stderr names the process that is waited for. The operating system releases the lock of a killed process.
    """
    work.mkdir(parents=True, exist_ok=True)
    file = work / "lock"
    lock = FileLock(file, fallback_to_soft=False)
    try:
        try:
            lock.acquire(blocking=False)
        except Timeout:
            holder = file.read_text(encoding="utf-8") or "another process"
            print(
                f"waiting for {holder}, which is training run {run} in {work}: a job continues when snakemake alone is"
                " killed. This job takes over its results, or resumes from its last save if you stop it with kill",
                file=sys.stderr,
                flush=True,
            )
            lock.acquire(poll_interval=_POLL_SECONDS)
        file.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        print(
            f"warning: {work} cannot be locked, because its file system does not support it ({error}): make sure that"
            f" no other process is training run {run}",
            file=sys.stderr,
        )
    try:
        yield
    finally:
        lock.release()
