"""log_probs: one pass of a checkpoint over a set, for all decoders: what it hears in each frame of each clip."""

import argparse
import hashlib
import json
import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from pydantic import BaseModel
from transformers import PreTrainedConfig, PreTrainedModel

from speechmill.core.command import SpeechmillError, run_command
from speechmill.core.progress import progress
from speechmill.core.tables import (
    CLIPS,
    CTC_OUTPUTS,
    SAMPLE_RATE,
    file_digest,
    read_json,
    read_table,
    write_in_row_groups,
)
from speechmill.model.batching import Indices, Lengths, pack_batches
from speechmill.model.clip_reader import ClipReader, Collator
from speechmill.model.ctc import clip_losses
from speechmill.model.devices import acquire_devices, device_name
from speechmill.model.models import (
    Processor,
    depends_on_padding,
    forward,
    frame_samples,
    load_checkpoint,
    output_frames,
)

_PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

# What a process that decodes takes at a time.
_ROW_GROUP = 64

# What Parquet can hold in one cell.
_MOST_BYTES = (1 << 31) - 1


class LogProbsSettings(BaseModel):
    """The slice of a run's section that this stage reads, and of the set's."""

    device: str
    batch_seconds: float
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """That of a GPU; a CPU computes in fp32."""
    chunk_seconds: float | None = None
    stride_seconds: float | None = None
    """A sixth of the chunk unless given, as in transformers' pipeline."""


class Chunk(NamedTuple):
    """A part of a clip that the model hears by itself, in samples."""

    start: int
    stop: int
    left: int
    """So many of its first samples are there for what they tell of the others: their frames are cut off."""
    right: int
    """So many of its last samples, likewise."""

    def kept(self, frames: int, frame: int) -> slice:
        """Which of the chunk's `frames` stay; `frame` is the number of samples from one to the next.

        As `rescale_stride` of transformers has it, to the rounding.
        """
        length = self.stop - self.start
        whole = round(length * (1 / frame))
        left, right = (round(stride / length * whole) for stride in (self.left, self.right))
        return slice(left, min(frames, whole - right) if right else frames)


def chunks_of(num_samples: int, chunk: int | None, stride: int = 0) -> list[Chunk]:
    """The chunks of a clip, each `chunk - 2 * stride` samples after the one before; one, where `chunk` is None.

    Source: `chunk_iter` in transformers' pipeline for speech recognition.
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
"""Chunks, each with the place of its clip in the table."""


@dataclass
class ClipOutput:
    """What a model makes of a clip."""

    frames: int
    hypothesis: str
    """The greedy one, as the tokenizer decodes it."""
    loss: float
    """Infinite where CTC has no path, and where the clip was cut into chunks."""
    stored: list[tuple[int, int]]
    """Where the log-probabilities lie, if they were to be kept: from which byte on, how many; part after part."""


class _Part(NamedTuple):
    """What a model makes of a chunk."""

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
    """The greedy hypothesis of each clip, as the tokenizer decodes it, and its loss, infinite where CTC has no path."""
    settings = LogProbsSettings(device=device.type, batch_seconds=batch_seconds)
    heard = infer(model, processor, clips, shards, settings, device)
    return [clip.hypothesis for clip in heard], [clip.loss for clip in heard]


def infer(
    model: PreTrainedModel,
    processor: Processor,
    clips: list[dict[str, Any]],
    shards: Sequence[Path],
    settings: LogProbsSettings,
    device: torch.device,
    log_probs: IO[bytes] | None = None,
) -> list[ClipOutput]:
    """What the model makes of each clip, in their order; of one that is too short for a frame, nothing.

    Clips, or the chunks of all clips, are batched by similar length; by equal length where padding would change the
    model's answer. The file `log_probs` gets log-probabilities in the order in which they come, as `ClipOutput.stored` says;
    so little is in memory, however many clips there are and however long one is.

    Raises SpeechmillError where chunks do not advance, or where the device's memory does not hold a batch.
    """
    model.to(device)  # type: ignore[arg-type]
    frame = samples_a_frame(model.config)
    chunk, stride = in_samples(settings, frame)
    if not clips:
        return []
    cut = [(i, each) for i, clip in enumerate(clips) for each in chunks_of(clip["num_samples"], chunk, stride)]
    lengths = np.array([each.stop - each.start for _, each in cut], dtype=np.int64)
    # Of what is shorter than the window of the first frame the model hears nothing, and would refuse it.
    audible = np.flatnonzero(output_frames(model, torch.from_numpy(lengths)).numpy() > 0)
    equal = depends_on_padding(model.config) or not getattr(processor.feature_extractor, "return_attention_mask", True)
    batches = [audible[batch] for batch in evaluation_batches(lengths[audible], settings.batch_seconds, equal)]
    read = _read(clips, shards, processor, [[cut[i] for i in batch] for batch in batches])
    parts: list[list[_Part]] = [[] for _ in clips]
    for batch, inputs in progress(_ahead(read), total=len(batches), desc="log_probs", unit="batch"):
        logits, losses, frames = _forward(model, inputs, settings, device)
        best = logits.argmax(-1).cpu().numpy()
        kept = torch.log_softmax(logits.float(), -1).half().cpu().numpy() if log_probs is not None else None
        for place, (i, each) in enumerate(batch):
            part = each.kept(frames[place], frame)
            ids = best[place, part]
            at = size = 0
            if log_probs is not None and kept is not None:
                at = log_probs.tell()
                size = log_probs.write(kept[place, part].astype("<f2", copy=False).tobytes())
            whole = each.stop - each.start == clips[i]["num_samples"]
            # Of equal neighbours one is enough: the tokenizer would make one of them, across chunks too.
            once = ids[np.diff(ids, prepend=-1) != 0]
            parts[i].append(_Part(each.start, len(ids), once, losses[place] if whole else math.inf, (at, size)))
    return [_joined(sorted(of_clip, key=lambda part: part.start), processor) for of_clip in parts]


def evaluation_batches(lengths: Lengths, batch_seconds: float, equal_lengths: bool) -> list[Indices]:
    """Batches of clips sorted by length, the longest first, each within `batch_seconds` with its padding."""
    order = np.argsort(lengths, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(lengths[order])) + 1) if equal_lengths else [order]
    return [batch for group in groups for batch in pack_batches(group, lengths, batch_seconds * SAMPLE_RATE)][::-1]


def samples_a_frame(config: PreTrainedConfig) -> int:
    """Samples from one frame of the logits to the next: some models have adapters that make fewer frames."""
    adapters = config.num_adapter_layers if getattr(config, "add_adapter", False) else 0
    return frame_samples(config) * int(config.adapter_stride**adapters if adapters else 1)


def in_samples(settings: LogProbsSettings, frame: int) -> tuple[int | None, int]:
    """The chunk and its stride, each a whole number of frames. Raises SpeechmillError where chunks do not advance."""
    if settings.chunk_seconds is None:
        return None, 0
    stride_seconds = settings.chunk_seconds / 6 if settings.stride_seconds is None else settings.stride_seconds
    lengths = (settings.chunk_seconds, stride_seconds)
    chunk, stride = (int(round(seconds * SAMPLE_RATE / frame) * frame) for seconds in lengths)
    if chunk <= 2 * stride:
        raise SpeechmillError(
            f"chunk_seconds {settings.chunk_seconds} leaves nothing between strides of {stride_seconds} s on"
            " both sides; set stride_seconds of the evaluation set to less than half of chunk_seconds"
        )
    return chunk, stride


def _read(
    clips: list[dict[str, Any]], shards: Sequence[Path], processor: Processor, batches: list[Batch]
) -> Iterator[tuple[Batch, dict[str, Any]]]:
    """Each batch with the model's inputs."""
    reader, collate = ClipReader(pa.Table.from_pylist(clips, CLIPS), shards), Collator(processor)
    for batch in batches:
        heard = []
        for i, chunks in groupby(batch, key=lambda each: each[0]):
            spans = [(chunk.start, chunk.stop) for _, chunk in chunks]
            # A text belongs to a whole clip.
            text = clips[i]["text"] if spans == [(0, clips[i]["num_samples"])] else ""
            heard += [{"samples": each, "text": text, "batch": 0, "weight": 1.0} for each in reader.spans(i, spans)]
        yield batch, collate(heard)


def _ahead(items: Iterator[Any]) -> Iterator[Any]:
    """The `items`, the next of which is made while one is in use."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = thread.submit(next, items, None)
            yield item


def autocast(settings: LogProbsSettings, device: torch.device) -> torch.autocast:
    """The context in which a forward pass has the precision of `settings`; a CPU computes in fp32."""
    dtype = _PRECISIONS[settings.precision]
    return torch.autocast(device.type, dtype, enabled=device.type == "cuda" and dtype is not torch.float32)


def _forward(
    model: PreTrainedModel, inputs: dict[str, Any], settings: LogProbsSettings, device: torch.device
) -> tuple[torch.Tensor, list[float], list[int]]:
    """A batch's logits, shape (chunks, frames, vocabulary), the loss of each chunk and the number of its frames."""
    try:
        given = {key: value.to(device) for key, value in inputs.items() if isinstance(value, torch.Tensor)}
        with torch.inference_mode():
            with autocast(settings, device):
                logits = forward(model, given)
            frames = output_frames(model, given["num_samples"])
            losses = clip_losses(logits, frames, given["labels"], model.config.pad_token_id)
            return logits, losses.tolist(), frames.tolist()
    except torch.OutOfMemoryError as error:
        seconds, parts = int(inputs["num_samples"].max()) / SAMPLE_RATE, len(inputs["num_samples"])
        raise SpeechmillError(
            f"the device's memory does not hold {parts} clips of {seconds:.0f} s ({error}); give the evaluation set"
            " chunk_seconds if that is long, else lower evaluation.batch_seconds"
        ) from error


def _joined(parts: list[_Part], processor: Processor) -> ClipOutput:
    """A clip of its parts."""
    ids = np.concatenate([part.ids for part in parts]) if parts else np.empty(0, dtype=np.int64)
    return ClipOutput(
        frames=sum(part.frames for part in parts),
        hypothesis=processor.tokenizer.decode(ids) if len(ids) else "",
        loss=parts[0].loss if len(parts) == 1 else math.inf,
        stored=[part.stored for part in parts],
    )


def write_ctc_outputs(
    path: Path, clips: list[dict[str, Any]], heard: list[ClipOutput], log_probs: IO[bytes] | None, about: dict[str, Any]
) -> None:
    """Write `ctc_outputs.parquet`, with `about` among its metadata, each value as JSON; `tables.ctc_outputs_metadata` reads it.

    Raises SpeechmillError where a clip is too long for its log-probabilities to be kept.
    """
    rows = (
        {
            "id": clip["id"],
            "frames": said.frames,
            "hypothesis": said.hypothesis,
            "loss": said.loss if math.isfinite(said.loss) else None,
            "log_probs": None if log_probs is None else _stored(log_probs, said, clip["id"]),
        }
        for clip, said in zip(clips, heard, strict=True)
    )
    metadata = {key: json.dumps(value, ensure_ascii=False) for key, value in about.items()}
    write_in_row_groups(rows, CTC_OUTPUTS.with_metadata(metadata), path, _ROW_GROUP)


def _stored(log_probs: IO[bytes], said: ClipOutput, name: str) -> bytes:
    if sum(size for _, size in said.stored) > _MOST_BYTES:
        raise SpeechmillError(
            f"{name} is too long: the log-probabilities of its {said.frames} frames take more than 2 GiB; leave the"
            " decoder lm out, or publish the recording in parts"
        )
    parts = []
    for at, size in said.stored:
        log_probs.seek(at)
        parts.append(log_probs.read(size))
    return b"".join(parts)


def vocabulary(model: PreTrainedModel, processor: Processor) -> list[str]:
    """The tokens by id, one for each output of the model; an empty one where the tokenizer has none."""
    by_id = {i: token for token, i in processor.tokenizer.get_vocab().items()}
    return [by_id.get(i, "") for i in range(model.config.vocab_size)]


def weights_digest(folder: Path) -> str:
    """sha256 of a model's weights; where several files hold them, of their digests."""
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    if not files:
        raise SpeechmillError(f"{folder} holds no weights: neither *.safetensors nor pytorch_model*.bin")
    digests = [file_digest(file) for file in files]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def main() -> None:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", required=True)
    parser.add_argument("--settings", type=LogProbsSettings.model_validate_json, required=True)
    parser.add_argument("--gpus", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--checkpoint", type=Path, help="the folder checkpoint-{step}")
    which.add_argument("--checkpoints", type=Path, help="the folder of all checkpoints, with --step-from")
    which.add_argument("--model", type=Path, help="the folder of a model that the run does not train: step 0")
    parser.add_argument("--step-from", type=Path, help="a JSON file whose key `step` says which checkpoint it is")
    parser.add_argument("--clips", type=Path, required=True)
    parser.add_argument("--shards", type=Path, nargs="*", required=True)
    parser.add_argument("--counts", type=Path, required=True, help="the counts of the set's clips")
    parser.add_argument("--keep-log-probs", action="store_true", help="a decoder needs them")
    parser.add_argument("--ctc-outputs", type=Path, required=True)
    args = parser.parse_args()
    if (args.checkpoints is None) != (args.step_from is None):
        parser.error("--checkpoints and --step-from belong together")
    settings: LogProbsSettings = args.settings
    torch.set_num_threads(args.threads)
    if args.model:
        step, folder = 0, args.model
    else:
        step = read_json(args.step_from)["step"] if args.step_from else int(args.checkpoint.name.rpartition("-")[2])
        folder = args.checkpoint or args.checkpoints / f"checkpoint-{step}"
    about = {"step": step, "checkpoint_sha256": weights_digest(folder), "device": None, "wall_seconds": 0.0}
    unavailable = read_json(args.counts)["unavailable"]
    about |= {"unavailable": unavailable, "vocabulary": [], "frame_seconds": None}
    if unavailable is not None:
        write_ctc_outputs(args.ctc_outputs, [], [], None, about)
        return
    clips = read_table(args.clips).to_pylist()
    model, processor = load_checkpoint(folder)
    about["vocabulary"] = vocabulary(model, processor)
    about["frame_seconds"] = samples_a_frame(model.config) / SAMPLE_RATE
    args.ctc_outputs.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        # On the disk of the results, where there is room for it.
        spill = stack.enter_context(tempfile.TemporaryFile(dir=args.ctc_outputs.parent)) if args.keep_log_probs else None
        with acquire_devices(settings.device, args.run, args.gpus) as (device,):
            started = time.monotonic()
            heard = infer(model, processor, clips, args.shards, settings, device, spill)
            about |= {"device": device_name(device), "wall_seconds": time.monotonic() - started}
        write_ctc_outputs(args.ctc_outputs, clips, heard, spill, about)


if __name__ == "__main__":
    run_command(main)
