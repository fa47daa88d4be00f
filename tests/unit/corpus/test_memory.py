"""The peak memory of the data stages for a large corpus, as measured by the operating system."""

import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from material import RELEASE, ROOT, as_json, audio_file, noise, run_measured, tar, tsv
from speechmill.config.datasets import IngestSettings
from speechmill.config.shards import ShardSettings
from speechmill.core.tables import read_table

pytestmark = pytest.mark.slow

CLIPS, SHARDS = 100_000, 20
GIBIBYTE = 1 << 30


def peak(command: Sequence[str]) -> int:
    """Return the peak memory of a stage in bytes."""
    stage = [sys.executable, "-m", f"speechmill.{command[0]}", *command[1:]]
    env = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT / "workflow")}
    return run_measured(stage, env=env, stderr=subprocess.DEVNULL, check=True)[1]


def ingestion(settings: IngestSettings, corpus: Path, raw: Path) -> list[str]:
    """Return the arguments of the stage that reads `corpus` into `raw`."""
    return [
        "corpus.ingest_dataset", "--settings", settings.model_dump_json(),
        "--location", as_json({"path": str(corpus)}), "--fingerprint", "unchanged", "--raw", str(raw),
    ]  # fmt: skip


def conversion(split: str, folder: Path) -> list[str]:
    """Return the arguments of the stage that converts the first shard of `folder/raw` to files in `folder`."""
    about = ShardSettings(name="corpus", version="1", licence="CC0-1.0", resampler="soxr")
    return [
        "corpus.shards", "--settings", about.model_dump_json(), "--raw", str(folder / "raw"), "--split", split,
        "--number", "00000", "--shard", str(folder / "shard.parquet"), "--rows", str(folder / "rows.parquet"),
    ]  # fmt: skip


def test_a_large_archive_needs_less_than_a_gibibyte(tmp_path: Path) -> None:
    mp3s = [audio_file(noise(0.1, seed=seed), kind="MP3", subtype="MPEG_LAYER_III") for seed in range(8)]
    clips = [(f"{RELEASE}/ru/clips/{i}.mp3", mp3s[i % len(mp3s)]) for i in range(CLIPS)]
    rows = [
        {"client_id": f"{i % 997:0128x}", "path": f"{i}.mp3", "sentence": f"Предложение номер {i}, не из коротких."}
        for i in range(CLIPS)
    ]
    archive = tar(tmp_path / "corpus.tar.gz", [*clips, (f"{RELEASE}/ru/train.tsv", tsv(rows))])
    source = {"source": "common_voice", "path": "", "language": "ru"}
    settings = IngestSettings.model_validate({"source": source, "splits": ["train"], "shards": {"train": SHARDS}})
    assert peak(ingestion(settings, archive, tmp_path / "raw")) < GIBIBYTE
    assert peak(conversion("train", tmp_path)) < GIBIBYTE
    kept = read_table(tmp_path / "rows.parquet")
    assert kept.num_rows == CLIPS // SHARDS
    assert kept["reason"].null_count == kept.num_rows


def test_long_recordings_need_less_than_a_gibibyte(tmp_path: Path) -> None:
    minute = audio_file(np.stack([noise(60, 8000, seed=1), noise(60, 8000, seed=2)], axis=1), 8000, subtype="PCM_U8")
    samples = minute[44:] * 120
    header = bytearray(minute[:44])
    for at, size in ((4, 36 + len(samples)), (40, len(samples))):
        struct.pack_into("<I", header, at, size)
    (tmp_path / "corpus" / "test").mkdir(parents=True)
    for name in ("one", "two"):
        (tmp_path / "corpus" / "test" / f"{name}.wav").write_bytes(header + samples)
    source = {"source": "folder", "path": "", "language": "ru", "pattern": "{split}/{sentence}.wav"}
    settings = IngestSettings.model_validate({"source": source, "splits": ["test"], "shards": {"test": 1}})
    assert peak(ingestion(settings, tmp_path / "corpus", tmp_path / "raw")) < GIBIBYTE
    assert peak(conversion("test", tmp_path)) < GIBIBYTE
    rows = read_table(tmp_path / "rows.parquet")
    assert rows["num_samples"].to_pylist() == [2 * 3600 * 16_000] * 2
    # Each has its own row group.
    assert rows["row_group"].to_pylist() == [0, 1]


def silent_wav(path: Path, size: int) -> None:
    """Write a WAV file with `size` bytes of silence, 48 kHz in two channels, that takes no room on the disk."""
    with path.open("wb") as file:
        file.write(struct.pack("<4sI8sIHHIIHH", b"RIFF", size + 36, b"WAVEfmt ", 16, 1, 2, 48_000, 192_000, 4, 16))
        file.write(struct.pack("<4sI", b"data", size))
        file.truncate(44 + size)


def test_memory_does_not_follow_the_largest_file(tmp_path: Path) -> None:
    sizes = {"long": 1800 * 192_000, **dict.fromkeys("abcdefgh", 180 * 192_000)}
    corpus = tmp_path / "corpus"
    (corpus / "train").mkdir(parents=True)
    for name, size in sizes.items():
        silent_wav(corpus / f"{name}.wav", size)
    (corpus / "train.csv").write_text("path,sentence\n" + "".join(f"{name}.wav,{name}\n" for name in sizes))
    (corpus / "train/wav.scp").write_text("long long.wav\n")
    (corpus / "train/segments").write_text("".join(f"{i} long {50 * i} {50 * i + 10}\n" for i in range(24)))
    (corpus / "train/text").write_text("".join(f"{i} hello\n" for i in range(24)))
    for manifest, lengths in (("{split}", [10 * 16_000] * 24), ("{split}.csv", [1800 * 16_000, *[180 * 16_000] * 8])):
        source = {"source": "folder", "path": "", "language": "ru", "manifest": manifest}
        settings = IngestSettings.model_validate({"source": source, "splits": ["train"], "shards": {"train": 1}})
        assert peak(ingestion(settings, corpus, tmp_path / "raw")) < sizes["long"]
        assert peak(conversion("train", tmp_path)) < GIBIBYTE // 2
        assert read_table(tmp_path / "rows.parquet")["num_samples"].to_pylist() == lengths
