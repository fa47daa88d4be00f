"""Stages that are restarted after a kill or a full disk."""

import random
import resource
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from material import RELEASE, ROOT, as_json, audio_file, noise, run_stage, tar, tsv
from speechmill.config.datasets import IngestSettings
from speechmill.config.shards import ShardSettings

pytestmark = pytest.mark.slow

CLIPS = 1500
MP3S = [audio_file(noise(0.2, seed=seed), kind="MP3", subtype="MPEG_LAYER_III") for seed in range(8)]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release of Common Voice with many short clips."""
    rows = [{"client_id": f"s{i % 9}", "path": f"{i}.mp3", "sentence": f"Фраза {i}."} for i in range(CLIPS)]
    members = [(f"{RELEASE}/ru/clips/{i}.mp3", MP3S[i % len(MP3S)]) for i in range(CLIPS)]
    members += [(f"{RELEASE}/ru/train.tsv", tsv(rows))]
    return tar(tmp_path_factory.mktemp("archive") / "corpus.tar.gz", members)


def ingesting(archive: Path, folder: Path) -> list[str]:
    source = {"source": "common_voice", "path": "", "language": "ru"}
    settings = IngestSettings.model_validate({"source": source, "splits": ["train"], "shards": {"train": 2}})
    return [
        "corpus.ingest_dataset", "--settings", settings.model_dump_json(),
        "--location", as_json({"path": str(archive)}), "--fingerprint", "unchanged", "--raw", str(folder / "raw"),
    ]  # fmt: skip


def converting(raw: Path, folder: Path) -> list[str]:
    settings = ShardSettings(name="corpus", version="1", licence="CC0-1.0", resampler="soxr")
    return [
        "corpus.shards", "--settings", settings.model_dump_json(), "--raw", str(raw), "--split", "train",
        "--number", "00000", "--shard", str(folder / "shard-00000.parquet"),
        "--rows", str(folder / "rows-00000.parquet"),
    ]  # fmt: skip


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def start(command: Sequence[str], **options: Any) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", f"speechmill.{command[0]}", *command[1:]],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT / "workflow")},
        text=True,
        **options,
    )


def kill_while_writing(command: Sequence[str], folder: Path, window: float, seed: int) -> int:
    """Kill a stage three times at random moments, up to `window` s after it starts to write to `folder`.

    Returns:
        How often it was killed before its end.
    """
    delays, killed = random.Random(seed), 0
    for _ in range(3):
        stage = start(command, stderr=subprocess.DEVNULL)
        delay = 0.01
        while True:
            try:
                stage.wait(delay)
                break
            except subprocess.TimeoutExpired:
                if delay != 0.01:
                    stage.kill()
                    killed += stage.wait() == -signal.SIGKILL
                    break
                if any(path.name.endswith(".part") for path in folder.glob("*")):
                    delay = delays.uniform(0.02, window)
    return killed


@pytest.fixture(scope="module")
def raw(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The raw shards of an ingest without a kill."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert run_stage(*ingesting(archive, folder)).returncode == 0
    return folder / "raw"


def test_a_killed_ingest_gives_the_same_bytes(archive: Path, raw: Path, tmp_path: Path) -> None:
    assert kill_while_writing(ingesting(archive, tmp_path), tmp_path, 0.1, seed=1) > 0
    assert run_stage(*ingesting(archive, tmp_path)).returncode == 0
    assert contents(tmp_path / "raw") == contents(raw)
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_a_killed_shard_has_the_same_bytes(raw: Path, tmp_path: Path) -> None:
    assert run_stage(*converting(raw, tmp_path / "undisturbed")).returncode == 0
    assert kill_while_writing(converting(raw, tmp_path / "killed"), tmp_path / "killed", 0.8, seed=2) > 0
    assert run_stage(*converting(raw, tmp_path / "killed")).returncode == 0
    assert contents(tmp_path / "killed") == contents(tmp_path / "undisturbed")


def stderr_with_limit(command: Sequence[str], limit: int) -> str:
    """Run a stage that may not write files larger than `limit` bytes, as on a full disk, and return its messages."""
    stage = start(
        command,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    _, stderr = stage.communicate()
    assert stage.returncode == 1
    return stderr


@pytest.mark.parametrize("limit", [100_000, 1_000_000], ids=["spool", "shard"])
def test_an_ingest_on_a_full_disk_leaves_nothing(archive: Path, tmp_path: Path, limit: int) -> None:
    assert "error: the disk is full" in stderr_with_limit(ingesting(archive, tmp_path), limit)
    assert list(tmp_path.iterdir()) == []


def test_a_shard_on_a_full_disk_leaves_nothing(raw: Path, tmp_path: Path) -> None:
    assert "error: the disk is full" in stderr_with_limit(converting(raw, tmp_path), 500_000)
    assert list(tmp_path.iterdir()) == []
