import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader
from transformers import (
    SeamlessM4TFeatureExtractor,
    Wav2Vec2BertProcessor,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Processor,
)

from material import recording, store
from speechmill.config.plan import PlanConfig
from speechmill.core.command import SpeechmillError
from speechmill.core.flac import Int16Samples
from speechmill.core.tables import read_rows
from speechmill.model import clip_reader
from speechmill.model.batching import PlannedBatches, SampledClip, clips_from_table
from speechmill.model.clip_reader import ClipReader, Collator, waveform_inputs
from speechmill.model.ctc import IGNORED_LABEL
from speechmill.model.models import model_inputs

Stored = tuple[pa.Table, list[Path]]
RECORDINGS = [recording(0.1 + 0.03 * i, seed=i) for i in range(24)]
TEXTS = ["ab"[: 1 + i % 2] * (1 + i % 3) for i in range(24)]

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    rows, shards = store(tmp_path_factory.mktemp("clips"), RECORDINGS, TEXTS)
    return pa.Table.from_pylist(rows), shards


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Wav2Vec2CTCTokenizer:
    vocab = tmp_path_factory.mktemp("vocab") / "vocab.json"
    vocab.write_text(json.dumps({"[PAD]": 0, "[UNK]": 1, "|": 2, "a": 3, "b": 4}))
    return Wav2Vec2CTCTokenizer(str(vocab), unk_token="[UNK]", pad_token="[PAD]", word_delimiter_token="|")


@pytest.fixture(scope="module")
def wav2vec2_processor(tokenizer: Wav2Vec2CTCTokenizer) -> Wav2Vec2Processor:
    extractor = Wav2Vec2FeatureExtractor(return_attention_mask=True)
    return Wav2Vec2Processor(feature_extractor=extractor, tokenizer=tokenizer)


def test_a_dataset_may_have_the_name_of_a_folder(tmp_path: Path) -> None:
    rows, shards = store(tmp_path, RECORDINGS[:2], TEXTS[:2])
    (tmp_path / "corpus").rename(tmp_path / "perturbed")
    clips = pa.Table.from_pylist([row | {"dataset": "perturbed"} for row in rows])
    reader = ClipReader(clips, [tmp_path / "perturbed" / "train" / shard.name for shard in shards])
    assert np.array_equal(reader.samples(1), RECORDINGS[1])


def to_float(samples: Int16Samples) -> np.ndarray[Any, np.dtype[np.float32]]:
    return samples.astype(np.float32) / np.float32(32768)


def plan(**more: Any) -> PlanConfig:
    return PlanConfig.model_validate({"epochs": 2, "batch": {"clips": 4}, "save_steps": 1} | more)


def planned(table: pa.Table, settings: PlanConfig, count: int) -> PlannedBatches:
    return PlannedBatches(clips_from_table(table), settings, count)


def test_clip_has_samples_batch_and_weight(stored: Stored) -> None:
    reader = ClipReader(*stored)
    assert len(reader) == len(RECORDINGS)
    for i in (23, 0, 7):
        clip = reader[SampledClip(i, batch=5, weight=0.0)]
        np.testing.assert_array_equal(clip.pop("samples"), RECORDINGS[i])
        assert clip == {"id": f"clip-{i:03d}", "text": TEXTS[i], "batch": 5, "weight": 0.0}
    assert (reader[3]["batch"], reader[3]["weight"]) == (0, 1.0)


def count_reads(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """Count from now on how often each row group is read, over all shards."""
    reads: Counter[int] = Counter()
    original = pq.ParquetFile.read_row_group

    def counting(self: pq.ParquetFile, i: int, **kwargs: Any) -> pa.Table:
        reads[i] += 1
        return original(self, i, **kwargs)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counting)
    return reads


@pytest.mark.parametrize("pool", [6, 12, 24])
def test_row_group_is_read_once_per_pool(stored: Stored, pool: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # Two shards of four row groups of three clips each.
    settings = plan(epochs=1, pool_clips=pool, batch={"clips": 3})
    reader, reads = ClipReader(*stored, pool_clips=pool), count_reads(monkeypatch)
    for batch in planned(stored[0], settings, 8):
        for sampled in batch:
            reader[sampled]
    assert reads == dict.fromkeys(range(4), 2)


def test_cache_is_limited_to_the_size_of_a_pool(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, reads = ClipReader(*stored, pool_clips=6), count_reads(monkeypatch)
    # One clip of each row group of a shard. Six clips are two row groups, and one more is cached.
    for i in (0, 6, 12, 0):
        reader[i]
    assert reads == {0: 1, 1: 1, 2: 1}
    # A fourth one replaces the least recently used one.
    for i in (18, 0, 6):
        reader[i]
    assert reads == {0: 1, 1: 2, 2: 1, 3: 1}


def test_cache_holds_fewer_row_groups_of_long_clips(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = [row["audio"]["bytes"] for row in read_rows(stored[1][0])]
    # Space for the first two row groups and their offsets; the third one is larger than the first.
    monkeypatch.setattr(clip_reader, "_CLIP_BYTES", (sum(map(len, clips[:6])) + 100) / 24)
    reader, reads = ClipReader(*stored, pool_clips=24), count_reads(monkeypatch)
    for i in (0, 6, 0, 6):
        np.testing.assert_array_equal(reader.samples(i), RECORDINGS[i])
    assert reads == {0: 1, 1: 1}
    for i in (12, 14, 0):
        np.testing.assert_array_equal(reader.samples(i), RECORDINGS[i])
    assert reads == {0: 2, 1: 1, 2: 1}
    # Row groups that were removed leave space.
    for i in (6, 0):
        reader.samples(i)
    assert reads == {0: 2, 1: 2, 2: 1}


def test_oversized_row_group_is_cached_until_the_next(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clip_reader, "_CLIP_BYTES", 1)
    reader, reads = ClipReader(*stored, pool_clips=24), count_reads(monkeypatch)
    for i in (0, 2, 4, 6, 0):
        reader.samples(i)
    assert reads == {0: 2, 1: 1}


def extractors() -> st.SearchStrategy[Wav2Vec2FeatureExtractor]:
    return st.builds(
        Wav2Vec2FeatureExtractor,
        return_attention_mask=st.booleans(),
        do_normalize=st.booleans(),
        padding_value=st.sampled_from([0.0, 0.25]),
    )


@st.composite
def waves(draw: st.DrawFn) -> list[Int16Samples]:
    """Clips from silence to full scale, of the same length or of different lengths."""
    seed = draw(st.integers(0, 2**32 - 1))
    lengths = draw(st.lists(st.integers(1, 20_000), min_size=1, max_size=5))
    lengths = [lengths[0]] * len(lengths) if draw(st.booleans()) else lengths
    rng = np.random.default_rng(seed)
    loudness, offset = draw(st.sampled_from([0, 1, 300, 60_000])), draw(st.integers(-3000, 3000))
    return [(rng.standard_normal(n) * loudness + offset).clip(-32768, 32767).astype(np.int16) for n in lengths]


def assert_identical(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for key, value in actual.items():
        assert value.dtype == expected[key].dtype
        np.testing.assert_array_equal(value.numpy(), expected[key].numpy())


@given(extractors(), waves())
def test_features_are_bit_identical_to_the_extractor(
    extractor: Wav2Vec2FeatureExtractor, samples: list[Int16Samples]
) -> None:
    # Reference: transformers' extractor. Without padding, `model_inputs` leaves out the mask, which is all ones.
    expected = dict(extractor([to_float(s) for s in samples], sampling_rate=16_000, padding=True, return_tensors="pt"))
    if len({len(s) for s in samples}) == 1:
        expected.pop("attention_mask", None)
    assert_identical(waveform_inputs(extractor, samples), expected)


def test_batch_has_all_keys_of_a_training_step(stored: Stored, wav2vec2_processor: Wav2Vec2Processor) -> None:
    reader = ClipReader(*stored)
    sampled = [SampledClip(5, 9), SampledClip(0, 9), SampledClip(2, 9, 0.0)]
    batch = Collator(wav2vec2_processor)([reader[clip] for clip in sampled])
    assert batch.pop("batch") == 9
    assert batch.pop("weight").tolist() == [1.0, 1.0, 0.0]
    assert batch.pop("num_samples").tolist() == [len(RECORDINGS[i]) for i in (5, 0, 2)]
    # The texts "ababab", "a" and "aaa".
    assert batch.pop("labels").tolist() == [[3, 4] * 3, [3, *[IGNORED_LABEL] * 5], [3, 3, 3, *[IGNORED_LABEL] * 3]]
    assert_identical(batch, model_inputs(wav2vec2_processor, [to_float(RECORDINGS[i]) for i in (5, 0, 2)]))


def test_other_extractors_compute_their_features(stored: Stored, tokenizer: Wav2Vec2CTCTokenizer) -> None:
    mel = Wav2Vec2BertProcessor(feature_extractor=SeamlessM4TFeatureExtractor(), tokenizer=tokenizer)
    reader = ClipReader(*stored)
    batch = Collator(mel)([reader[i] for i in (1, 8)])
    expected = model_inputs(mel, [to_float(RECORDINGS[i]) for i in (1, 8)])
    assert "input_features" in expected
    assert_identical({key: batch[key] for key in expected}, expected)


def test_base_with_another_sampling_rate_is_rejected() -> None:
    with pytest.raises(SpeechmillError, match="sampling rate of 8000 Hz"):
        waveform_inputs(Wav2Vec2FeatureExtractor(sampling_rate=8000), RECORDINGS[:1])


def assert_same_batches(actual: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert len(actual) == len(expected)
    for one, other in zip(actual, expected, strict=True):
        assert one.pop("batch") == other.pop("batch")
        assert_identical(one, other)


@pytest.mark.parametrize(("method", "workers"), [("fork", 2), pytest.param("spawn", 1, marks=pytest.mark.slow)])
def test_workers_yield_the_same_batches(
    stored: Stored, wav2vec2_processor: Wav2Vec2Processor, method: str, workers: int
) -> None:
    # Two epochs of six batches each, in steps of five: three repeated batches complete the last step.
    batches = planned(stored[0], plan(gradient_accumulation=5, pool_clips=6), 12)
    reader = ClipReader(*stored, pool_clips=6)
    # Shards that are already open must not disturb the workers.
    without_workers = list(DataLoader(reader, batch_sampler=batches, collate_fn=Collator(wav2vec2_processor)))
    with_workers = DataLoader(
        reader,
        batch_sampler=batches,
        collate_fn=Collator(wav2vec2_processor),
        num_workers=workers,
        prefetch_factor=3,
        multiprocessing_context=method,
    )
    assert [batch["batch"] for batch in without_workers] == list(range(15))
    assert [float(batch["weight"].sum()) for batch in without_workers] == [4.0] * 12 + [0.0] * 3
    assert_same_batches(list(with_workers), without_workers)


def damaged(tmp_path: Path, how: str) -> tuple[pa.Table, list[Path]]:
    """Clips whose first shard does not match its index."""
    rows, shards = store(tmp_path, RECORDINGS[:6], TEXTS[:6])
    if how == "truncated":
        shards[0].write_bytes(shards[0].read_bytes()[:-100])
    elif how == "missing":
        shards[0].unlink()
    elif how == "other clips":
        shards[0].write_bytes(shards[1].read_bytes())
    else:
        stored_rows = pq.read_table(shards[0]).to_pylist()
        for row in stored_rows:
            if how == "noise":
                row["audio"]["bytes"] = b"fLaC" + bytes(200)
            else:
                row["audio_sha256"] = "f" * 64
        pq.write_table(pa.Table.from_pylist(stored_rows, schema=pq.read_schema(shards[0])), shards[0])
    return pa.Table.from_pylist(rows), shards


@pytest.mark.parametrize(
    ("how", "problem"),
    [
        ("truncated", "cannot be read"),
        ("missing", "cannot be read"),
        ("other clips", "does not contain clip-000 where its index says"),
        ("other samples", "contains another recording for clip-000 than its index lists"),
        ("noise", "contains damaged audio for clip-000"),
    ],
)
def test_corrupt_shard_is_named(tmp_path: Path, how: str, problem: str) -> None:
    with pytest.raises(SpeechmillError, match=f"shard-00000.parquet {problem}.*; delete it and run snakemake again"):
        ClipReader(*damaged(tmp_path, how))[0]


def test_error_in_a_worker_reaches_the_user(tmp_path: Path, wav2vec2_processor: Wav2Vec2Processor) -> None:
    reader = ClipReader(*damaged(tmp_path, "missing"))
    loader = DataLoader(reader, batch_sampler=[[1], [0]], collate_fn=Collator(wav2vec2_processor), num_workers=1)
    batches = iter(loader)
    assert len(next(batches)["labels"]) == 1
    with pytest.raises(SpeechmillError, match=r"shard-00000.parquet cannot be read \(.*; delete it and run"):
        next(batches)
    # Torch would wait five seconds for the worker of an iterator that is not exhausted after an error.
    assert list(batches) == []


def test_row_beyond_the_row_group_is_reported(stored: Stored) -> None:
    table, shards = stored
    beyond = table.set_column(table.column_names.index("row"), "row", pa.array([9] * len(table)))
    with pytest.raises(SpeechmillError, match="does not contain clip-004"):
        ClipReader(beyond, shards)[4]


def test_table_identifies_row_groups(stored: Stored) -> None:
    clips = clips_from_table(stored[0])
    assert clips.lengths.tolist() == [len(r) for r in RECORDINGS]
    # `store` alternates between two shards and writes three clips per row group.
    row_groups = [(i % 2, i // 6) for i in range(24)]
    for i, j in itertools.combinations(range(24), 2):
        assert (clips.groups[i] == clips.groups[j]) == (row_groups[i] == row_groups[j])
