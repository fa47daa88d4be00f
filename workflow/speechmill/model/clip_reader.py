"""Random access to the clips in shards, and their collation into batches of model inputs."""

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import soundfile as sf
import torch
from torch.utils.data import Dataset
from transformers import Wav2Vec2FeatureExtractor

from speechmill.core.command import SpeechmillError
from speechmill.core.files import corrupt_file_error
from speechmill.core.flac import FULL_SCALE, Int16Samples, decode_flac, decode_spans, to_floats
from speechmill.core.schemas import SAMPLE_RATE
from speechmill.core.tables import open_table, release_memory, table_errors
from speechmill.model.batching import SampledClip, clips_from_table
from speechmill.model.ctc import IGNORED_LABEL
from speechmill.model.labels import LabelEncoder
from speechmill.model.models import Processor, model_inputs

# The metadata of an open shard takes about 8 kB per row group: half a gigabyte if the open shards hold a million clips.
_MAX_OPEN_SHARDS = 256
# The size of half a minute of speech.
_CLIP_BYTES = 1 << 19
# Wav2Vec2FeatureExtractor adds this to the variance before it takes the square root.
_VARIANCE_EPSILON = 1e-7


class _RowGroup(NamedTuple):
    """The ids, the digests of the samples, and the encoded audio of the clips of a row group."""

    ids: pa.Array
    digests: pa.Array
    encoded: pa.Array


class ClipReader(Dataset[dict[str, Any]]):
    """Dataset of the clips of a table, read from shards on access.

    Row groups are cached, still encoded, up to those of about `pool_clips` clips, so that each is read once if clips
    are accessed pool by pool. The cache takes about 20 kB per second of speech in each process that reads: 0.9 GB for
    8,192 clips of five seconds. It is limited to 512 KiB, the size of half a minute of speech, times `pool_clips`, so
    that it holds fewer of longer clips, but at least the row group read last.

    Several threads may read at the same time.

    Args:
        clips: The table of clips.
        shards: The shards that contain them, `…/{dataset}/{split}/shard-{number}.parquet`, or perturbed copies of
            these.
        pool_clips: The number of clips of a pool.
    """

    def __init__(self, clips: pa.Table, shards: Sequence[Path], pool_clips: int = 1024) -> None:
        self._clips = clips.select(["dataset", "split", "id", "text", "audio_sha256", "shard", "row_group", "row"])
        self._shards = {_shard_key(path): path for path in shards}
        groups = len(np.unique(clips_from_table(clips).groups))
        # One more, since a pool ends with the row group that fills it.
        self._max_groups = math.ceil(pool_clips * groups / max(1, len(clips))) + 1
        self._max_bytes = pool_clips * _CLIP_BYTES
        self._clear_cache()

    def _clear_cache(self) -> None:
        self._lock = Lock()
        # With `pre_buffer`, each open shard would keep a copy of its last row group.
        self._open = lru_cache(maxsize=_MAX_OPEN_SHARDS)(partial(open_table, pre_buffer=False))
        # The least recently used row group comes first.
        self._groups: dict[tuple[Path, int], _RowGroup] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, sampled: SampledClip | int) -> dict[str, Any]:
        """Return the `id`, `text` and 16-bit `samples` of a clip, with the `batch` and the `weight` of its sample."""
        place = sampled if isinstance(sampled, SampledClip) else SampledClip(sampled)
        clip = {key: self._clips[key][place.clip].as_py() for key in ("id", "text")}
        return clip | {"samples": self.samples(place.clip), "batch": place.batch, "weight": place.weight}

    def samples(self, i: int) -> Int16Samples:
        """Return the samples of clip `i`.

        Raises:
            SpeechmillError: The shard of the clip is corrupt.
        """
        path, name, encoded = self._encoded(i)
        try:
            return decode_flac(encoded.to_pybytes())
        except sf.LibsndfileError as error:
            raise _damaged_audio_error(path, name, error) from error

    def spans(self, i: int, spans: Sequence[tuple[int, int]]) -> Iterator[Int16Samples]:
        """Yield the samples of each span of clip `i`, from its start up to but excluding its stop.

        Raises:
            SpeechmillError: The shard of the clip is corrupt.
        """
        path, name, encoded = self._encoded(i)
        try:
            yield from decode_spans(pa.BufferReader(encoded), spans)
        except sf.LibsndfileError as error:
            raise _damaged_audio_error(path, name, error) from error

    def _encoded(self, i: int) -> tuple[Path, str, pa.Buffer]:
        """Return the shard, the id and the FLAC file of clip `i`."""
        dataset, split, name, digest, shard, number, row = (
            self._clips[key][i].as_py()
            for key in ("dataset", "split", "id", "audio_sha256", "shard", "row_group", "row")
        )
        path = self._shards[dataset, split, shard]
        with self._lock:
            group = self._row_group(path, number)
        if row >= len(group.ids) or group.ids[row].as_py() != name:
            raise corrupt_file_error(path, f"does not contain {name} where its index says")
        # A shard built with other settings or from another corpus may have replaced this one, or a link to the cache
        # may lead to it.
        if group.digests[row].as_py() != digest:
            raise corrupt_file_error(path, f"contains another recording for {name} than its index lists")
        return path, name, _value(group.encoded, row)

    def _row_group(self, path: Path, number: int) -> _RowGroup:
        """Return a row group from the cache or from its shard, and remove the least recently used ones."""
        group = self._groups.pop((path, number), None)
        if group is None:
            group = self._read_row_group(path, number)
            self._bytes += group.encoded.nbytes
        self._groups[path, number] = group
        while len(self._groups) > 1 and (len(self._groups) > self._max_groups or self._bytes > self._max_bytes):
            self._bytes -= self._groups.pop(next(iter(self._groups))).encoded.nbytes
        return group

    def _read_row_group(self, path: Path, number: int) -> _RowGroup:
        columns = ["id", "audio_sha256", "audio.bytes"]
        with table_errors(path):
            # A thread pool does not survive the fork that creates a worker.
            table = self._open(path).read_row_group(number, columns=columns, use_threads=False)
        release_memory()
        table = table.combine_chunks()
        return _RowGroup(table["id"].chunk(0), table["audio_sha256"].chunk(0), table["audio"].chunk(0).field("bytes"))

    def __getstate__(self) -> dict[str, Any]:
        # Open files and cached row groups are not sent to worker processes.
        own = ("_lock", "_open", "_groups", "_bytes")
        return {key: value for key, value in self.__dict__.items() if key not in own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._clear_cache()


def _value(array: pa.BinaryArray, i: int) -> pa.Buffer:
    """Return value `i` of an array; `array[i]` would be a copy, which takes much memory for a long clip."""
    _, offsets, values = array.buffers()
    start, stop = np.frombuffer(offsets, np.int32)[array.offset + i :][:2].tolist()
    return values.slice(start, stop - start)


def _shard_key(path: Path) -> tuple[str, str, int]:
    """Return the dataset, the split and the number of a shard, given its path."""
    return path.parts[-3], path.parts[-2], int(path.stem.removeprefix("shard-"))


def _damaged_audio_error(path: Path, name: str, error: Exception) -> SpeechmillError:
    return corrupt_file_error(path, f"contains damaged audio for {name} ({error})")


class Collator:
    """Collate function that turns clips into a padded batch.

    A batch has the model's inputs; `num_samples` and `weight`, shape (clips,); `labels`, shape (clips, longest text),
    padded with IGNORED_LABEL; and `batch`, its number.
    """

    def __init__(self, processor: Processor) -> None:
        self._processor = processor
        self._encode = LabelEncoder(processor)

    def __call__(self, clips: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return the batch of `clips`, in their order."""
        samples = [clip["samples"] for clip in clips]
        labels = [torch.tensor(ids, dtype=torch.long) for ids in self.labels([clip["text"] for clip in clips])]
        return self._inputs(samples) | {
            "num_samples": torch.tensor([len(s) for s in samples]),
            "labels": torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=IGNORED_LABEL),
            "weight": torch.tensor([clip["weight"] for clip in clips], dtype=torch.float32),
            "batch": clips[0]["batch"],
        }

    def labels(self, texts: list[str]) -> list[list[int]]:
        """Return the token ids of each text."""
        return [self._encode(text) for text in texts]

    def _inputs(self, samples: Sequence[Int16Samples]) -> dict[str, torch.Tensor]:
        extractor = self._processor.feature_extractor
        if type(extractor) is Wav2Vec2FeatureExtractor and extractor.padding_side == "right":
            return waveform_inputs(extractor, samples)
        return model_inputs(self._processor, list(map(to_floats, samples)))


def waveform_inputs(extractor: Wav2Vec2FeatureExtractor, samples: Sequence[Int16Samples]) -> dict[str, torch.Tensor]:
    """Return what `model_inputs` returns for a model that processes samples: bit-identical, but faster.

    Each clip is scaled and normalised to mean 0 and variance 1 in place in the batch. With an attention mask, the
    statistics are those of the clip's own samples; without one they include the padding, as in the extractor.

    Raises:
        SpeechmillError: The extractor has another sampling rate than the clips.
    """
    if extractor.sampling_rate != SAMPLE_RATE:
        raise SpeechmillError(
            f"model.base: the base model has a sampling rate of {extractor.sampling_rate} Hz, but clips have"
            f" {SAMPLE_RATE} Hz; choose another base"
        )
    longest = max(len(s) for s in samples)
    padded = any(len(s) < longest for s in samples)
    values = np.full((len(samples), longest), extractor.padding_value, dtype=np.float32)
    squares = np.empty(longest, dtype=np.float32)
    for clip, row in zip(samples, values, strict=True):
        unpadded = row[: len(clip)]
        np.divide(clip, FULL_SCALE, out=unpadded)
        if extractor.do_normalize:
            normalised = unpadded if extractor.return_attention_mask else row
            # The same steps as in numpy's `var`, so that rounding is the same.
            normalised -= normalised.mean()
            square = np.multiply(normalised, normalised, out=squares[: len(normalised)])
            normalised /= np.sqrt(square.mean() + _VARIANCE_EPSILON)
    inputs = {"input_values": torch.from_numpy(values)}
    if extractor.return_attention_mask and padded:
        mask = torch.zeros(values.shape, dtype=torch.int32)
        for i, clip in enumerate(samples):
            mask[i, : len(clip)] = 1
        inputs["attention_mask"] = mask
    return inputs
