"""pipeline: the programs of the workflow from clips to a verified card, with a training that is killed and resumed.

They run with the commands that `make gpu-kit` has recorded, without Snakemake.
"""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from graphlib import TopologicalSorter
from pathlib import Path

from gpu.commands import Job, read_jobs
from gpu.step import Step
from speechmill.core.files import read_json

# Jobs that run at the same time; those that need the GPU wait for one another.
_JOBS = 8
# Between looks at files that another program writes, of which nothing notifies.
_POLL_SECONDS = 0.02


class Pipeline:
    """The jobs of the kit in a copy of its files."""

    def __init__(self, step: Step) -> None:
        self._step, self._folder = step, step.work / "pipeline"
        shutil.rmtree(self._folder, ignore_errors=True)
        shutil.copytree(step.kit / "pipeline", self._folder)
        jobs = read_jobs(step.kit)
        self._first, self._second = [job for job in jobs if job.rule == "finetune"]
        self._others = [job for job in jobs if job.rule != "finetune"]

    def run(self) -> None:
        """Run all jobs, and record what must be seen."""
        self._kill_first()
        self._train_both()
        self._run_others()
        self._record_results()

    def _start(self, job: Job) -> subprocess.Popen[bytes]:
        for file in (job.log, *job.outputs):
            (self._folder / file).parent.mkdir(parents=True, exist_ok=True)
        # As Snakemake runs the commands of rules.
        command = ["bash", "-c", f"set -euo pipefail; {job.command}"]
        # In a group of its own, with which it can be killed, but in the session of this step, with which it ends.
        return subprocess.Popen(command, cwd=self._folder, process_group=0)

    def _finish(self, job: Job, process: subprocess.Popen[bytes]) -> None:
        if process.wait() != 0:
            raise RuntimeError(f"{job.rule} failed with status {process.returncode}:\n{self._log(job)[-2000:]}")

    def _log(self, job: Job) -> str:
        file = self._folder / job.log
        return file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""

    def _wait_until(self, condition: Callable[[], bool], process: subprocess.Popen[bytes], job: Job) -> None:
        while not condition():
            if process.poll() is not None:
                raise RuntimeError(f"{job.rule} ended too early:\n{self._log(job)[-2000:]}")
            time.sleep(_POLL_SECONDS)

    def _kill_first(self) -> None:
        """Kill the training of the first run once it has saved a state from which it can resume."""
        started = time.monotonic()
        process = self._start(self._first)
        self._wait_until(lambda: any(self._folder.glob("work/*/*/checkpoint-*")), process, self._first)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        self._step.measured("finetune, killed", seconds=time.monotonic() - started)

    def _train_both(self) -> None:
        """Resume the training of the first run and start that of the second; one of them waits for the GPU."""
        started = time.monotonic()
        first, second = self._start(self._first), self._start(self._second)
        self._finish(self._first, first)
        self._step.measured("finetune, resumed", seconds=time.monotonic() - started)
        self._finish(self._second, second)
        waited = sum(
            all(f"{word} GPU" in self._log(job) for word in ("waiting for", "acquired"))
            for job in (self._first, self._second)
        )
        self._step.measured("finetune of another run", seconds=time.monotonic() - started, waited_for_gpu=waited)
        if not self._step.small and waited != 1:
            raise RuntimeError(f"{waited} of two trainings that need the same GPU waited for it")

    def _run_others(self) -> None:
        """Run all other jobs, each once the jobs that make its inputs have finished."""
        makers = {file: i for i, job in enumerate(self._others) for file in job.outputs}
        needed = {i: {makers[file] for file in job.inputs if file in makers} for i, job in enumerate(self._others)}
        order = TopologicalSorter(needed)
        order.prepare()
        running: dict[Future[float], int] = {}
        with ThreadPoolExecutor(_JOBS) as threads:
            while order.is_active():
                running |= {threads.submit(self._run_one, self._others[i]): i for i in order.get_ready()}
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    number = running.pop(future)
                    job = self._others[number]
                    self._step.measured(f"{job.rule} {Path(job.log).stem}", seconds=future.result())
                    order.done(number)

    def _run_one(self, job: Job) -> float:
        started = time.monotonic()
        self._finish(job, self._start(job))
        return time.monotonic() - started

    def _record_results(self) -> None:
        training = read_json(self._folder / self._first.outputs[1])
        device = training["hardware"]["device"]
        self._step.measured("training", device=device, sessions=training["sessions"])
        for job in self._others:
            if job.rule == "evaluate":
                scores = read_json(self._folder / job.outputs[0])
                values = {key: scores[key] for key in ("wer", "loss", "clips_scored")}
                self._step.measured(f"scores {Path(job.log).stem}", **values)
        (verify,) = [job for job in self._others if job.rule == "verify"]
        self._step.measured("verify", output=self._log(verify).splitlines()[-3:])
        if not self._step.small and device == "cpu":
            raise RuntimeError("training ran on the CPU")


def main(step: Step) -> None:
    """Run the programs, and record what must be seen."""
    Pipeline(step).run()
