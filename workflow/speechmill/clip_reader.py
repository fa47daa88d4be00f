"""Clips read from shards at random, and batches of them as a model takes them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch.utils.data import Dataset
from transformers import Wav2Vec2Processor

from speechmill.command import SpeechmillError
from speechmill.ctc import IGNORED
from speechmill.flac import FloatSamples, decode_flac
from speechmill.tables import SAMPLE_RATE


class ClipReader(Dataset[dict[str, Any]]):
    """The clips of a table, each read from its shard when asked for.

    `shards` are the files `…/{dataset}/{split}/shard-{number}.parquet` that the table's rows point into.
    """

    def __init__(self, clips: Sequence[dict[str, Any]], shards: Sequence[Path]) -> None:
        self._clips = clips
        self._shards = {(p.parts[-3], p.parts[-2], int(p.stem.removeprefix("shard-"))): p for p in shards}
        self._open: dict[Path, pq.ParquetFile] = {}

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, i: int) -> dict[str, Any]:
        """The clip with its `samples`."""
        return self._clips[i] | {"samples": self.samples(i)}

    def samples(self, i: int) -> FloatSamples:
        """The samples of a clip, from -1 to 1. Raises SpeechmillError where its shard cannot be read."""
        clip = self._clips[i]
        path = self._shards[clip["dataset"], clip["split"], clip["shard"]]
        try:
            if path not in self._open:
                self._open[path] = pq.ParquetFile(path)
            group = self._open[path].read_row_group(clip["row_group"], columns=["id", "audio.bytes"])
        except (pa.ArrowInvalid, OSError) as error:
            raise SpeechmillError(f"{path} cannot be read ({error}); delete it and run snakemake again") from error
        if group["id"][clip["row"]].as_py() != clip["id"]:
            raise SpeechmillError(f"{path} does not hold {clip['id']} where its index says; delete it and run again")
        encoded = group["audio"].combine_chunks().field("bytes")[clip["row"]].as_py()
        return decode_flac(encoded).astype(np.float32) / np.float32(32768.0)

    def __getstate__(self) -> dict[str, Any]:
        # Open files do not travel to a worker process.
        return self.__dict__ | {"_open": {}}


class Collator:
    """Makes a batch: the processor's features, padded, with `num_samples` and, padded by IGNORED, `labels`."""

    def __init__(self, processor: Wav2Vec2Processor) -> None:
        self._processor = processor

    def __call__(self, clips: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """The batch of `clips`, in their order."""
        samples = [clip["samples"] for clip in clips]
        features = self._processor.feature_extractor(
            samples, sampling_rate=SAMPLE_RATE, padding=True, return_tensors="pt"
        )
        labels = [torch.tensor(ids, dtype=torch.long) for ids in self.labels([clip["text"] for clip in clips])]
        return dict(features) | {
            "num_samples": torch.tensor([len(s) for s in samples]),
            "labels": torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=IGNORED),
        }

    def labels(self, texts: list[str]) -> list[list[int]]:
        """The ids of each text's characters."""
        ids: list[list[int]] = self._processor.tokenizer(texts).input_ids
        return ids
