"""log_probs: run a model over a set once and store its CTC outputs, which all decoders share.

A model that generates text, such as Whisper, has no CTC outputs: its hypotheses are stored in the same table, without
losses, frames and log-probabilities.
"""

import argparse
import hashlib
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from pydantic import BaseModel
from transformers import PreTrainedModel

from speechmill.config.evaluation import GenerationConfig
from speechmill.core.command import SpeechmillError, run_command
from speechmill.core.files import check_folder, read_json
from speechmill.core.flac import Int16Samples
from speechmill.core.progress import progress
from speechmill.core.schemas import CLIPS, CTC_OUTPUTS, SAMPLE_RATE
from speechmill.core.selection import selected_mean
from speechmill.core.tables import read_table, write_in_row_groups
from speechmill.inference.generate import generate
from speechmill.model.base_files import CONFIG, generates_text
from speechmill.model.batching import Indices, Lengths, pack_batches
from speechmill.model.clip_reader import ClipReader, Collator
from speechmill.model.ctc import clip_losses
from speechmill.model.devices import acquire_devices, device_name, to_device
from speechmill.model.gpu_kernels import use_gpu_kernels
from speechmill.model.labels import LabelEncoder, written_special_tokens
from speechmill.model.models import (
    INPUT_KEYS,
    Processor,
    equal_in_batch,
    forward,
    load_checkpoint,
    output_frames,
    samples_per_frame,
)

_PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

# The threads that decode audio for a GPU, which transcribes about twice as fast as one thread decodes.
_GPU_READERS = 4

# Decoding processes load one row group at a time.
_ROW_GROUP = 64

# The size limit of a Parquet cell.
_MAX_BYTES = (1 << 31) - 1


class LogProbsSettings(BaseModel):
    """The stage settings: how a run evaluates a set."""

    device: str
    batch_seconds: float
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Used on a GPU; a CPU always computes in fp32."""
    chunk_seconds: float | None = None
    stride_seconds: float | None = None
    """By default a sixth of `chunk_seconds`, as in the pipeline of transformers."""
    language: str = ""
    """The language of a run that only scores a model."""
    generation: GenerationConfig | None = None
    """Of a run that only scores a model; used by models that generate text."""


class RuntimeSettings(BaseModel):
    """Settings that change no scores."""

    keep_log_probs: bool
    """Whether log-probabilities are stored, for beam search."""


class Chunk(NamedTuple):
    """A part of a clip that is one input of the model; all fields are in samples."""

    start: int
    stop: int
    left: int
    """The length of the left stride: context whose frames are discarded."""
    right: int
    """The length of the right stride."""

    def kept_frames(self, frames: int, frame_samples: int) -> slice:
        """Return which of the `frames` of the chunk remain without its strides; a frame has `frame_samples` samples.

        Rounds exactly as `rescale_stride` of transformers does.
        """
        length = self.stop - self.start
        nominal = round(length * (1 / frame_samples))
        left, right = (round(stride / length * nominal) for stride in (self.left, self.right))
        return slice(left, min(frames, nominal - right) if right else frames)


def split_into_chunks(num_samples: int, chunk: int | None, stride: int = 0) -> list[Chunk]:
    """Split a clip into chunks that start `chunk - 2 * stride` samples apart; into a single one if `chunk` is None.

    Source: `chunk_iter` in the speech recognition pipeline of transformers.
    """
    if chunk is None:
        return [Chunk(0, num_samples, 0, 0)]
    chunks: list[Chunk] = []
    for start in range(0, num_samples, chunk - 2 * stride):
        stop = min(start + chunk, num_samples)
        chunks.append(Chunk(start, stop, stride if start else 0, stride if stop < num_samples else 0))
        if stop == num_samples:
            break
    return chunks


Batch = list[tuple[int, Chunk]]
"""Chunks, each with the position of its clip in the table."""

ReadSpans = Callable[[int, Sequence[tuple[int, int]]], Iterator[Int16Samples]]
"""A function that yields the samples of spans of a clip, given its index."""


@dataclass
class ClipOutput:
    """The output of a model for a clip."""

    frames: int
    hypothesis: str
    """The greedy hypothesis, as the tokenizer decodes it."""
    loss: float
    """Infinite if no CTC alignment exists or the clip was split into chunks."""
    stored: list[tuple[int, int]]
    """The (offset, size) in bytes of the log-probabilities of each chunk in the spill file, in order."""

    def log_probs(self, spill: IO[bytes]) -> Iterator[bytes]:
        """Yield the log-probabilities of each chunk, in order, from the spill file."""
        for offset, size in self.stored:
            spill.seek(offset)
            yield spill.read(size)


class _ChunkOutput(NamedTuple):
    """The output of a model for a chunk."""

    start: int
    frames: int
    ids: NDArray[np.int64]
    loss: float
    stored: tuple[int, int]


def transcribe(
    model: PreTrainedModel,
    processor: Processor,
    clips: list[dict[str, Any]],
    shards: Sequence[Path],
    batch_seconds: float,
    device: torch.device,
) -> tuple[list[str], list[float]]:
    """Return the greedy hypothesis of each clip and its loss, which is infinite if no CTC alignment exists."""
    settings = LogProbsSettings(device=device.type, batch_seconds=batch_seconds)
    outputs = infer(model, processor, clips, shards, settings, device)
    return [output.hypothesis for output in outputs], [output.loss for output in outputs]


def infer(
    model: PreTrainedModel,
    processor: Processor,
    clips: list[dict[str, Any]],
    shards: Sequence[Path],
    settings: LogProbsSettings,
    device: torch.device,
    spill: IO[bytes] | None = None,
) -> list[ClipOutput]:
    """Return the output of the model for each clip in `shards`, in order, as `infer_clips` does.

    Whether padding changes the output is tried on short clips and printed to stderr.

    Raises:
        SpeechmillError: The strides cover a chunk entirely, a shard is corrupt, or the device runs out of memory.
    """
    model.to(device)  # type: ignore[arg-type]
    use_gpu_kernels(model, device)
    chunk_and_stride(settings, samples_per_frame(model))
    if not clips:
        return []
    equal = equal_in_batch(model, processor, device)
    if equal is not None:
        print(f"padding changes the output: the clips of a batch have the same number of {equal}", file=sys.stderr)
    reader = ClipReader(pa.Table.from_pylist(clips, CLIPS), shards)
    track = partial(progress, desc="log_probs", unit="batch")
    readers = _GPU_READERS if device.type == "cuda" else 1
    return infer_clips(model, processor, clips, reader.spans, settings, device, spill, equal, track, readers)


def infer_clips(
    model: PreTrainedModel,
    processor: Processor,
    clips: list[dict[str, Any]],
    read: ReadSpans,
    settings: LogProbsSettings,
    device: torch.device,
    spill: IO[bytes] | None,
    equal: Literal["frames", "samples"] | None,
    track: Callable[..., Iterable[Any]],
    readers: int = 1,
) -> list[ClipOutput]:
    """Return the output of the model for each clip, in order; a clip that is shorter than one frame has no frames.

    Clips, or the chunks of all clips, are batched by similar length, or by equal length if padding would change the
    output. Log-probabilities are written to the file `spill`, if given, in the order of computation, and
    `ClipOutput.stored` holds their positions, so that memory use depends neither on the number of clips nor on their
    length.

    Args:
        model: The model, on `device`.
        processor: Its processor.
        clips: The clips, with `num_samples` and the `text` that the loss is of.
        read: Returns the samples of spans of a clip, given its index.
        settings: How the model is run.
        device: The device of the model.
        spill: A file for the log-probabilities.
        equal: What the clips of a batch must have in common, as `equal_in_batch` returns it.
        track: Is called with the batches and their number as `total`, and yields them, to show the progress.
        readers: The number of threads that call `read` at the same time.

    Raises:
        SpeechmillError: The strides cover a chunk entirely, or the device runs out of memory.
    """
    frame = samples_per_frame(model)
    chunks = [(i, each) for i, clip in enumerate(clips) for each in clip_chunks(clip["num_samples"], settings, frame)]
    lengths = np.array([chunk.stop - chunk.start for _, chunk in chunks], dtype=np.int64)
    # The model rejects inputs that are shorter than the window of its first frame.
    num_frames = output_frames(model, torch.from_numpy(lengths)).numpy()
    long_enough = np.flatnonzero(num_frames > 0)
    must_be_equal = {None: np.zeros_like(lengths), "frames": num_frames, "samples": lengths}[equal]
    batches = [
        long_enough[batch]
        for batch in evaluation_batches(lengths[long_enough], must_be_equal[long_enough], settings.batch_seconds)
    ]
    parts: list[list[_ChunkOutput]] = [[] for _ in clips]
    with ExitStack() as stack:
        threads = stack.enter_context(ThreadPoolExecutor(readers))
        # Around all batches, so that weights are converted once: autocast keeps what it converts until its end.
        stack.enter_context(autocast(settings, device))
        loader = _load(clips, read, processor, [[chunks[i] for i in batch] for batch in batches], threads)
        for batch, inputs in _outside_autocast(track(_prefetch(loader), total=len(batches)), device):
            logits, losses, frames = _forward(model, inputs, device)
            best = logits.argmax(-1).cpu().numpy()
            log_probs = torch.log_softmax(logits.float(), -1).half().cpu().numpy() if spill is not None else None
            for row, (i, chunk) in enumerate(batch):
                kept = chunk.kept_frames(frames[row], frame)
                ids = best[row, kept]
                offset = size = 0
                if spill is not None and log_probs is not None:
                    offset = spill.tell()
                    size = spill.write(log_probs[row, kept].astype("<f2", copy=False).tobytes())
                complete = chunk.stop - chunk.start == clips[i]["num_samples"]
                # Repeated tokens are collapsed here to save memory; the tokenizer would do so too, across chunks.
                collapsed = ids[np.diff(ids, prepend=-1) != 0]
                loss = losses[row] if complete else math.inf
                parts[i].append(_ChunkOutput(chunk.start, len(ids), collapsed, loss, (offset, size)))
    return [_join(sorted(of_clip, key=lambda part: part.start), processor) for of_clip in parts]


def evaluation_batches(lengths: Lengths, must_be_equal: Lengths, batch_seconds: float) -> list[Indices]:
    """Return batches of at most `batch_seconds` including padding, sorted by length, the longest first.

    `must_be_equal`, shape (clips,), has the same value for all clips of a batch; it never falls as `lengths` rise.
    """
    order = np.argsort(lengths, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(must_be_equal[order])) + 1)
    return [batch for group in groups for batch in pack_batches(group, lengths, batch_seconds * SAMPLE_RATE)][::-1]


def chunk_and_stride(settings: LogProbsSettings, frame: int) -> tuple[int | None, int]:
    """Return the lengths of a chunk and of its stride in samples, rounded to frames.

    Raises:
        SpeechmillError: The strides cover a chunk entirely.
    """
    if settings.chunk_seconds is None:
        return None, 0
    stride_seconds = settings.chunk_seconds / 6 if settings.stride_seconds is None else settings.stride_seconds
    lengths = (settings.chunk_seconds, stride_seconds)
    chunk, stride = (int(round(seconds * SAMPLE_RATE / frame) * frame) for seconds in lengths)
    if chunk <= 2 * stride:
        raise SpeechmillError(
            f"chunk_seconds is {settings.chunk_seconds}, but the strides on both sides, {stride_seconds} s each, cover"
            " all of it; set stride_seconds of the evaluation set to less than half of chunk_seconds"
        )
    return chunk, stride


def clip_chunks(num_samples: int, settings: LogProbsSettings, frame: int) -> list[Chunk]:
    """Return the parts of a clip that are inputs of a model with `frame` samples per frame: one or several.

    Raises:
        SpeechmillError: The strides cover a chunk entirely.
    """
    return split_into_chunks(num_samples, *chunk_and_stride(settings, frame))


def _load(
    clips: list[dict[str, Any]], read: ReadSpans, processor: Processor, batches: list[Batch], threads: Executor
) -> Iterator[tuple[Batch, dict[str, Any]]]:
    """Yield each batch with the inputs of the model, of which `threads` read the clips."""
    collate = Collator(processor)

    def examples(i: int, spans: list[tuple[int, int]]) -> list[dict[str, Any]]:
        # The text matches the audio only if the chunk is the complete clip.
        text = clips[i]["text"] if spans == [(0, clips[i]["num_samples"])] else ""
        return [{"samples": each, "text": text, "batch": 0, "weight": 1.0} for each in read(i, spans)]

    for batch in batches:
        spans = [
            (i, [(chunk.start, chunk.stop) for _, chunk in chunks])
            for i, chunks in groupby(batch, key=lambda each: each[0])
        ]
        yield batch, collate([each for of_clip in threads.map(examples, *zip(*spans, strict=True)) for each in of_clip])


def _prefetch(items: Iterator[Any]) -> Iterator[Any]:
    """Yield `items`, loading the next one in a thread while the current one is in use."""
    with ThreadPoolExecutor(1) as thread:
        upcoming = thread.submit(next, items, None)
        while (item := upcoming.result()) is not None:
            upcoming = thread.submit(next, items, None)
            yield item


def _outside_autocast(items: Iterable[Any], device: torch.device) -> Iterator[Any]:
    """Yield `items`, which are computed without autocast, since the code of the caller may be called for them."""
    iterator = iter(items)
    while True:
        with torch.autocast(device.type, enabled=False):
            item = next(iterator, None)
        if item is None:
            return
        yield item


def autocast(settings: LogProbsSettings, device: torch.device) -> torch.autocast:
    """Return the autocast context for the precision of `settings`; a CPU computes in fp32."""
    dtype = _PRECISIONS[settings.precision]
    return torch.autocast(device.type, dtype, enabled=device.type == "cuda" and dtype is not torch.float32)


def _forward(
    model: PreTrainedModel, inputs: dict[str, Any], device: torch.device
) -> tuple[torch.Tensor, list[float], list[int]]:
    """Return the logits, shape (chunks, frames, vocabulary), and the loss and number of frames of each chunk."""
    try:
        moved = {key: to_device(inputs[key], device) for key in INPUT_KEYS if key in inputs}
        with torch.inference_mode():
            logits = forward(model, moved)
            frames = output_frames(model, inputs["num_samples"])
            losses = clip_losses(logits, frames, inputs["labels"], model.config.pad_token_id)
            return logits, losses.tolist(), frames.tolist()
    except torch.OutOfMemoryError as error:
        seconds, parts = int(inputs["num_samples"].max()) / SAMPLE_RATE, len(inputs["num_samples"])
        raise SpeechmillError(
            f"the device ran out of memory on a batch of {parts} clips of up to {seconds:.0f} s ({error}); if these"
            " clips are long, set chunk_seconds of the evaluation set, otherwise lower evaluation.batch_seconds"
        ) from error


def _join(parts: list[_ChunkOutput], processor: Processor) -> ClipOutput:
    """Return the output for a clip from those for its chunks."""
    ids = np.concatenate([part.ids for part in parts]) if parts else np.empty(0, dtype=np.int64)
    return ClipOutput(
        frames=sum(part.frames for part in parts),
        hypothesis=processor.tokenizer.decode(ids) if len(ids) else "",
        loss=parts[0].loss if len(parts) == 1 else math.inf,
        stored=[part.stored for part in parts],
    )


def write_ctc_outputs(
    path: Path,
    clips: list[dict[str, Any]],
    outputs: list[ClipOutput],
    spill: IO[bytes] | None,
    metadata: dict[str, Any],
) -> None:
    """Write `ctc_outputs.parquet`, with `metadata` as JSON values that `tables.ctc_outputs_metadata` reads.

    Raises:
        SpeechmillError: The log-probabilities of a clip exceed the size limit of Parquet.
    """
    rows = (
        {
            "id": clip["id"],
            "frames": output.frames,
            "hypothesis": output.hypothesis,
            "loss": output.loss if math.isfinite(output.loss) else None,
            "log_probs": None if spill is None else _read_log_probs(spill, output, clip["id"]),
        }
        for clip, output in zip(clips, outputs, strict=True)
    )
    _write(path, rows, metadata)


def write_generated(
    path: Path, clips: list[dict[str, Any]], hypotheses: Sequence[str], metadata: dict[str, Any]
) -> None:
    """Write `ctc_outputs.parquet` with the hypotheses of a model that generates text, which has no CTC outputs."""
    columns = zip(clips, hypotheses, strict=True)
    rows = ({"id": clip["id"], "hypothesis": hypothesis} for clip, hypothesis in columns)
    _write(path, ({"frames": None, "loss": None, "log_probs": None} | row for row in rows), metadata)


def _write(path: Path, rows: Iterator[dict[str, Any]], metadata: dict[str, Any]) -> None:
    encoded = {key: json.dumps(value, ensure_ascii=False) for key, value in metadata.items()}
    write_in_row_groups(rows, CTC_OUTPUTS.with_metadata(encoded), path, _ROW_GROUP)


def _read_log_probs(spill: IO[bytes], output: ClipOutput, name: str) -> bytes:
    if sum(size for _, size in output.stored) > _MAX_BYTES:
        raise SpeechmillError(
            f"{name} is too long: the log-probabilities of its {output.frames} frames take more than 2 GiB; remove the"
            " decoder lm from evaluation.decoders, or split the recording"
        )
    return b"".join(output.log_probs(spill))


def vocabulary(model: PreTrainedModel, processor: Processor) -> list[str]:
    """Return the tokens by id, one for each output of the model; an empty string for ids that the tokenizer lacks."""
    by_id = {i: token for token, i in processor.tokenizer.get_vocab().items()}
    return [by_id.get(i, "") for i in range(model.config.vocab_size)]


def weights_digest(folder: Path) -> str:
    """Return the sha256 of the weights of a model; of the concatenated digests if there are several files.

    The file with the adapters of a language belongs to the weights.

    Raises:
        SpeechmillError: There are no weights, or a file in the folder has changed since it was written.
    """
    files = sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    if not files:
        raise SpeechmillError(
            f"{folder} contains no weights, neither *.safetensors nor pytorch_model*.bin; if files were deleted from"
            " it, delete it and run snakemake again, otherwise choose a model with such weights"
        )
    found = check_folder(folder)
    digests = [found[file.name] for file in [*files, *folder.glob("adapter.*")]]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def main() -> None:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", required=True)
    parser.add_argument("--settings", type=LogProbsSettings.model_validate_json, required=True)
    parser.add_argument("--gpus", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--runtime-settings", type=RuntimeSettings.model_validate_json, required=True)
    parser.add_argument("--checkpoints", type=Path, nargs="*", help="the folder of the run's checkpoints, if it trains")
    parser.add_argument("--average", type=Path, nargs="*", help="the folder of the mean of several checkpoints, if any")
    parser.add_argument("--base", type=Path, nargs="*", help="the folder of the model that the run only scores, if any")
    parser.add_argument("--step", required=True, help="a number, or the name of the step in --step-record")
    parser.add_argument("--step-record", type=Path, nargs="*", help="a JSON file with the number in its key `step`")
    parser.add_argument("--clips", type=Path, required=True)
    parser.add_argument("--shards", type=Path, nargs="*", required=True)
    parser.add_argument("--counts", type=Path, required=True, help="the counts of the set's clips")
    parser.add_argument("--ctc-outputs", type=Path, required=True)
    args = parser.parse_args()
    settings: LogProbsSettings = args.settings
    torch.set_num_threads(args.threads)
    record = read_json(args.step_record[0]) if args.step_record else {"step": int(args.step)}
    step, averaged = record["step"], record.get("averaged") or list(selected_mean(record))
    (folder,) = (args.average if averaged else args.base) or [args.checkpoints[0] / f"checkpoint-{step}"]
    metadata = {"step": step, "checkpoint_sha256": weights_digest(folder), "device": None, "wall_seconds": 0.0}
    metadata |= {"averaged": averaged} if averaged else {}
    unavailable = read_json(args.counts)["unavailable"]
    metadata |= {"unavailable": unavailable, "outside_vocabulary": {}, "special_tokens": [], "frame_seconds": None}
    if unavailable is not None:
        write_ctc_outputs(args.ctc_outputs, [], [], None, metadata)
        return
    clips = read_table(args.clips).to_pylist()
    if generates_text(read_json(folder / CONFIG)):
        with acquire_devices(settings.device, f"runs.{args.run}", args.gpus) as (device,):
            started = time.monotonic()
            dtype = _PRECISIONS[settings.precision] if device.type == "cuda" else torch.float32
            generation = settings.generation or GenerationConfig()
            hypotheses = generate(
                *(folder, clips, args.shards, generation, settings.language, settings.batch_seconds, device, dtype)
            )
            metadata |= {"device": device_name(device), "wall_seconds": time.monotonic() - started}
        # Its tokens are parts of words, so that no character is known to be missing.
        write_generated(args.ctc_outputs, clips, hypotheses, metadata)
        return
    model, processor = load_checkpoint(folder)
    outside = LabelEncoder(processor).outside_vocabulary(clip["text"] for clip in clips)
    metadata["outside_vocabulary"] = dict(outside.most_common())
    metadata["special_tokens"] = written_special_tokens(processor)
    metadata["frame_seconds"] = samples_per_frame(model) / SAMPLE_RATE
    args.ctc_outputs.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        # Next to the results, because /tmp may be too small.
        keep = args.runtime_settings.keep_log_probs
        spill = stack.enter_context(tempfile.TemporaryFile(dir=args.ctc_outputs.parent)) if keep else None
        with acquire_devices(settings.device, f"runs.{args.run}", args.gpus) as (device,):
            started = time.monotonic()
            outputs = infer(model, processor, clips, args.shards, settings, device, spill)
            metadata |= {"device": device_name(device), "wall_seconds": time.monotonic() - started}
        write_ctc_outputs(args.ctc_outputs, clips, outputs, spill, metadata)


if __name__ == "__main__":
    run_command(main)
