"""Clips read from shards in any order, and batches of them as a model takes them."""

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile as sf
import torch
from torch.utils.data import Dataset
from transformers import Wav2Vec2FeatureExtractor

from speechmill.core.command import SpeechmillError, corrupt_file_error
from speechmill.core.flac import Int16Samples, decode_flac, decode_spans
from speechmill.core.tables import SAMPLE_RATE
from speechmill.model.batching import SampledClip, clips_of
from speechmill.model.ctc import IGNORED
from speechmill.model.models import Processor, model_inputs

# What an open shard knows of its row groups takes about 8 kB each: half a gigabyte where a million clips are open.
_OPEN_SHARDS = 256
# Half a minute of speech.
_CLIP_BYTES = 1 << 19
# What Wav2Vec2FeatureExtractor adds to a variance before it takes the root.
_LEAST_VARIANCE = 1e-7
_FULL_SCALE = np.float32(32768)


class _Group(NamedTuple):
    """The ids, the digests of the samples, and the encoded audio of a row group's clips."""

    ids: pa.Array
    digests: pa.Array
    encoded: pa.Array


class ClipReader(Dataset[dict[str, Any]]):
    """The clips of a table, each read from its shard when asked for.

    `shards` are the files `…/{dataset}/{split}/shard-{number}.parquet` that the table's rows point into, or changed
    copies of them, `…/{dataset}/{split}/perturbed/{effect}/shard-{number}.parquet`. Row groups are kept, as encoded,
    until those of about `pool_clips` clips are held, so that each is read once where clips are asked for pool by pool.
    That takes about 20 kB a second of speech, 0.9 GB for 8,192 clips of five seconds, in each process that reads. Of
    clips that are longer than half a minute fewer are held, so that no more than 512 KiB for each of `pool_clips` are
    kept, or the row group that was read last.
    """

    def __init__(self, clips: pa.Table, shards: Sequence[Path], pool_clips: int = 1024) -> None:
        self._clips = clips.select(["dataset", "split", "id", "text", "audio_sha256", "shard", "row_group", "row"])
        self._shards = {_holds(path): path for path in shards}
        groups = len(np.unique(clips_of(clips).groups))
        # One more, since a pool ends with the row group that fills it.
        self._most = math.ceil(pool_clips * groups / max(1, len(clips))) + 1
        self._most_bytes = pool_clips * _CLIP_BYTES
        self._forget()

    def _forget(self) -> None:
        # With `pre_buffer` each open shard would keep a copy of its last row group.
        self._open = lru_cache(maxsize=_OPEN_SHARDS)(partial(pq.ParquetFile, pre_buffer=False))
        # In the order in which they were asked for.
        self._groups: dict[tuple[Path, int], _Group] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, drawn: SampledClip | int) -> dict[str, Any]:
        """A clip's `id`, `text` and 16-bit `samples`, with the `batch` and the `weight` that it was drawn with."""
        place = drawn if isinstance(drawn, SampledClip) else SampledClip(drawn)
        clip = {key: self._clips[key][place.clip].as_py() for key in ("id", "text")}
        return clip | {"samples": self.samples(place.clip), "batch": place.batch, "weight": place.weight}

    def samples(self, i: int) -> Int16Samples:
        """The samples of a clip. Raises SpeechmillError where its shard cannot be read."""
        path, name, encoded = self._encoded(i)
        try:
            return decode_flac(encoded.as_py())
        except sf.LibsndfileError as error:
            raise _damaged(path, name, error) from error

    def spans(self, i: int, spans: Sequence[tuple[int, int]]) -> Iterator[Int16Samples]:
        """The samples of each span of a clip, from its start to before its stop, decoded one after the other.

        Raises SpeechmillError where its shard cannot be read.
        """
        path, name, encoded = self._encoded(i)
        try:
            yield from decode_spans(pa.BufferReader(encoded.as_buffer()), spans)
        except sf.LibsndfileError as error:
            raise _damaged(path, name, error) from error

    def _encoded(self, i: int) -> tuple[Path, str, pa.BinaryScalar]:
        """The shard of a clip, its name, and its FLAC file."""
        dataset, split, name, audio, shard, number, row = (
            self._clips[key][i].as_py()
            for key in ("dataset", "split", "id", "audio_sha256", "shard", "row_group", "row")
        )
        path = self._shards[dataset, split, shard]
        group = self._group(path, number)
        if row >= len(group.ids) or group.ids[row].as_py() != name:
            raise corrupt_file_error(path, f"does not hold {name} where its index says")
        # A shard of other settings, or of another corpus, that took this one's place, be it through a link to a cache.
        if group.digests[row].as_py() != audio:
            raise corrupt_file_error(path, f"holds another recording as {name} than its index tells of")
        return path, name, group.encoded[row]

    def _group(self, path: Path, group: int) -> _Group:
        """A row group, kept in place of those that were not asked for the longest."""
        found = self._groups.pop((path, group), None)
        if found is None:
            found = self._read_group(path, group)
            self._bytes += found.encoded.nbytes
        self._groups[path, group] = found
        while len(self._groups) > 1 and (len(self._groups) > self._most or self._bytes > self._most_bytes):
            self._bytes -= self._groups.pop(next(iter(self._groups))).encoded.nbytes
        return found

    def _read_group(self, path: Path, group: int) -> _Group:
        columns = ["id", "audio_sha256", "audio.bytes"]
        try:
            # A thread pool does not outlive the fork that makes a worker.
            table = self._open(path).read_row_group(group, columns=columns, use_threads=False)
        except (pa.ArrowInvalid, OSError) as error:
            raise corrupt_file_error(path, f"cannot be read ({error})") from error
        table = table.combine_chunks()
        return _Group(table["id"].chunk(0), table["audio_sha256"].chunk(0), table["audio"].chunk(0).field("bytes"))

    def __getstate__(self) -> dict[str, Any]:
        # Open files and what was read of them do not travel to a worker process.
        return {key: value for key, value in self.__dict__.items() if key not in ("_open", "_groups", "_bytes")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._forget()


def _holds(path: Path) -> tuple[str, str, int]:
    """The dataset, the split and the number of a shard, by its path."""
    folder = path.parents[2] if path.parts[-3] == "perturbed" else path.parent
    return folder.parent.name, folder.name, int(path.stem.removeprefix("shard-"))


def _damaged(path: Path, name: str, error: Exception) -> SpeechmillError:
    return corrupt_file_error(path, f"holds {name} damaged ({error})")


class Collator:
    """Makes a batch of clips.

    Its keys: the model's inputs, padded; `num_samples` and `weight`, shape (clips,); `labels`, shape (clips, longest
    text), padded by IGNORED; `batch`, the batch's number.
    """

    def __init__(self, processor: Processor) -> None:
        self._processor = processor

    def __call__(self, clips: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """The batch of `clips`, in their order."""
        samples = [clip["samples"] for clip in clips]
        labels = [torch.tensor(ids, dtype=torch.long) for ids in self.labels([clip["text"] for clip in clips])]
        return self._inputs(samples) | {
            "num_samples": torch.tensor([len(s) for s in samples]),
            "labels": torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=IGNORED),
            "weight": torch.tensor([clip["weight"] for clip in clips], dtype=torch.float32),
            "batch": clips[0]["batch"],
        }

    def labels(self, texts: list[str]) -> list[list[int]]:
        """The ids of each text's characters."""
        ids: list[list[int]] = self._processor.tokenizer(texts).input_ids
        return ids

    def _inputs(self, samples: Sequence[Int16Samples]) -> dict[str, torch.Tensor]:
        extractor = self._processor.feature_extractor
        if type(extractor) is Wav2Vec2FeatureExtractor and extractor.padding_side == "right":
            return wave_inputs(extractor, samples)
        return model_inputs(self._processor, [s.astype(np.float32) / _FULL_SCALE for s in samples])


def wave_inputs(extractor: Wav2Vec2FeatureExtractor, samples: Sequence[Int16Samples]) -> dict[str, torch.Tensor]:
    """What `model_inputs` makes of clips where the model hears samples: the same numbers, to the bit, in less time.

    Each clip is scaled and brought to mean 0 and variance 1 where it stands in the batch. With an attention mask its
    own samples decide on both; without one the padding counts as well, as it does in the extractor.
    """
    if extractor.sampling_rate != SAMPLE_RATE:
        raise SpeechmillError(
            f"the base model hears {extractor.sampling_rate} samples a second, and clips have {SAMPLE_RATE};"
            " choose another base"
        )
    longest = max(len(s) for s in samples)
    padded = any(len(s) < longest for s in samples)
    values = np.full((len(samples), longest), extractor.padding_value, dtype=np.float32)
    squares = np.empty(longest, dtype=np.float32)
    for clip, row in zip(samples, values, strict=True):
        heard = row[: len(clip)]
        np.divide(clip, _FULL_SCALE, out=heard)
        if extractor.do_normalize:
            counted = heard if extractor.return_attention_mask else row
            # In the steps of numpy's own `var`, so that nothing is rounded otherwise.
            counted -= counted.mean()
            square = np.multiply(counted, counted, out=squares[: len(counted)])
            counted /= np.sqrt(square.mean() + _LEAST_VARIANCE)
    inputs = {"input_values": torch.from_numpy(values)}
    if extractor.return_attention_mask and padded:
        mask = torch.zeros(values.shape, dtype=torch.int32)
        for i, clip in enumerate(samples):
            mask[i, : len(clip)] = 1
        inputs["attention_mask"] = mask
    return inputs
