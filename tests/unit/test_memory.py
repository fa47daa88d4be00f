"""How much memory the data stages take for a large corpus, as the operating system counts it."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from material import RELEASE, ROOT, as_json, audio_file, noise, tar, tsv
from speechmill.config.datasets import IngestSettings
from speechmill.config.shards import ShardSettings
from speechmill.tables import read_table

pytestmark = pytest.mark.slow

CLIPS, SHARDS = 100_000, 10
GIBIBYTE = 1 << 30


# A process is charged with what the one that started it had in memory, so a small one stands between.
MEASURE = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], stderr=subprocess.DEVNULL, check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
"""


def peak(command: Sequence[str]) -> int:
    """The bytes that a stage had in memory at its most."""
    stage = [sys.executable, "-m", f"speechmill.{command[0]}", *command[1:]]
    env = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT / "workflow")}
    return int(subprocess.run([sys.executable, "-c", MEASURE, *stage], env=env, capture_output=True, check=True).stdout)


def test_an_archive_of_100_000_clips_is_read_and_converted_in_less_than_a_gibibyte(tmp_path: Path) -> None:
    mp3s = [audio_file(noise(0.1, seed=seed), kind="MP3", subtype="MPEG_LAYER_III") for seed in range(8)]
    clips = [(f"{RELEASE}/ru/clips/{i}.mp3", mp3s[i % len(mp3s)]) for i in range(CLIPS)]
    rows = [
        {"client_id": f"{i % 997:0128x}", "path": f"{i}.mp3", "sentence": f"Предложение номер {i}, не из коротких."}
        for i in range(CLIPS)
    ]
    archive = tar(tmp_path / "corpus.tar.gz", [*clips, (f"{RELEASE}/ru/train.tsv", tsv(rows))])
    source = {"source": "common_voice", "path": "", "language": "ru"}
    settings = IngestSettings.model_validate({"source": source, "splits": ["train"], "shards": {"train": SHARDS}})
    assert peak(
        ["ingest_dataset", "--settings", settings.model_dump_json(), "--place", as_json({"path": str(archive)}),
         "--fingerprint", "as it was", "--raw", str(tmp_path / "raw")]
    ) < GIBIBYTE  # fmt: skip
    about = ShardSettings(name="made", version="1", licence="CC0-1.0", resampler="soxr")
    assert peak(
        ["shards", "--settings", about.model_dump_json(), "--raw", str(tmp_path / "raw"), "--split", "train",
         "--number", "00000", "--shard", str(tmp_path / "shard.parquet"), "--rows", str(tmp_path / "rows.parquet")]
    ) < GIBIBYTE  # fmt: skip
    kept = read_table(tmp_path / "rows.parquet")
    assert kept.num_rows == CLIPS // SHARDS
    assert kept["reason"].null_count == kept.num_rows
