"""Clips in our shards, and as the example of transformers for CTC has them (`run_speech_recognition_ctc.py`)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import torch
from transformers import Wav2Vec2Processor

from speechmill.core.flac import Int16Samples, encode_flac
from speechmill.core.tables import CLIPS, SAMPLE_RATE, clip_schema, write_in_row_groups
from speechmill.model.ctc import IGNORED

# As shards have them.
ROW_GROUP = 16


def stored(texts: list[str], recordings: list[Int16Samples], folder: Path) -> tuple[pa.Table, list[Path]]:
    """The table of clips, and the shard that holds them."""
    shard = folder / "corpus" / "train" / "shard-00000.parquet"
    rows = [
        {"id": f"{i:04d}", "sentence": text, "num_samples": len(samples)}
        for i, (text, samples) in enumerate(zip(texts, recordings, strict=True))
    ]
    audio = ({"bytes": encode_flac(samples), "path": "clip.flac"} for samples in recordings)
    clips = (row | {"audio": encoded} for row, encoded in zip(rows, audio, strict=True))
    write_in_row_groups(clips, clip_schema(), shard, ROW_GROUP)
    places = (
        {"dataset": "corpus", "split": "train", "shard": 0, "row_group": i // ROW_GROUP, "row": i % ROW_GROUP}
        for i in range(len(rows))
    )
    used = [row | place | {"text": row["sentence"]} for row, place in zip(rows, places, strict=True)]
    return pa.Table.from_pylist(used, CLIPS), [shard]


def arrays(texts: list[str], recordings: list[Int16Samples], made: Wav2Vec2Processor, folder: Path) -> datasets.Dataset:
    """What the example's mapping leaves on the disk."""

    def prepared() -> Iterator[dict[str, Any]]:
        for text, samples in zip(texts, recordings, strict=True):
            heard = samples.astype(np.float32) / np.float32(32768)
            values = made.feature_extractor(heard, sampling_rate=SAMPLE_RATE).input_values[0]
            yield {"input_values": values, "labels": made.tokenizer(text).input_ids}

    features = datasets.Features(
        input_values=datasets.Sequence(datasets.Value("float32")), labels=datasets.Sequence(datasets.Value("int64"))
    )
    return datasets.Dataset.from_generator(prepared, features=features, cache_dir=str(folder))


class StockCollator:
    """The example's collator: labels end in IGNORED.

    Each clip comes as a list of Python's floats, which takes ten times as long as an array would.
    """

    def __init__(self, made: Wav2Vec2Processor) -> None:
        self._made = made

    def __call__(self, clips: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """The padded batch of `clips`."""
        samples = [{"input_values": clip["input_values"]} for clip in clips]
        batch = self._made.feature_extractor.pad(samples, padding=True, return_tensors="pt")
        labels = self._made.tokenizer.pad([{"input_ids": clip["labels"]} for clip in clips], return_tensors="pt")
        return dict(batch) | {"labels": labels["input_ids"].masked_fill(labels["attention_mask"] == 0, IGNORED)}
