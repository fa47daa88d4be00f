"""Clips in the shards of speechmill, and in the format of the CTC example of transformers.

The example is `run_speech_recognition_ctc.py`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import torch
from transformers import Wav2Vec2Processor

from speechmill.core.flac import Int16Samples, encode_flac
from speechmill.core.schemas import CLIPS, SAMPLE_RATE, clip_schema
from speechmill.core.tables import write_in_row_groups
from speechmill.model.ctc import IGNORED_LABEL

# The size that speechmill uses in shards.
ROW_GROUP = 16


def store_clips(texts: list[str], recordings: list[Int16Samples], folder: Path) -> tuple[pa.Table, list[Path]]:
    """Write clips to a shard; return the table of clips and the shard."""
    shard = folder / "corpus" / "train" / "shard-00000.parquet"
    rows = [
        {"id": f"{i:04d}", "sentence": text, "num_samples": len(samples)}
        for i, (text, samples) in enumerate(zip(texts, recordings, strict=True))
    ]
    audio = ({"bytes": encode_flac(samples), "path": "clip.flac"} for samples in recordings)
    clips = (row | {"audio": encoded} for row, encoded in zip(rows, audio, strict=True))
    write_in_row_groups(clips, clip_schema(), shard, ROW_GROUP)
    locations = (
        {"dataset": "corpus", "split": "train", "shard": 0, "row_group": i // ROW_GROUP, "row": i % ROW_GROUP}
        for i in range(len(rows))
    )
    used = [row | location | {"text": row["sentence"]} for row, location in zip(rows, locations, strict=True)]
    return pa.Table.from_pylist(used, CLIPS), [shard]


def feature_dataset(
    texts: list[str], recordings: list[Int16Samples], processor: Wav2Vec2Processor, folder: Path
) -> datasets.Dataset:
    """Return the dataset of features and labels that the example writes to disk with `map`."""

    def prepared() -> Iterator[dict[str, Any]]:
        for text, samples in zip(texts, recordings, strict=True):
            floats = samples.astype(np.float32) / np.float32(32768)
            values = processor.feature_extractor(floats, sampling_rate=SAMPLE_RATE).input_values[0]
            yield {"input_values": values, "labels": processor.tokenizer(text).input_ids}

    features = datasets.Features(
        input_values=datasets.Sequence(datasets.Value("float32")), labels=datasets.Sequence(datasets.Value("int64"))
    )
    return datasets.Dataset.from_generator(prepared, features=features, cache_dir=str(folder))


class StockCollator:
    """The collator of the example, which pads labels with IGNORED_LABEL.

    It receives each clip as a list of Python floats, which takes ten times as long as an array.
    """

    def __init__(self, processor: Wav2Vec2Processor) -> None:
        self._processor = processor

    def __call__(self, clips: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Return the padded batch of `clips`."""
        samples = [{"input_values": clip["input_values"]} for clip in clips]
        batch = self._processor.feature_extractor.pad(samples, padding=True, return_tensors="pt")
        labels = self._processor.tokenizer.pad([{"input_ids": clip["labels"]} for clip in clips], return_tensors="pt")
        return dict(batch) | {"labels": labels["input_ids"].masked_fill(labels["attention_mask"] == 0, IGNORED_LABEL)}
