"""score_export: score every exported model on a set, compare it with the checkpoint, and measure how long both take.

Every clip is processed alone, in the chunks in which the checkpoint was scored, by the program that is exported beside
the models. `metrics.json`:

    run, set, step, decoder         the selected checkpoint with greedy decoding; `averaged` if it is a mean of several
    clips_expected, unavailable     the clips that the corpus lists; why the set is not available, or null
    eval_set_sha256                 the digest of the clips
    device, versions                the processor, and the versions of the libraries
    timed_audio_seconds             the length of the clips on which the models are timed, each on one core
    pytorch                         bytes of the checkpoint's weights, and timed_seconds in PyTorch
    exports.{precision}             file; its bytes, with weights beside it; sha256; wall_seconds of scoring;
                                    timed_seconds; different_clips, whose hypothesis is not that of the checkpoint;
                                    comparison: the error rate `metric` minus that of the checkpoint, with the interval
                                    and the p-value of `scoring/significance.py`, or `why` there are none; and the
                                    scores as in an evaluation
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, RuntimeException
from pydantic import BaseModel

from speechmill.config.evaluation import ErrorRate, Protocol
from speechmill.config.export import ExportPrecision
from speechmill.config.text import TextConfig
from speechmill.core.command import SpeechmillError, run_command
from speechmill.core.files import check_folder, read_json, write_json
from speechmill.core.flac import Int16Samples, to_floats
from speechmill.core.progress import progress
from speechmill.core.schemas import CLIPS, EXPORT_HYPOTHESES, SAMPLE_RATE
from speechmill.core.tables import clips_digest, read_table, write_table
from speechmill.inference.evaluate import score
from speechmill.inference.export import MODELS, model_files
from speechmill.inference.log_probs import LogProbsSettings, clip_chunks
from speechmill.inference.onnx_recogniser import Recogniser
from speechmill.model.clip_reader import ClipReader
from speechmill.model.devices import device_name
from speechmill.model.labels import written_special_tokens
from speechmill.model.models import forward, load_checkpoint, model_inputs
from speechmill.scoring.error_rates import Counts
from speechmill.scoring.intervals import why_no_interval
from speechmill.scoring.significance import paired_difference
from speechmill.scoring.systems import selected_systems

# Enough audio for a steady figure, which takes a large model a few minutes.
_TIMED_SAMPLES = 60 * SAMPLE_RATE


class ScoreExportSettings(BaseModel):
    """The settings of this stage."""

    precisions: list[ExportPrecision]
    text: TextConfig
    metric: ErrorRate
    """The error rate by which exports are compared with the checkpoint."""
    chunk_seconds: float | None
    stride_seconds: float | None

    @property
    def inference(self) -> LogProbsSettings:
        """How clips are split into chunks."""
        chunks = {"chunk_seconds": self.chunk_seconds, "stride_seconds": self.stride_seconds}
        return LogProbsSettings(device="cpu", batch_seconds=0, **chunks)


def clip_log_probs(recogniser: Recogniser, samples: Int16Samples, inference: LogProbsSettings) -> NDArray[np.float32]:
    """Return the natural log-probabilities of a clip, shape (frames, vocabulary), from those of its chunks."""
    frame = round(recogniser.config["frame_seconds"] * SAMPLE_RATE)
    parts = []
    for chunk in clip_chunks(len(samples), inference, frame):
        output = recogniser.log_probs(to_floats(samples[chunk.start : chunk.stop]))
        parts.append(output[chunk.kept_frames(len(output), frame)])
    return np.concatenate(parts)


def transcribe(
    recogniser: Recogniser, clips: Sequence[str], read: Callable[[int], Int16Samples], inference: LogProbsSettings,
    threads: int = 1,
) -> Iterator[str]:  # fmt: skip
    """Yield the hypothesis of each clip.

    Args:
        recogniser: An exported model.
        clips: The names of the clips.
        read: Returns the samples of a clip by its position.
        inference: How clips are split into chunks.
        threads: The number of clips that are processed at the same time.

    Raises:
        SpeechmillError: The model cannot process a clip.
    """

    def hypothesis(i: int, samples: Int16Samples) -> str:
        try:
            return recogniser.text(clip_log_probs(recogniser, samples, inference))
        except (Fail, RuntimeException) as error:
            raise SpeechmillError(
                f"export: the exported model cannot process {clips[i]}, which has {len(samples) / SAMPLE_RATE:.0f} s"
                f" ({error}); set chunk_seconds of the evaluation set, or remove `export`"
            ) from error

    with ThreadPoolExecutor(threads) as pool:
        # Few clips at a time, since their samples wait in memory.
        for first in range(0, len(clips), 4 * threads):
            positions = range(first, min(first + 4 * threads, len(clips)))
            yield from pool.map(hypothesis, positions, [read(i) for i in positions])


def time_models(
    models: Mapping[str, Callable[[NDArray[np.float32]], Any]], clips: Sequence[Int16Samples]
) -> dict[str, float]:
    """Return the seconds that each model takes for all clips, from samples to log-probabilities.

    The models take turns, so that whatever else the machine does slows down all of them.
    """
    seconds = dict.fromkeys(models, 0.0)
    # A first call allocates memory.
    for run in models.values():
        run(to_floats(clips[0]))
    for samples in map(to_floats, clips):
        for name, run in models.items():
            started = time.perf_counter()
            run(samples)
            seconds[name] += time.perf_counter() - started
    return seconds


def timed_parts(
    clips: Sequence[Mapping[str, Any]], reader: ClipReader, inference: LogProbsSettings, config: Mapping[str, Any]
) -> list[Int16Samples]:
    """Return the first chunks of a set, about a minute of them, without those that are too short for the model."""
    frame, length = round(config["frame_seconds"] * SAMPLE_RATE), 0
    timed: list[Int16Samples] = []
    for i, clip in enumerate(clips):
        spans = [(chunk.start, chunk.stop) for chunk in clip_chunks(clip["num_samples"], inference, frame)]
        for samples in reader.spans(i, spans):
            if length >= _TIMED_SAMPLES:
                return timed
            if len(samples) >= config["min_samples"]:
                timed.append(samples)
                length += len(samples)
    return timed


def compare(
    rows: Sequence[Mapping[str, Any]], original: Sequence[Mapping[str, Any]], metric: ErrorRate
) -> dict[str, Any]:
    """Return how many hypotheses differ from the original ones, and the difference of the error rates.

    Args:
        rows: The rows of a table of hypotheses.
        original: Those of the original model, for the same clips in the same order.
        metric: The error rate.
    """

    def counts(row: Mapping[str, Any]) -> Counts:
        return Counts(*(row[name] for name in Counts._fields))

    def errors(row: Mapping[str, Any]) -> int:
        return counts(row).errors if metric == "wer" else counts(row).character_errors

    lengths = [counts(row).words if metric == "wer" else row["characters"] for row in original]
    groups = [row["speaker_id"] or row["id"] for row in original]
    found = paired_difference([errors(row) for row in original], [errors(row) for row in rows], lengths, groups)
    pairs = zip(rows, original, strict=True)
    return {
        "different_clips": sum(row["hypothesis"] != before["hypothesis"] for row, before in pairs),
        "comparison": {"metric": metric, **found._asdict(), "why": why_no_interval(lengths, groups)},
    }


def score_exports(
    folder: Path, model: Path, clips: list[dict[str, Any]], shards: Sequence[Path],
    original: Sequence[Mapping[str, Any]], settings: ScoreExportSettings, protocols: Sequence[Protocol], threads: int,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:  # fmt: skip
    """Score and time the exported models in `folder`.

    Args:
        folder: The folder of the exported models.
        model: The folder of the model that they were exported from.
        clips: The rows of the table of clips, at least one.
        shards: The shards with the clips.
        original: The rows of the table of hypotheses of that model, greedily decoded.
        settings: The settings of this stage.
        protocols: The protocols by which the set is scored.
        threads: The number of clips that are scored at the same time.

    Returns:
        The rows of the table of hypotheses, and the part of the metrics that depends on the models.

    Raises:
        SpeechmillError: A file of the exported models has changed, or a model cannot process a clip.
    """
    digests, names = check_folder(folder), [clip["id"] for clip in clips]
    recognisers = {name: Recogniser(folder / MODELS[name], threads=1) for name in settings.precisions}
    reader = ClipReader(pa.Table.from_pylist(clips, CLIPS), shards)
    checkpoint, processor = load_checkpoint(model)
    special_tokens = written_special_tokens(processor)
    rows: list[dict[str, Any]] = []
    exports: dict[str, dict[str, Any]] = {}
    for name, recogniser in recognisers.items():
        started = time.monotonic()
        transcribed = transcribe(recogniser, names, reader.samples, settings.inference, threads)
        hypotheses = list(progress(transcribed, total=len(clips), desc=name, unit="clip"))
        seconds = time.monotonic() - started
        scored, scores = score(clips, hypotheses, [None] * len(clips), settings.text, protocols, special_tokens)
        rows += [{"precision": name, **row} for row in scored]
        exports[name] = {
            "file": MODELS[name],
            "bytes": sum(file.stat().st_size for file in model_files(folder, name)),
            "sha256": digests[MODELS[name]],
            **scores,
            **compare(scored, original, settings.metric),
            "wall_seconds": seconds,
        }

    def in_torch(samples: NDArray[np.float32]) -> None:
        with torch.inference_mode():
            forward(checkpoint, model_inputs(processor, [samples])).log_softmax(-1)

    parts = timed_parts(clips, reader, settings.inference, recognisers[settings.precisions[0]].config)
    models = {"pytorch": in_torch} | {name: recogniser.log_probs for name, recogniser in recognisers.items()}
    timed = time_models(models, parts) if parts else dict.fromkeys(models)
    for precision, export in exports.items():
        export["timed_seconds"] = timed[precision]
    weights = [file for kind in ("model*.safetensors", "pytorch_model*.bin") for file in model.glob(kind)]
    return rows, {
        "timed_audio_seconds": sum(map(len, parts)) / SAMPLE_RATE,
        "pytorch": {"bytes": sum(file.stat().st_size for file in weights), "timed_seconds": timed["pytorch"]},
        "exports": exports,
    }


def main() -> None:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True)
    parser.add_argument("--set", required=True, help="the evaluation set, {dataset}-{split}")
    parser.add_argument("--settings", type=ScoreExportSettings.model_validate_json, required=True)
    parser.add_argument("--protocols", nargs="+", choices=get_args(Protocol), required=True)
    parser.add_argument("--threads", type=int, required=True, help="the number of clips at the same time")
    parser.add_argument("--export", type=Path, required=True, help="the folder of the exported models")
    parser.add_argument("--model", type=Path, required=True, help="the folder of the model that was exported")
    parser.add_argument("--selection", type=Path, required=True, help="selection.json, with the selected step")
    parser.add_argument("--original", type=Path, nargs="+", required=True, help="its hypotheses, greedily decoded")
    parser.add_argument("--clips", type=Path, required=True)
    parser.add_argument("--shards", type=Path, nargs="*", required=True)
    parser.add_argument("--counts", type=Path, required=True, help="the counts of the set's clips")
    parser.add_argument("--metrics", type=Path, required=True)
    parser.add_argument("--hypotheses", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    ((system, path),) = selected_systems(args.original, read_json(args.selection)).items()
    counts, original = read_json(args.counts), read_table(path).to_pylist()
    clips = read_table(args.clips).to_pylist() if counts["unavailable"] is None else []
    if [clip["id"] for clip in clips] != [row["id"] for row in original]:
        raise SpeechmillError(f"{path} does not match the clips in {args.clips}; delete it and run snakemake again")
    rows, metrics = (
        score_exports(
            args.export, args.model, clips, args.shards, original, args.settings, args.protocols, args.threads
        )
        if clips
        else ([], {"exports": {}})
    )
    write_table(rows, EXPORT_HYPOTHESES, args.hypotheses)
    about = {
        "run": args.run,
        **system.record(),
        "clips_expected": counts["listed"],
        "unavailable": counts["unavailable"],
        "eval_set_sha256": clips_digest(clips),
        "device": device_name(torch.device("cpu")),
        "versions": {name: version(name) for name in ("onnxruntime", "torch")},
    }
    write_json(about | metrics, args.metrics)
    for name, export in metrics["exports"].items():
        print(
            f"{name} on {args.set}: {export['different_clips']} of {len(clips)} hypotheses differ from those of the"
            " checkpoint",
            file=sys.stderr,
        )


if __name__ == "__main__":
    run_command(main)
