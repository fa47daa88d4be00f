"""Run all steps, each in a process of its own with a time limit, and print the table of their results."""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from gpu.results import append, read, table

RESULTS = "results.jsonl"
# The end of the output of a step that the results keep, in characters.
_OUTPUT = 3000


class Check(NamedTuple):
    """A step: the module of this package that it runs, and its time limit in seconds."""

    name: str
    limit: float


# In the order in which they run: the most important first, after what they need. The limits add up to eight minutes.
CHECKS = (
    Check("inputs", 35),
    Check("speed", 150),
    Check("memory", 35),
    Check("recipes", 60),
    Check("inference", 30),
    Check("pipeline", 125),
    Check("synchronisation", 20),
    Check("profiler", 25),
)


def run_check(check: Check, command: Sequence[str], results: Path, log: Path) -> bool:
    """Run the program of a step, record its outcome, and return whether it succeeded.

    All its processes are killed at the time limit. Its output goes to `log`, and the end of it to the results.
    """
    started = time.monotonic()
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            status: int | None = process.wait(check.limit)
        except subprocess.TimeoutExpired:
            status = None
        # A failed step may leave processes behind as well, which would hold the GPU.
        _kill_session(process.pid)
        process.wait()
    outcome = {None: "timed out", 0: "ok"}.get(status, "failed")
    output = log.read_text(encoding="utf-8", errors="replace")[-_OUTPUT:]
    append(
        results,
        {
            "step": check.name,
            "outcome": outcome,
            "status": status,
            "seconds": time.monotonic() - started,
            "limit": check.limit,
            "output": output,
        },
    )
    print(f"{check.name}: {outcome}", flush=True)
    return outcome == "ok"


def _kill_session(leader: int) -> None:
    """Kill all processes of a session, which may be in several process groups (proc(5))."""
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            # After the name of the program, which is in brackets: state, parent, group, session.
            if int(file.read_text().rpartition(")")[2].split()[3]) == leader:
                os.kill(int(file.parent.name), signal.SIGKILL)


def main() -> None:
    """Run the steps; exit with status 1 if one of them failed."""
    parser = argparse.ArgumentParser(prog="tests/gpu/run.sh", description=__doc__)
    parser.add_argument("folder", type=Path, help="the folder of the results; earlier results in it are deleted")
    parser.add_argument("--kit", type=Path, required=True, help="the folder that `make gpu-kit` has written")
    parser.add_argument("--small", action="store_true", help="run on a CPU, with tiny models and little audio")
    parser.add_argument("--only", nargs="+", choices=[check.name for check in CHECKS], help="run only these steps")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    results, work = args.folder / RESULTS, args.folder / "work"
    results.unlink(missing_ok=True)
    passed = True
    try:
        for check in CHECKS:
            if args.only and check.name not in args.only:
                continue
            command = ["python", "-m", f"gpu.{check.name}", "--name", check.name, "--results", str(results)]
            command += ["--work", str(work), "--kit", str(args.kit), *(["--small"] if args.small else [])]
            if args.small:
                # The limits are for a GPU; tests share a processor with others.
                check = check._replace(limit=5 * check.limit)
            passed &= run_check(check, command, results, args.folder / f"{check.name}.log")
    finally:
        # Gigabytes that are not results.
        shutil.rmtree(work, ignore_errors=True)
        if results.exists():
            print(table(read(results)), flush=True)
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
