import json
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq

from material import recording, store
from speechmill.core.schemas import clip_schema
from speechmill.core.tables import write_in_row_groups


def test_clip_schema_matches_datasets() -> None:
    text = dict.fromkeys(
        ("sentence", "speaker_id", "gender", "age", "accent", "sha256", "audio_sha256"), datasets.Value("string")
    )
    expected = datasets.Features(
        {
            "id": datasets.Value("string"),
            "audio": datasets.Audio(16_000),
            "num_samples": datasets.Value("int32"),
            **text,
        }
    ).arrow_schema
    schema = clip_schema()
    assert schema.equals(expected, check_metadata=False)
    assert json.loads(schema.metadata[b"huggingface"]) == json.loads(expected.metadata[b"huggingface"])


def test_shard_metadata(tmp_path: Path) -> None:
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
