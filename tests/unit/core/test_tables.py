from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from speechmill.core import tables
from speechmill.core.command import SpeechmillError
from speechmill.core.schemas import CLIPS, RAW, REJECTED, clip_schema
from speechmill.core.tables import (
    check_clips_digest,
    clips_digest,
    read_row_groups,
    read_rows,
    read_table,
    write_in_row_groups,
    write_table,
)

ROWS = [{"id": str(i), "split": "train", "reason": "missing", "detail": f"clip {i}"} for i in range(10)]


def test_table_round_trip(tmp_path: Path) -> None:
    write_table(ROWS, REJECTED, tmp_path / "table.parquet")
    assert read_table(tmp_path / "table.parquet").to_pylist() == ROWS
    assert read_table(tmp_path / "table.parquet", ["id"]).column_names == ["id"]


def flipped(content: bytes, bit: int) -> bytes:
    """Return `content` with one other bit."""
    return content[: bit // 8] + bytes([content[bit // 8] ^ 1 << bit % 8]) + content[bit // 8 + 1 :]


def test_flipped_bit_is_named_or_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    write_in_row_groups(ROWS, REJECTED.with_metadata({"name": "Corpus"}), path, 6)
    intact, named = path.read_bytes(), 0
    bits = range(0, 8 * len(intact), 41)
    for bit in bits:
        path.write_bytes(flipped(intact, bit))
        try:
            assert list(read_rows(path)) == ROWS, bit
        except SpeechmillError as error:
            assert str(error).startswith(f"{path} ")
            named += 1
    # Nothing else depends on the first letters of the file, nor on the limits of values in the header of a page.
    assert named > 0.8 * len(bits)


def test_flipped_bit_in_the_footer_is_named(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    write_table(ROWS, REJECTED.with_metadata({"name": "Corpus"}), path)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"Corpus", b"Corpur"))
    with pytest.raises(SpeechmillError, match=rf"{path} has changed since it was written: its footer"):
        read_table(path)


def test_table_without_checksums_is_read(tmp_path: Path) -> None:
    # As release 0.1.0 wrote it.
    path = tmp_path / "table.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS, schema=REJECTED), path)
    assert read_table(path).to_pylist() == list(read_rows(path)) == ROWS


def test_metadata_of_a_table_has_no_digest(tmp_path: Path) -> None:
    write_table(ROWS, REJECTED.with_metadata({"name": "Corpus"}), tmp_path / "table.parquet")
    assert read_table(tmp_path / "table.parquet").schema.metadata == {b"name": b"Corpus"}


def test_digest_of_other_clips_is_named(tmp_path: Path) -> None:
    clip = {"dataset": "cv", "split": "train", "id": "a", "text": "да", "audio_sha256": "5"}
    write_table([clip], CLIPS, tmp_path / "train.parquet")
    digest = tmp_path / "train.sha256"
    digest.write_text(clips_digest([clip]) + "\n")
    check_clips_digest(tmp_path / "train.parquet", digest)
    digest.write_text(clips_digest([clip | {"text": "нет"}]) + "\n")
    with pytest.raises(SpeechmillError, match=rf"{digest} is not the digest of the clips in {tmp_path}/train.parquet"):
        check_clips_digest(tmp_path / "train.parquet", digest)


def test_row_groups_have_the_requested_size(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    write_in_row_groups(iter(ROWS), REJECTED, path, 4)
    file = pq.ParquetFile(path)
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [4, 4, 2]
    assert list(read_rows(path)) == ROWS


def raw_rows(*sizes: int) -> list[dict[str, Any]]:
    return [{"id": str(i), "encoded": bytes(size)} for i, size in enumerate(sizes)]


def test_row_group_ends_at_its_byte_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_MAX_GROUP_BYTES", 100)
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


def test_bytes_in_a_struct_count_towards_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_MAX_GROUP_BYTES", 100)
    clips = [{"id": str(i), "audio": {"bytes": bytes(50), "path": "clip.flac"}} for i in range(5)]
    assert write_in_row_groups(clips, clip_schema(), tmp_path / "shard.parquet", 16) == [2, 2, 1]


def test_table_without_rows_has_its_columns(tmp_path: Path) -> None:
    write_in_row_groups([], REJECTED, tmp_path / "table.parquet", 4)
    assert read_table(tmp_path / "table.parquet").column_names == REJECTED.names


def failing_rows() -> Iterator[dict[str, Any]]:
    yield from ROWS
    raise RuntimeError("killed")


@pytest.mark.parametrize("earlier", [True, False])
def test_tables_are_written_atomically(tmp_path: Path, earlier: bool) -> None:
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


def test_row_that_does_not_fit_the_schema_is_refused(tmp_path: Path) -> None:
    with pytest.raises(pa.ArrowException):
        write_table([{"num_samples": "many"}], CLIPS, tmp_path / "clips.parquet")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("read", [read_table, lambda path: list(read_rows(path))], ids=["read_table", "read_rows"])
@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_truncated_table_is_named(tmp_path: Path, read: Any, share: float) -> None:
    path = tmp_path / "table.parquet"
    write_table(ROWS, REJECTED, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(SpeechmillError, match=rf"{path} cannot be read .* delete it and run snakemake again"):
        read(path)


@pytest.mark.parametrize("read", [read_table, lambda path: list(read_rows(path))], ids=["read_table", "read_rows"])
def test_missing_table_is_named(tmp_path: Path, read: Any) -> None:
    with pytest.raises(SpeechmillError, match=rf"{tmp_path / 'table.parquet'} cannot be read"):
        read(tmp_path / "table.parquet")


CLIP = {"dataset": "d", "id": "1", "text": "раз", "audio_sha256": "a", "shard": 0, "speaker_id": "s"}


@pytest.mark.parametrize("key", ["dataset", "id", "text", "audio_sha256"])
def test_clips_digest_depends_on_contents(key: str) -> None:
    assert clips_digest([CLIP | {key: "another"}]) != clips_digest([CLIP])


@pytest.mark.parametrize("key", ["shard", "speaker_id"])
def test_clips_digest_does_not_depend_on_storage(key: str) -> None:
    assert clips_digest([CLIP | {key: 7}]) == clips_digest([CLIP])


def test_clips_digest_depends_on_order() -> None:
    other = CLIP | {"id": "2"}
    assert clips_digest([CLIP, other]) != clips_digest([other, CLIP])
