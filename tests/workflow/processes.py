"""Processes that run in a folder, and their kills."""

import os
import signal
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


def processes(folder: Path) -> dict[int, str]:
    """Return the names of the processes whose working directory is `folder`, by their number (proc(5))."""
    names = {}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (process / "cwd").readlink() == folder:
                names[int(process.name)] = (process / "comm").read_text().strip()
    return names


def kill(numbers: Iterable[int]) -> None:
    """Kill processes, some of which may have ended already."""
    for number in numbers:
        with suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)


def kill_all(folder: Path) -> None:
    """Kill all processes whose working directory is `folder`, until there are none, as when a node is lost."""
    while running := processes(folder):
        kill(running)
