"""A corpus and all results in an S3 bucket; only logs and the state of training stay on the machine."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pyarrow.parquet as pq
import pytest
import requests
from servers import free_ports, wait_until
from working_copy import NOTHING_TO_DO, PROGRAMS, SnakemakeRun, WorkingCopy, tiny_config, working_copy

pytestmark = pytest.mark.slow

KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
RUN = "results/runs/demo_ru"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The address of a local server with the API of S3."""
    (port,) = free_ports(1)
    address = f"http://127.0.0.1:{port}"
    command = [f"{PROGRAMS}/moto_server", "--host", "127.0.0.1", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:

        def answers() -> bool:
            try:
                return requests.get(address, timeout=10).ok
            except requests.ConnectionError:
                return False

        wait_until(answers, lambda: server.poll() is not None)
        yield address
        server.terminate()


@pytest.fixture
def bucket(address: str, spoken_archive: Path) -> Any:
    """A bucket with the corpus."""
    bucket = boto3.resource(
        "s3", endpoint_url=address, aws_access_key_id="key", aws_secret_access_key="secret", region_name="us-east-1"
    ).create_bucket(Bucket="speech")
    bucket.upload_file(str(spoken_archive), "corpora/corpus.tar.gz")
    return bucket


def config() -> dict[str, Any]:
    """Return a configuration with the corpus in the bucket."""
    settings = tiny_config("s3://speech/corpora/corpus.tar.gz")
    settings["datasets"]["demo_ru"]["shards"] = {"train": 1, "dev": 1, "test": 1}
    # Steps that are known only after training, and a set on which only one of them is scored.
    run = settings["runs"]["demo_ru"]
    run["checkpoints"] = {"best": 1}
    run["evaluation"]["sets"] = ["demo_ru-dev", {"set": "demo_ru-test", "checkpoints": "selected"}]
    return settings


def run_on_bucket(address: str, copy: WorkingCopy, *options: str, check: bool = True) -> SnakemakeRun:
    """Run snakemake with all inputs and outputs in the bucket."""
    storage = ["--default-storage-provider", "s3", "--default-storage-prefix", "s3://speech/mine"]
    return copy.snakemake(config(), *storage, "--storage-s3-endpoint-url", address, *options, check=check, **KEYS)


# Trains, and adds a file to its outputs that cannot be uploaded: its name is not UTF-8.
NOT_UPLOADED = """
import os, sys
from pathlib import Path
from speechmill.core.command import run_command
from speechmill.training import finetune_as_it_is
run_command(finetune_as_it_is.main)
Path(sys.argv[sys.argv.index("--checkpoints") + 1], os.fsdecode(bytes([255]))).touch()
"""


def test_training_is_not_repeated_after_a_failed_upload(tmp_path: Path, address: str, bucket: Any) -> None:
    copy, target = working_copy(tmp_path / "copy"), ["--", f"{RUN}/training.json"]
    module = copy.folder / "workflow/speechmill/training/finetune.py"
    code = module.read_text()
    module.with_name("finetune_as_it_is.py").write_text(code)
    module.write_text(NOT_UPLOADED)
    failed = run_on_bucket(address, copy, *target, check=False)
    assert failed.returncode != 0
    assert "Failed to store output in storage" in failed.output
    module.write_text(code)
    again = run_on_bucket(address, copy, *target)
    assert again.executed == {"finetune"}
    assert "training has finished: its results are taken from work/demo_ru/finished-" in again.output
    assert f"mine/{RUN}/training.json" in {each.key for each in bucket.objects.all()}


def test_bucket_has_all_results_and_the_machine_none(tmp_path: Path, address: str, bucket: Any) -> None:
    copy = working_copy(tmp_path / "copy")
    run = run_on_bucket(address, copy)
    assert {"ingest_dataset", "shards", "finetune", "lm", "evaluate", "worst", "card"} <= run.executed
    stored = {each.key.removeprefix("mine/") for each in bucket.objects.all()}
    model = ("README.md", "model.safetensors", "lm/lexicon.txt", "manifest.json")
    assert {f"{RUN}/model/{file}" for file in model} <= stored
    assert {f"{RUN}/card.html", "results/runs.html", "results/data/demo_ru/train/shard-00000.parquet"} <= stored
    bucket.download_file(f"mine/{RUN}/evaluation/summary.parquet", str(tmp_path / "summary.parquet"))
    scored = pq.read_table(tmp_path / "summary.parquet").to_pylist()
    assert {row["set"] for row in scored} == {"demo_ru-dev", "demo_ru-test", "demo_ru-test-noise_10db"}

    assert not (copy.folder / "results").exists()
    left = [path for path in (copy.folder / ".snakemake" / "storage").rglob("*") if path.is_file()]
    assert {path.suffix for path in left} <= {".log"}

    # Another machine with access to the bucket, which would send its jobs to a Kubernetes cluster.
    other = working_copy(tmp_path / "other")
    again = run_on_bucket(address, other, "--dry-run", "--profile", "workflow/profiles/kubernetes")
    assert NOTHING_TO_DO in again.output
