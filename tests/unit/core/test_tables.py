import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from material import recording, store
from speechmill.core import tables
from speechmill.core.command import SpeechmillError
from speechmill.core.tables import (
    CLIPS,
    RAW,
    REJECTED,
    clip_schema,
    clips_digest,
    file_digest,
    read_json,
    read_row_groups,
    read_rows,
    read_table,
    write_in_row_groups,
    write_json,
    write_table,
)

ROWS = [{"id": str(i), "split": "train", "reason": "missing", "detail": f"clip {i}"} for i in range(10)]


def test_the_schema_of_a_clip_shard_is_the_one_of_datasets() -> None:
    text = dict.fromkeys(
        ("sentence", "speaker_id", "gender", "age", "accent", "sha256", "audio_sha256"), datasets.Value("string")
    )
    theirs = datasets.Features(
        {
            "id": datasets.Value("string"),
            "audio": datasets.Audio(16_000),
            "num_samples": datasets.Value("int32"),
            **text,
        }
    ).arrow_schema
    ours = clip_schema()
    assert ours.equals(theirs, check_metadata=False)
    assert json.loads(ours.metadata[b"huggingface"]) == json.loads(theirs.metadata[b"huggingface"])


def test_what_is_said_about_a_shard_stands_among_its_metadata(tmp_path: Path) -> None:
    path = tmp_path / "shard.parquet"
    write_in_row_groups([], clip_schema(name="Common Voice", licence="CC0-1.0"), path, 16)
    metadata = pq.read_schema(path).metadata
    assert (metadata[b"name"], metadata[b"licence"]) == (b"Common Voice", b"CC0-1.0")


def test_datasets_reads_a_shard_as_decoded_audio(tmp_path: Path) -> None:
    recordings = [recording(0.4, seed=1), recording(0.7, seed=2)]
    _, shards = store(tmp_path, recordings, ["раз", "два"])
    loaded = datasets.load_dataset(
        "parquet", data_files=[str(path) for path in shards], split="train", cache_dir=str(tmp_path / "cache")
    )
    assert loaded.features["audio"] == datasets.Audio(16_000)
    assert loaded["sentence"] == ["раз", "два"]
    for clip, samples in zip(loaded, recordings, strict=True):
        assert clip["audio"]["sampling_rate"] == 16_000
        np.testing.assert_array_equal(np.rint(clip["audio"]["array"] * 32768).astype(np.int16), samples)


def test_a_table_comes_back_as_it_was_written(tmp_path: Path) -> None:
    write_table(ROWS, REJECTED, tmp_path / "table.parquet")
    assert read_table(tmp_path / "table.parquet").to_pylist() == ROWS
    assert read_table(tmp_path / "table.parquet", ["id"]).column_names == ["id"]


def test_rows_come_in_groups_of_the_size_that_was_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    write_in_row_groups(iter(ROWS), REJECTED, path, 4)
    file = pq.ParquetFile(path)
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [4, 4, 2]
    assert list(read_rows(path)) == ROWS


def raw_rows(*sizes: int) -> list[dict[str, Any]]:
    return [{"id": str(i), "encoded": bytes(size)} for i, size in enumerate(sizes)]


def test_a_row_group_ends_where_its_recordings_come_to_too_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "_GROUP_BYTES", 100)
    path = tmp_path / "raw.parquet"
    sizes = [99, 0, 1, 500, 60, 60, *[10] * 9]
    assert write_in_row_groups(raw_rows(*sizes), RAW, path, 4) == [3, 1, 2, 4, 4, 1]
    assert [[len(row["encoded"]) for row in group] for group in read_row_groups(path)] == [
        [99, 0, 1],
        [500],
        [60, 60],
        [10] * 4,
        [10] * 4,
        [10],
    ]


def test_bytes_within_a_struct_count_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_GROUP_BYTES", 100)
    clips = [{"id": str(i), "audio": {"bytes": bytes(50), "path": "clip.flac"}} for i in range(5)]
    assert write_in_row_groups(clips, clip_schema(), tmp_path / "shard.parquet", 16) == [2, 2, 1]


def test_a_table_without_rows_has_its_columns(tmp_path: Path) -> None:
    write_in_row_groups([], REJECTED, tmp_path / "table.parquet", 4)
    assert read_table(tmp_path / "table.parquet").column_names == REJECTED.names


def failing_rows() -> Iterator[dict[str, Any]]:
    yield from ROWS
    raise RuntimeError("killed")


@pytest.mark.parametrize("earlier", [True, False])
def test_a_table_is_written_whole_or_not_at_all(tmp_path: Path, earlier: bool) -> None:
    path = tmp_path / "table.parquet"
    if earlier:
        write_table(ROWS[:1], REJECTED, path)
    for write in (
        lambda: write_in_row_groups(failing_rows(), REJECTED, path, 4),
        lambda: write_table(failing_rows(), REJECTED, path),
    ):
        with pytest.raises(RuntimeError, match="killed"):
            write()
        assert [p.name for p in tmp_path.iterdir()] == (["table.parquet"] if earlier else [])
    assert not earlier or read_table(path).num_rows == 1


def test_a_row_that_does_not_fit_the_schema_is_refused(tmp_path: Path) -> None:
    with pytest.raises(pa.ArrowException):
        write_table([{"num_samples": "many"}], CLIPS, tmp_path / "clips.parquet")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("read", [read_table, lambda path: list(read_rows(path))], ids=["read_table", "read_rows"])
@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_a_table_that_is_cut_short_is_named(tmp_path: Path, read: Any, share: float) -> None:
    path = tmp_path / "table.parquet"
    write_table(ROWS, REJECTED, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(SpeechmillError, match=rf"{path} cannot be read .* delete it and run snakemake again"):
        read(path)


@pytest.mark.parametrize("read", [read_table, lambda path: list(read_rows(path))], ids=["read_table", "read_rows"])
def test_a_table_that_is_not_there_is_named(tmp_path: Path, read: Any) -> None:
    with pytest.raises(SpeechmillError, match=rf"{tmp_path / 'table.parquet'} cannot be read"):
        read(tmp_path / "table.parquet")


def test_json_keeps_letters_readable_and_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "value.json"
    write_json({"ё": [1, None, 0.5]}, path)
    assert read_json(path) == {"ё": [1, None, 0.5]}
    assert "ё" in path.read_text(encoding="utf-8")


def test_a_file_that_is_not_json_is_named(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    path.write_text('{"half": ')
    with pytest.raises(SpeechmillError, match=rf"{path} is not JSON"):
        read_json(path)


def test_what_json_has_no_word_for_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        write_json({"path": tmp_path}, tmp_path / "value.json")
    assert list(tmp_path.iterdir()) == []


CLIP = {"dataset": "d", "id": "1", "text": "раз", "audio_sha256": "a", "shard": 0, "speaker_id": "s"}


@pytest.mark.parametrize("key", ["dataset", "id", "text", "audio_sha256"])
def test_the_digest_of_clips_follows_what_they_mean(key: str) -> None:
    assert clips_digest([CLIP | {key: "another"}]) != clips_digest([CLIP])


@pytest.mark.parametrize("key", ["shard", "speaker_id"])
def test_the_digest_of_clips_does_not_follow_where_they_lie(key: str) -> None:
    assert clips_digest([CLIP | {key: 7}]) == clips_digest([CLIP])


def test_the_digest_of_clips_follows_their_order() -> None:
    other = CLIP | {"id": "2"}
    assert clips_digest([CLIP, other]) != clips_digest([other, CLIP])


def test_the_digest_of_a_file_is_sha256(tmp_path: Path) -> None:
    # FIPS 180-2, appendix B.1: the message "abc".
    (tmp_path / "file").write_bytes(b"abc")
    assert file_digest(tmp_path / "file") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
