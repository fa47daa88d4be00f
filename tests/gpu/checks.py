"""Run all steps, each in a process of its own with a time limit, and print the table of their results."""

import argparse
import multiprocessing
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from gpu import inference, inputs, kernels, memory, pipeline, profiler, recipes, speed, synchronisation
from gpu.results import append, read, table
from gpu.step import Step

RESULTS = "results.jsonl"
# The end of the output of a step that the results keep, in characters.
_OUTPUT = 3000


class Check(NamedTuple):
    """A step: its name, the function that runs it, and its time limit in seconds."""

    name: str
    main: Callable[[Step], None]
    limit: float


# In the order in which they run: the most important first, after what they need. The limits add up to eight minutes.
CHECKS = (
    Check("inputs", inputs.main, 25),
    Check("speed", speed.main, 140),
    Check("inference", inference.main, 30),
    Check("kernels", kernels.main, 15),
    Check("memory", memory.main, 30),
    Check("recipes", recipes.main, 30),
    Check("pipeline", pipeline.main, 180),
    Check("synchronisation", synchronisation.main, 15),
    Check("profiler", profiler.main, 15),
)
# Imports take ten seconds where packages are read for the first time, once for all steps that are forked from this
# process. It must not use the GPU itself, since CUDA does not work after a fork.
_FORK = multiprocessing.get_context("fork")


def run_check(check: Check, step: Step, log: Path) -> bool:
    """Run a step in a process of its own, record its outcome, and return whether it succeeded.

    All its processes are killed at the time limit. Its output goes to `log`, and the end of it to the results.
    """
    log.write_text("", encoding="utf-8")
    started = time.monotonic()
    process = _FORK.Process(target=_run, args=(check, step, log))
    process.start()
    process.join(check.limit)
    status = process.exitcode
    # A failed step may leave processes behind as well, which would hold the GPU.
    _kill_session(process.pid or 0)
    process.join()
    outcome = {None: "timed out", 0: "ok"}.get(status, "failed")
    output = log.read_text(encoding="utf-8", errors="replace")[-_OUTPUT:]
    append(
        step.results,
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


def _run(check: Check, step: Step, log: Path) -> None:
    os.setsid()
    with log.open("w", encoding="utf-8", buffering=1) as out:
        # For programs that the step starts, and for its own Python code.
        for stream in (1, 2):
            os.dup2(out.fileno(), stream)
        sys.stdout = sys.stderr = out
        try:
            check.main(step)
        except Exception:
            traceback.print_exc()
            sys.exit(1)


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
            if args.small:
                # The limits are for a GPU; tests share a processor with others.
                check = check._replace(limit=5 * check.limit)
            step = Step(check.name, results, work, args.kit, args.small)
            passed &= run_check(check, step, args.folder / f"{check.name}.log")
    finally:
        # Gigabytes that are not results.
        shutil.rmtree(work, ignore_errors=True)
        if results.exists():
            print(table(read(results)), flush=True)
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
