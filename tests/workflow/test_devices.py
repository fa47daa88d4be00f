"""What `--resources gpu=N` makes of jobs that want GPUs: rules and locks are real, the two devices stand in."""

import itertools
import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from working_copy import WorkingCopy, tiny_config, working_copy

from speechmill.core.files import write_json

pytestmark = pytest.mark.slow

STEPS, SETS, SHARDS = (3, 6), ("dev", "test"), {"train": 2, "dev": 1, "test": 1}

# In the place of a stage: it takes its devices as the stage does, and notes from when to when it had which.
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
    begun = time.monotonic_ns()
    notes = Path(os.environ["NOTES"])
    # Training has all devices: it waits for nobody.
    if args.ctc_outputs:
        (notes / f"{os.getpid()}.begun").touch()
        for _ in range(600):
            if len(list(notes.glob("*.begun"))) >= int(os.environ["AT_ONCE"]):
                break
            Event().wait(0.1)
    note = {"job": args.ctc_outputs or args.record, "devices": os.environ["CUDA_VISIBLE_DEVICES"].split(",")}
    note |= {"begun": begun, "ended": time.monotonic_ns()}
    (notes / f"{os.getpid()}.json").write_text(json.dumps(note))
for file in (args.ctc_outputs, args.record, args.log):
    if file:
        Path(file).write_text("{}")
if args.checkpoints:
    Path(args.checkpoints).mkdir()
"""


class Note(NamedTuple):
    """Which devices a job had, from when to when."""

    job: str
    devices: list[str]
    begun: int
    ended: int

    def beside(self, other: "Note") -> bool:
        """Whether both jobs had devices at the same time."""
        return self.begun < other.ended and other.begun < self.ended


@pytest.fixture
def copy(tmp_path: Path) -> WorkingCopy:
    """Two runs as far as their GPUs are wanted: one is trained, on two of them, the other is to hear its sets."""
    made = working_copy(tmp_path / "copy")
    for stage in ("log_probs", "finetune"):
        (made.folder / f"workflow/speechmill/{stage}.py").write_text(STAND_IN)
    data = [f"results/data/demo_ru/{split}/shard-{i:05d}.parquet" for split in SHARDS for i in range(SHARDS[split])]
    of_run = [f"clips/{role}.{kind}" for role in ("train", "dev") for kind in ("parquet", "sha256")]
    of_run += [f"clips/demo_ru-{each}.{kind}" for each in SETS for kind in ("parquet", "sha256")]
    of_run += [f"vocab/{name}.json" for name in ("vocab", "tokenizer_config", "processor_config")]
    of_run += ["plan.sha256"]
    for file in [
        "corpus.tar.gz",
        *data,
        *(f"results/runs/{run}/{file}" for run in ("heard", "trained") for file in of_run),
    ]:
        (made.folder / file).parent.mkdir(parents=True, exist_ok=True)
        (made.folder / file).touch()
    for run in ("heard", "trained"):
        folder = made.folder / "results/runs" / run
        write_json({"parameters": 1, "memory_bytes": 1, "checkpoints": STEPS}, folder / "plan.json")
        for each in SETS:
            write_json({"unavailable": None}, folder / f"clips/demo_ru-{each}.json")
    write_json({}, made.folder / "results/runs/heard/training.json")
    (made.folder / "results/runs/heard/checkpoints").mkdir()
    return made


def config(gpus: int) -> dict[str, Any]:
    made = tiny_config("corpus.tar.gz")
    del made["speak"]
    run = made["runs"].pop("demo_ru") | {"device": "gpu"}
    run["evaluation"] = {"sets": [f"demo_ru-{each}" for each in SETS], "worst_clips": 0}
    made["runs"] = {"heard": run, "trained": run | {"gpus": gpus}}
    return made


def ran(copy: WorkingCopy, gpus: int, at_once: int, *targets: str) -> list[Note]:
    """The jobs that make `targets`, in their order; each pass waits until `at_once` of them have begun."""
    notes = copy.folder / "notes"
    notes.mkdir()
    copy.snakemake(
        config(gpus), *targets, "--allowed-rules", "log_probs", "finetune", "--resources", f"gpu={gpus}", "--notemp",
        NOTES=str(notes), AT_ONCE=str(at_once),
    )  # fmt: skip
    found = [Note(**json.loads(file.read_text())) for file in notes.glob("*.json")]
    return sorted(found, key=lambda note: note.begun)


def frames() -> list[str]:
    return [f"results/runs/heard/evaluation/{step}/demo_ru-{each}/ctc_outputs.parquet" for step in STEPS for each in SETS]


def test_with_two_gpus_two_jobs_work_at_once_and_never_share_one(copy: WorkingCopy) -> None:
    jobs = ran(copy, 2, 2, *frames(), "results/runs/trained/training.json")
    assert len(jobs) == len(frames()) + 1
    pairs = [(one, other) for i, one in enumerate(jobs) for other in jobs[:i] if one.beside(other)]
    assert pairs
    assert all(not set(one.devices) & set(other.devices) for one, other in pairs)
    (training,) = [job for job in jobs if "trained" in job.job]
    assert training.devices == ["0", "1"]
    assert {tuple(job.devices) for job in jobs if job is not training} == {("0",), ("1",)}


def test_with_one_gpu_no_two_jobs_have_it_at_once(copy: WorkingCopy) -> None:
    jobs = ran(copy, 1, 1, *frames())
    assert len(jobs) == len(frames())
    assert all(one.ended <= other.begun for one, other in itertools.pairwise(jobs))
