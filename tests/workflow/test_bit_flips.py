"""Damage to files of a finished run: the stage that reads a file names it, or its outputs are the same.

`tests/unit/core/test_tables.py` and `tests/unit/core/test_files.py` flip every bit of a table and of a JSON file.
"""

import base64
import json
import os
import random
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from working_copy import WorkingCopy

from speechmill.core.tables import ctc_outputs_metadata, read_table

pytestmark = pytest.mark.slow

DATA, RUN = "results/data/demo_ru", "results/runs/demo_ru"
SCORES = f"{RUN}/evaluation/{{step}}/demo_ru-dev"
CHECKPOINT = f"{RUN}/checkpoints/checkpoint-{{step}}"

# An output, and the files that the job reads which makes it. `{step}` is the selected step.
READ_FOR = {
    f"{DATA}/train/rows-00000.parquet": ["results/raw/demo_ru/train/shard-00000.parquet"],
    f"{DATA}/status.json": ["results/raw/demo_ru/source.json"],
    f"{DATA}/train/index.parquet": [f"{DATA}/train/rows-00000.parquet"],
    f"{DATA}/audit.json": [f"{DATA}/rejected.parquet"],
    f"{RUN}/clips/train.parquet": [
        f"{DATA}/train/index.parquet",
        f"{DATA}/status.json",
        f"{RUN}/clips/demo_ru-dev.parquet",
    ],
    f"{RUN}/vocab/vocab.json": [f"{RUN}/clips/train.parquet"],
    f"{RUN}/plan.json": [f"{RUN}/vocab/vocab.json", f"{RUN}/clips/train.json", f"{RUN}/clips/leakage.json"],
    f"{RUN}/training.json": [
        f"{RUN}/clips/train.sha256",
        f"{RUN}/plan.json",
        f"{RUN}/vocab/processor_config.json",
        f"{RUN}/vocab/sha256.json",
    ],
    f"{RUN}/lm/arpa.json": [f"{RUN}/lm/text.txt", f"{RUN}/vocab/tokenizer_config.json"],
    f"{SCORES}/ctc_outputs.parquet": [
        f"{CHECKPOINT}/model.safetensors",
        f"{CHECKPOINT}/config.json",
        f"{CHECKPOINT}/sha256.json",
        f"{DATA}/dev/shard-00000.parquet",
        f"{RUN}/clips/demo_ru-dev.json",
    ],
    f"{SCORES}/lm/metrics.json": [
        f"{SCORES}/log_probs.parquet",
        *(f"{RUN}/lm/{name}" for name in ("lm.binary", "lexicon.txt", "tokens.txt", "arpa.json", "weights.json")),
    ],
    f"{RUN}/lm/weights.json": [f"{RUN}/lm/tuning_checkpoint.json"],
    f"{RUN}/evaluation/summary.parquet": [f"{SCORES}/greedy/metrics.json"],
    f"{RUN}/selection.json": [f"{RUN}/evaluation/steps.parquet", f"{CHECKPOINT}/vocab.json"],
    f"{RUN}/evaluation/breakdown.json": [f"{RUN}/selection.json", f"{SCORES}/greedy/hypotheses.parquet"],
    f"{RUN}/confidence/demo_ru-dev.parquet": [f"{SCORES}/lm/hypotheses.parquet", f"{RUN}/model/vocab.json"],
    f"{RUN}/model/confidence.json": [f"{RUN}/confidence/demo_ru-test.parquet"],
    f"{RUN}/worst/demo_ru-test.html": [f"{RUN}/model/model.safetensors", f"{RUN}/model/config.json"],
    f"{RUN}/model/README.md": [
        f"{RUN}/training.json",
        f"{RUN}/training.jsonl",
        f"{RUN}/clips/train.sha256",
        f"{RUN}/usage.json",
        f"{RUN}/evaluation/summary.parquet",
        f"{RUN}/evaluation/breakdown.json",
        f"{RUN}/model/confidence.json",
        f"{RUN}/confidence/demo_ru-test.parquet",
    ],
}


def flip_a_bit(content: bytes, chance: random.Random) -> bytes:
    damaged = bytearray(content)
    damaged[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    return bytes(damaged)


def zero_a_page(content: bytes, chance: random.Random) -> bytes:
    start = chance.randrange(-(-len(content) // 4096)) * 4096
    return content[:start] + bytes(min(4096, len(content) - start)) + content[start + 4096 :]


def keep_half(content: bytes, _: random.Random) -> bytes:
    return content[: len(content) // 2]


def keep_nothing(_: bytes, __: random.Random) -> bytes:
    return b""


Damage = Callable[[bytes, random.Random], bytes]


def damages(chance: random.Random) -> list[Damage]:
    """Return what is done to a file, once at a time: three bits are flipped, or a large part is lost."""
    return [flip_a_bit, flip_a_bit, flip_a_bit, chance.choice([zero_a_page, keep_half, keep_nothing])]


class Jobs:
    """The jobs of a finished run, which can be repeated one by one."""

    def __init__(self, copy: WorkingCopy) -> None:
        self.folder = copy.folder
        self.step = copy.read_json(f"{RUN}/selection.json")["step"]
        records = self.folder / ".snakemake" / "metadata"
        self._commands = {
            output: json.loads(file.read_text())["shellcmd"]
            for file in records.rglob("*")
            if file.is_file()
            for output in [base64.urlsafe_b64decode("".join(file.relative_to(records).parts).replace("@", "")).decode()]
        }

    def path(self, name: str) -> str:
        return name.format(step=self.step)

    def run(self, output: str) -> tuple[int, str]:
        """Run the job again that makes `output`, and return its exit status and what it prints."""
        command = f"set -o pipefail; {self._commands[self.path(output)]}"
        environment = os.environ | {"PYTHONPATH": "workflow", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        run = subprocess.run(
            ["bash", "-c", command], cwd=self.folder, env=environment, capture_output=True, text=True, check=False
        )
        return run.returncode, run.stdout + run.stderr

    def content(self, output: str) -> Any:
        """Return the content of an output, without the time that a job takes."""
        path = self.folder / self.path(output)
        if path.name == "ctc_outputs.parquet":
            return read_table(path).to_pylist(), _untimed(ctc_outputs_metadata(path))
        if path.suffix == ".json":
            return _untimed(json.loads(path.read_bytes()))
        return path.read_bytes()


def _untimed(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if not key.endswith("_seconds") and key != "digest"}


@pytest.fixture(scope="module")
def jobs(finished: WorkingCopy, tmp_path_factory: pytest.TempPathFactory) -> Jobs:
    jobs = Jobs(finished.copy(tmp_path_factory.mktemp("damaged") / "copy"))
    # Temporary files, which the finished run does not have any more.
    selected = f"{RUN}/evaluation/selected/demo_ru-dev"
    for outputs in (f"{SCORES}/ctc_outputs", f"{SCORES}/log_probs", f"{selected}/ctc_outputs"):
        status, printed = jobs.run(f"{outputs}.parquet")
        assert status == 0, printed
    return jobs


@pytest.mark.parametrize(("output", "file"), [(output, file) for output in READ_FOR for file in READ_FOR[output]])
def test_damaged_file_is_named_or_changes_nothing(jobs: Jobs, output: str, file: str) -> None:
    path = jobs.folder / jobs.path(file)
    intact, expected = path.read_bytes(), jobs.content(output)
    outputs = {each: each.read_bytes() for each in (jobs.folder / jobs.path(output)).parent.iterdir() if each.is_file()}
    chance = random.Random(file)
    for damage in damages(chance):
        path.write_bytes(damage(intact, chance))
        status, printed = jobs.run(output)
        path.write_bytes(intact)
        error = printed[printed.rfind("error: ") :]
        if status == 0:
            assert jobs.content(output) == expected, f"{damage.__name__} in {file} changes {output}"
        else:
            assert error.startswith("error: "), printed
            assert jobs.path(file) in error, f"{damage.__name__} in {file} is not named: {error}"
        for each, content in outputs.items():
            each.write_bytes(content)
