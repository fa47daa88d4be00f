"""GPUs under `--resources gpu=N`: rules and locks are real, the programs and the two devices are stand-ins."""

import itertools
import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from working_copy import WorkingCopy, tiny_config, working_copy

from speechmill.core.files import write_json

pytestmark = pytest.mark.slow

STEPS, SETS, SHARDS = (3, 6), ("dev", "test"), {"train": 2, "dev": 1, "test": 1}

# Replaces a stage: acquires its devices as the stage does, and records which it had, from when to when.
STAND_IN = """
import argparse, json, os, time
from pathlib import Path
from threading import Event

import torch

from speechmill.model.devices import acquire_devices

parser = argparse.ArgumentParser(allow_abbrev=False)
for name in ("--run", "--settings", "--gpus", "--ctc-outputs", "--checkpoints", "--record", "--log"):
    parser.add_argument(name)
args, _ = parser.parse_known_args()
settings = json.loads(args.settings)
torch.cuda.device_count = lambda: 2
with acquire_devices(settings["device"], args.run, int(args.gpus), settings.get("gpus", 1)):
    start = time.monotonic_ns()
    records = Path(os.environ["RECORDS"])
    # Training has all devices and waits for no other job.
    if args.ctc_outputs:
        (records / f"{os.getpid()}.started").touch()
        for _ in range(600):
            if len(list(records.glob("*.started"))) >= int(os.environ["CONCURRENT"]):
                break
            Event().wait(0.1)
    record = {"job": args.ctc_outputs or args.record, "devices": os.environ["CUDA_VISIBLE_DEVICES"].split(",")}
    record |= {"start": start, "end": time.monotonic_ns()}
    (records / f"{os.getpid()}.json").write_text(json.dumps(record))
for file in (args.ctc_outputs, args.record, args.log):
    if file:
        Path(file).write_text("{}")
if args.record:
    Path(args.checkpoints).mkdir()
"""


class Record(NamedTuple):
    """The devices of a job, and its start and end in nanoseconds."""

    job: str
    devices: list[str]
    start: int
    end: int

    def overlaps(self, other: "Record") -> bool:
        """Return whether both jobs had devices at the same time."""
        return self.start < other.end and other.start < self.end


@pytest.fixture
def copy(tmp_path: Path) -> WorkingCopy:
    """Two runs with all files that their jobs on GPUs need: one is trained on two GPUs, the other has been trained."""
    copy = working_copy(tmp_path / "copy")
    for module in ("inference/log_probs", "training/finetune"):
        (copy.folder / f"workflow/speechmill/{module}.py").write_text(STAND_IN)
    copy.edit("workflow/speechmill/dag/hardware.py", "torch.cuda.device_count()", "2")
    data = [f"results/data/demo_ru/{split}/shard-{i:05d}.parquet" for split in SHARDS for i in range(SHARDS[split])]
    of_run = [f"clips/{role}.{kind}" for role in ("train", "dev") for kind in ("parquet", "sha256")]
    of_run += [f"clips/demo_ru-{each}.{kind}" for each in SETS for kind in ("parquet", "sha256")]
    of_run += [f"vocab/{name}.json" for name in ("vocab", "tokenizer_config", "processor_config")]
    of_run += ["plan.sha256"]
    for file in [
        "corpus.tar.gz",
        *data,
        *(f"results/runs/{run}/{file}" for run in ("scored", "trained") for file in of_run),
    ]:
        (copy.folder / file).parent.mkdir(parents=True, exist_ok=True)
        (copy.folder / file).touch()
    for run in ("scored", "trained"):
        folder = copy.folder / "results/runs" / run
        write_json({"parameters": 1, "memory_bytes": 1, "checkpoints": STEPS}, folder / "plan.json")
        for each in SETS:
            write_json({"unavailable": None}, folder / f"clips/demo_ru-{each}.json")
    write_json({}, copy.folder / "results/runs/scored/training.json")
    (copy.folder / "results/runs/scored/checkpoints").mkdir()
    return copy


def config(gpus: int) -> dict[str, Any]:
    """Return the configuration of the two runs."""
    settings = tiny_config("corpus.tar.gz")
    run = settings["runs"].pop("demo_ru") | {"device": "gpu"}
    run["evaluation"] = {"sets": [f"demo_ru-{each}" for each in SETS], "worst_clips": 0}
    settings["runs"] = {"scored": run, "trained": run | {"gpus": gpus}}
    return settings


def records(copy: WorkingCopy, gpus: int, concurrent: int, *targets: str) -> list[Record]:
    """Run the jobs for `targets`, and return their records in the order of their start.

    Each forward pass waits until `concurrent` of them have started.
    """
    folder = copy.folder / "records"
    folder.mkdir()
    copy.snakemake(
        config(gpus), *targets, "--allowed-rules", "log_probs", "finetune", "--resources", f"gpu={gpus}", "--notemp",
        RECORDS=str(folder), CONCURRENT=str(concurrent),
    )  # fmt: skip
    found = [Record(**json.loads(file.read_text())) for file in folder.glob("*.json")]
    return sorted(found, key=lambda record: record.start)


CTC_OUTPUTS = [
    f"results/runs/scored/evaluation/{step}/demo_ru-{each}/ctc_outputs.parquet" for step in STEPS for each in SETS
]


def test_two_gpus_run_two_jobs_that_share_none(copy: WorkingCopy) -> None:
    jobs = records(copy, 2, 2, *CTC_OUTPUTS, "results/runs/trained/training.json")
    assert len(jobs) == len(CTC_OUTPUTS) + 1
    pairs = [(one, other) for i, one in enumerate(jobs) for other in jobs[:i] if one.overlaps(other)]
    assert pairs
    assert all(not set(one.devices) & set(other.devices) for one, other in pairs)
    (training,) = [job for job in jobs if "trained" in job.job]
    assert training.devices == ["0", "1"]
    assert {tuple(job.devices) for job in jobs if job is not training} == {("0",), ("1",)}


def test_one_gpu_runs_one_job_at_a_time(copy: WorkingCopy) -> None:
    jobs = records(copy, 1, 1, *CTC_OUTPUTS)
    assert len(jobs) == len(CTC_OUTPUTS)
    assert all(one.end <= other.start for one, other in itertools.pairwise(jobs))
