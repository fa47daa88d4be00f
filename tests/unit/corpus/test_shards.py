import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from material import audio_file, noise, recording
from speechmill.config.shards import ShardSettings
from speechmill.core import tables
from speechmill.core.command import SpeechmillError
from speechmill.core.files import file_digest
from speechmill.core.flac import decode_flac
from speechmill.core.schemas import RAW
from speechmill.core.tables import read_table, write_table
from speechmill.corpus import shards
from speechmill.corpus.audio import decode_to_16k
from speechmill.corpus.shards import convert

SETTINGS = ShardSettings(name="Common Voice", version="8.0", licence="CC0-1.0", resampler="soxr")


def listed(name: str, encoded: bytes | None, **more: Any) -> dict[str, Any]:
    about = {"id": name, "splits": ["train"], "file": f"{name}.wav", "encoded": encoded, "sentence": f"say {name}"}
    return about | {"speaker_id": "s1"} | more


READABLE = {f"clip {i:02d}": audio_file(noise(0.2, 48_000, seed=i), 48_000) for i in range(20)}
LISTED = [
    listed("lost", None),
    *(listed(name, encoded) for name, encoded in list(READABLE.items())[:10]),
    listed("a web page", b"<!doctype html>"),
    listed("empty", b""),
    listed("in two splits", audio_file(recording(0.3)), splits=["train", "validated"]),
    listed("truncated", audio_file(recording(0.3))[:-4000]),
    listed("shortened", audio_file(recording(0.3))[:-1000]),
    listed("behind the end", None, reason="outside", detail="begins at 5 s, the recording ends at 4 s"),
    listed("loud", audio_file(np.tile(np.array([32767, -32768], dtype=np.int16), 1600))),
    listed("half silent", audio_file(np.concatenate([np.zeros(3200), np.full(3200, 0.1)]))),
    listed("no header", bytes(range(256)) * 10, file="call.ul"),
    *(listed(name, encoded) for name, encoded in list(READABLE.items())[10:]),
]


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files `raw`, `shard` and `rows` of shard number 3, converted from LISTED."""
    folder = tmp_path_factory.mktemp("shards")
    write_table(LISTED, RAW, folder / "raw.parquet")
    convert(folder / "raw.parquet", 3, SETTINGS, folder / "shard.parquet", folder / "rows.parquet")
    return folder


def test_every_listed_clip_is_kept_or_rejected(converted: Path) -> None:
    kept = read_table(converted / "shard.parquet")["id"].to_pylist()
    rows = read_table(converted / "rows.parquet").to_pylist()
    assert [row["id"] for row in rows] == [clip["id"] for clip in LISTED]
    assert [row["id"] for row in rows if row["reason"] is None] == kept
    assert len(kept) == 25


def test_reasons_of_rejected_clips_name_the_file(converted: Path) -> None:
    rows = read_table(converted / "rows.parquet").to_pylist()
    assert {row["id"]: (row["reason"], row["detail"]) for row in rows if row["reason"]} == {
        "lost": ("missing", "lost.wav: the corpus lists this file but does not contain it"),
        "a web page": (
            "unreadable",
            "a web page.wav: libsndfile: Format not recognised;"
            " ffmpeg: Invalid data found when processing input; sox: can't determine type of file",
        ),
        "empty": ("empty", "empty.wav: the file is empty"),
        "truncated": ("truncated", "truncated.wav: the file is truncated by 4000 bytes"),
        "behind the end": ("outside", "behind the end.wav: begins at 5 s, the recording ends at 4 s"),
    }


def test_rows_contain_the_measurements(converted: Path) -> None:
    rows = {row["id"]: row for row in read_table(converted / "rows.parquet").to_pylist()}
    for clip in LISTED:
        row, encoded = rows[clip["id"]], clip["encoded"]
        assert row["encoded_bytes"] == (None if encoded is None else len(encoded))
        if row["reason"] is not None:
            assert (row["silence"], row["clipping"]) == (None, None)
    assert (rows["loud"]["silence"], rows["loud"]["clipping"]) == (0.0, 1.0)
    assert rows["shortened"]["missing_seconds"] == pytest.approx(500 / 16_000)
    assert rows["loud"]["missing_seconds"] == 0
    assert (rows["half silent"]["silence"], rows["half silent"]["clipping"]) == (0.5, 0.0)


def test_file_name_helps_to_detect_the_format(converted: Path) -> None:
    # 8 kHz, one byte per sample.
    clips = {row["id"]: row for row in read_table(converted / "shard.parquet").to_pylist()}
    assert clips["no header"]["num_samples"] == 2 * 2560


def test_number_of_buffered_rows_does_not_matter(
    converted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "_BUFFERED_ROWS", 7)
    convert(converted / "raw.parquet", 3, SETTINGS, tmp_path / "shard.parquet", tmp_path / "rows.parquet")
    assert read_table(tmp_path / "rows.parquet").equals(read_table(converted / "rows.parquet"))


def assert_located(folder: Path) -> None:
    """Check that each row has the location of its clip in the shard of `folder`."""
    shard = pq.ParquetFile(folder / "shard.parquet")
    for row in read_table(folder / "rows.parquet").to_pylist():
        if row["reason"] is None:
            assert row["shard"] == 3
            assert shard.read_row_group(row["row_group"])["id"][row["row"]].as_py() == row["id"]
        else:
            assert (row["row_group"], row["row"], row["num_samples"]) == (None, None, None)


def test_rows_locate_each_clip(converted: Path) -> None:
    assert_located(converted)


def test_long_clips_have_separate_row_groups(converted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_MAX_GROUP_BYTES", 10_000)
    convert(converted / "raw.parquet", 3, SETTINGS, tmp_path / "shard.parquet", tmp_path / "rows.parquet")
    assert 2 < pq.read_metadata(tmp_path / "shard.parquet").num_row_groups < 25
    assert_located(tmp_path)


def test_row_groups_are_small(converted: Path) -> None:
    metadata = pq.read_metadata(converted / "shard.parquet")
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [16, 9]


def test_stored_clip_is_16_khz_flac_with_digests(converted: Path) -> None:
    clips = {row["id"]: row for row in read_table(converted / "shard.parquet").to_pylist()}
    for name, encoded in READABLE.items():
        clip, samples = clips[name], decode_to_16k(encoded, "soxr").samples
        np.testing.assert_array_equal(decode_flac(clip["audio"]["bytes"]), samples)
        assert clip["num_samples"] == len(samples) == 3200
        assert clip["sha256"] == hashlib.sha256(encoded).hexdigest()
        assert clip["audio_sha256"] == hashlib.sha256(samples.astype("<i2").tobytes()).hexdigest()
        assert (clip["sentence"], clip["speaker_id"]) == (f"say {name}", "s1")


def test_rows_contain_all_splits_of_a_clip(converted: Path) -> None:
    splits = {row["id"]: row["splits"] for row in read_table(converted / "rows.parquet").to_pylist()}
    assert splits["in two splits"] == ["train", "validated"]
    assert splits["lost"] == ["train"]


def test_same_raw_shard_gives_the_same_bytes(converted: Path, tmp_path: Path) -> None:
    convert(converted / "raw.parquet", 3, SETTINGS, tmp_path / "shard.parquet", tmp_path / "rows.parquet")
    for name in ("shard.parquet", "rows.parquet"):
        assert (tmp_path / name).read_bytes() == (converted / name).read_bytes()


def test_shard_metadata_describes_its_source(converted: Path, tmp_path: Path) -> None:
    metadata = pq.read_schema(converted / "shard.parquet").metadata
    assert {key: metadata[key.encode()].decode() for key in ("name", "version", "licence")} == {
        "name": "Common Voice",
        "version": "8.0",
        "licence": "CC0-1.0",
    }
    other = SETTINGS.model_copy(update={"resampler": "sox"})
    convert(converted / "raw.parquet", 3, other, tmp_path / "shard.parquet", tmp_path / "rows.parquet")
    assert pq.read_schema(tmp_path / "shard.parquet").metadata[b"configuration"] != metadata[b"configuration"]


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A folder with a raw shard, and beside it the only recording of it."""
    (tmp_path / "raw-00000").write_bytes(READABLE["clip 00"])
    row = listed("clip 00", None, encoded_file="raw-00000", encoded_file_sha256=file_digest(tmp_path / "raw-00000"))
    write_table([row], RAW, tmp_path / "raw.parquet")
    return tmp_path


def test_recording_beside_its_raw_shard_is_read(large: Path, converted: Path) -> None:
    convert(large / "raw.parquet", 3, SETTINGS, large / "shard.parquet", large / "rows.parquet")
    clips = {row["id"]: row for row in read_table(converted / "shard.parquet").to_pylist()}
    assert read_table(large / "shard.parquet").to_pylist() == [clips["clip 00"]]
    assert read_table(large / "rows.parquet")["encoded_bytes"].to_pylist() == [len(READABLE["clip 00"])]


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-1] + b"?")])
def test_damaged_recording_beside_its_raw_shard_is_named(large: Path, damage: Callable[[Path], object]) -> None:
    damage(large / "raw-00000")
    with pytest.raises(SpeechmillError, match=r"raw-00000 is missing, or differs .*; delete it and run"):
        convert(large / "raw.parquet", 3, SETTINGS, large / "shard.parquet", large / "rows.parquet")


def test_empty_raw_shard_gives_an_empty_shard(tmp_path: Path) -> None:
    write_table([], RAW, tmp_path / "raw.parquet")
    convert(tmp_path / "raw.parquet", 0, SETTINGS, tmp_path / "shard.parquet", tmp_path / "rows.parquet")
    assert read_table(tmp_path / "shard.parquet").num_rows == read_table(tmp_path / "rows.parquet").num_rows == 0


def test_truncated_raw_shard_is_named(converted: Path, tmp_path: Path) -> None:
    raw = tmp_path / "raw.parquet"
    raw.write_bytes((converted / "raw.parquet").read_bytes()[:-100])
    with pytest.raises(SpeechmillError, match=f"{raw} cannot be read"):
        convert(raw, 0, SETTINGS, tmp_path / "shard.parquet", tmp_path / "rows.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["raw.parquet"]
