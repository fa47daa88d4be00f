"""Stages that are killed, or whose disk is full, and are started again."""

import random
import resource
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from material import RELEASE, ROOT, as_json, audio_file, noise, run_stage, tar, tsv
from speechmill.config.datasets import IngestSettings
from speechmill.config.shards import ShardSettings

pytestmark = pytest.mark.slow

CLIPS = 8000
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
        "ingest_dataset", "--settings", settings.model_dump_json(), "--location", as_json({"path": str(archive)}),
        "--fingerprint", "as it was", "--raw", str(folder / "raw"),
    ]  # fmt: skip


def converting(raw: Path, folder: Path) -> list[str]:
    settings = ShardSettings(name="made", version="1", licence="CC0-1.0", resampler="soxr")
    return [
        "shards", "--settings", settings.model_dump_json(), "--raw", str(raw), "--split", "train", "--number", "00000",
        "--shard", str(folder / "shard-00000.parquet"), "--rows", str(folder / "rows-00000.parquet"),
    ]  # fmt: skip


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def kill_at_random(command: Sequence[str], times: int, seed: int) -> int:
    """Start a stage so often and kill it in its midst; how often that was before its end."""
    moments, killed = random.Random(seed), 0
    for _ in range(times):
        stage = subprocess.Popen(
            [sys.executable, "-m", f"speechmill.{command[0]}", *command[1:]],
            env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT / "workflow")},
            stderr=subprocess.DEVNULL,
        )
        try:
            stage.wait(timeout=moments.uniform(0.3, 2.5))
        except subprocess.TimeoutExpired:
            stage.kill()
            killed += stage.wait() == -signal.SIGKILL
    return killed


@pytest.fixture(scope="module")
def raw(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The raw shards of an undisturbed ingest."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert run_stage(*ingesting(archive, folder)).returncode == 0
    return folder / "raw"


def test_an_ingest_that_is_killed_and_started_again_gives_the_same_bytes(
    archive: Path, raw: Path, tmp_path: Path
) -> None:
    assert kill_at_random(ingesting(archive, tmp_path), times=6, seed=1) > 0
    assert run_stage(*ingesting(archive, tmp_path)).returncode == 0
    assert contents(tmp_path / "raw") == contents(raw)
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_a_shard_that_is_killed_and_started_again_has_the_same_bytes(raw: Path, tmp_path: Path) -> None:
    assert run_stage(*converting(raw, tmp_path / "undisturbed")).returncode == 0
    assert kill_at_random(converting(raw, tmp_path / "killed"), times=6, seed=2) > 0
    assert run_stage(*converting(raw, tmp_path / "killed")).returncode == 0
    assert contents(tmp_path / "killed") == contents(tmp_path / "undisturbed")


def limited(command: Sequence[str], most: int) -> subprocess.CompletedProcess[str]:
    """Run a stage that may write no file larger than `most` bytes, which a full disk looks like to it."""
    return subprocess.run(
        [sys.executable, "-m", f"speechmill.{command[0]}", *command[1:]],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT / "workflow")},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most)),
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_disk_that_fills_up_under_an_ingest_leaves_nothing_and_a_sentence(archive: Path, tmp_path: Path) -> None:
    done = limited(ingesting(archive, tmp_path), 2_000_000)
    assert done.returncode == 1
    assert "no room" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_under_a_shard_leaves_nothing_and_a_sentence(raw: Path, tmp_path: Path) -> None:
    done = limited(converting(raw, tmp_path), 500_000)
    assert done.returncode == 1
    assert "error: the disk has no room left" in done.stderr
    assert list(tmp_path.iterdir()) == []
