"""transcribe: cut the speech out of recordings without text, and transcribe it with the model of a run.

A recording of at most `max_seconds` is one piece. A longer one is cut at pauses, and what is not speech is left out.
The pieces are decoded as the run decodes its evaluation sets: by beam search if it has a language model, else greedily.

The confidence of a piece is the probability that the model gives its hypothesis y, over all CTC alignments, as the
geometric mean over the tokens of y: p(y | audio) ** (1 / number of tokens) = exp(-CTC loss / number of tokens). It is
between 0 and 1, and does not fall with the length of a piece.
"""

import argparse
import hashlib
import io
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import soundfile as sf
import torch
from numpy.typing import NDArray
from pydantic import BaseModel

from speechmill.core.command import run_command
from speechmill.core.files import check_files, check_folder, corrupt_file_error, read_json, scratch_folder
from speechmill.core.flac import Int16Samples, decode_spans, encode_flac
from speechmill.core.progress import progress
from speechmill.core.schemas import SAMPLE_RATE, clip_schema
from speechmill.core.tables import read_rows, read_table, write_in_row_groups
from speechmill.inference.decoders import Weights, decode_all
from speechmill.inference.log_probs import LogProbsSettings, infer, write_ctc_outputs
from speechmill.inference.piece_table import Amount, part_of, write_pieces
from speechmill.inference.voice_activity import WINDOW, Span, speech_pieces, speech_probabilities
from speechmill.model.ctc import clip_losses
from speechmill.model.devices import acquire_devices
from speechmill.model.labels import LabelEncoder, separator_id, written_special_tokens
from speechmill.model.models import load_checkpoint
from speechmill.text.lexicon import check_lm
from speechmill.text.normaliser import compose, to_units

# A minute.
_BLOCK_SAMPLES = 1875 * WINDOW

_ROW_GROUP = 32


class TranscribeSettings(BaseModel):
    """The stage settings."""

    run: str
    min_seconds: float
    max_seconds: float
    device: str
    batch_seconds: float
    precision: Literal["fp32", "bf16", "fp16"]
    units: str
    """The output units of the run."""


def cut_recording(
    read: Callable[[Sequence[Span]], Iterator[Int16Samples]], num_samples: int, min_seconds: float, max_seconds: float
) -> list[tuple[Span, bool]]:
    """Return the parts of a recording at 16 kHz in order, each with whether it is speech; together they are all of it.

    Args:
        read: Yields the samples of spans of the recording; they are a minute long.
        num_samples: Its length.
        min_seconds: The shortest part with speech.
        max_seconds: The longest part with speech; a recording that is no longer is one part.
    """
    if num_samples <= max_seconds * SAMPLE_RATE:
        return [((0, num_samples), True)]
    starts = range(0, num_samples, _BLOCK_SAMPLES)
    blocks = [(start, min(start + _BLOCK_SAMPLES, num_samples)) for start in starts]
    probabilities = speech_probabilities(read(blocks))
    parts: list[tuple[Span, bool]] = []
    end = 0
    for piece in speech_pieces(probabilities, num_samples, min_seconds, max_seconds):
        if piece[0] > end:
            parts.append(((end, piece[0]), False))
        parts.append((piece, True))
        end = piece[1]
    return parts if end == num_samples else [*parts, ((end, num_samples), False)]


def confidence(log_probs: NDArray[np.float16], labels: Sequence[int], blank: int, separator: int | None) -> float:
    """Return the confidence of a hypothesis, as defined at the top of this module; 0 if no alignment exists.

    The separator of words counts as a blank: in silence a model emits any number of them, which a hypothesis lacks.

    Args:
        log_probs: Natural logarithms, shape (frames, vocabulary).
        labels: The token ids of the hypothesis, at least one other than the separator.
        blank: The id of the CTC blank.
        separator: The id of the token between words, if the vocabulary has one.
    """
    scores = log_probs.astype(np.float32)
    if separator is not None:
        scores[:, blank] = np.logaddexp(scores[:, blank], scores[:, separator])
        scores[:, separator] = -np.inf
    tokens = [label for label in labels if label != separator]
    logits = torch.from_numpy(scores)[None]
    (loss,) = clip_losses(logits, torch.tensor([len(log_probs)]), torch.tensor([tokens]), blank).tolist()
    return 0.0 if math.isnan(loss) else min(1.0, math.exp(-loss))


def transcribe_shard(
    shard: Path,
    rows: Path,
    model_folder: Path,
    lm_folder: Path | None,
    settings: TranscribeSettings,
    pieces: Path,
    gpus: int = 0,
    threads: int = 1,
) -> dict[str, Amount]:
    """Write the table PIECES of the recordings in a shard; return how much is `pieces`, and how much each other reason.

    Args:
        shard: The shard with the recordings.
        rows: The table of its rows, with recordings that could not be read, which have no pieces.
        model_folder: The model of the run.
        lm_folder: The language model of the run with `weights.json`, or None for greedy decoding.
        settings: The stage settings.
        pieces: The table to write.
        gpus: The GPUs that Snakemake grants.
        threads: The number of processes for beam search.

    Raises:
        SpeechmillError: The shard or a model is corrupt, or there is no device as wanted.
    """
    # Next to the results, because /tmp may be too small.
    with scratch_folder(pieces.with_name(f".{pieces.stem}")) as work:
        # Clip readers take the dataset, the split and the number of a shard from its path.
        speech = work / "pieces" / "speech" / "shard-00000.parquet"
        speech.parent.mkdir(parents=True)
        parts: list[dict[str, Any]] = []
        sizes = write_in_row_groups(_speech(shard, rows, settings, parts), clip_schema(), speech, _ROW_GROUP)
        clips = [part for part in parts if part["reason"] is None]
        places = ((group, row) for group, size in enumerate(sizes) for row in range(size))
        for clip, (group, row) in zip(clips, places, strict=True):
            clip |= {"dataset": "pieces", "split": "speech", "shard": 0, "row_group": group, "row": row, "text": ""}
        if clips:
            _transcribe(clips, speech, model_folder, lm_folder, settings, work, gpus, threads)
        return write_pieces(_with_audio(parts, speech), pieces)


def _speech(
    shard: Path, rows: Path, settings: TranscribeSettings, parts: list[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Yield the speech in the recordings of a shard as clips, and append all parts of the recordings to `parts`."""
    listed = {row["id"]: row for row in read_table(rows).to_pylist()}
    recordings = progress(read_rows(shard), desc="transcribe: cut", unit="recording")
    for recording in recordings:
        encoded, row = recording["audio"]["bytes"], listed[recording["id"]]
        try:
            read, limits = partial(decode_spans, io.BytesIO(encoded)), (settings.min_seconds, settings.max_seconds)
            cuts = cut_recording(read, recording["num_samples"], *limits)
            spans = [span for span, is_speech in cuts if is_speech]
            samples = decode_spans(io.BytesIO(encoded), spans)
            for (start, end), is_speech in cuts:
                part = part_of(row, start, end) | {
                    "num_samples": end - start,
                    "sentence": "",
                    "score": None,
                    "reason": None if is_speech else "no_speech",
                    "detail": None if is_speech else "there is no speech",
                }
                parts.append(part)
                if is_speech:
                    piece = next(samples)
                    part["audio_sha256"] = hashlib.sha256(piece.data).hexdigest()
                    yield {key: part[key] for key in ("id", "num_samples", "audio_sha256")} | {
                        "audio": {"bytes": encode_flac(piece), "path": None}
                    }
        except sf.LibsndfileError as error:
            raise corrupt_file_error(shard, f"contains damaged audio for {row['id']} ({error})") from error


def _transcribe(
    clips: list[dict[str, Any]],
    speech: Path,
    model_folder: Path,
    lm_folder: Path | None,
    settings: TranscribeSettings,
    work: Path,
    gpus: int,
    threads: int,
) -> None:
    """Set `sentence` and `score` of each clip, or the reason why it is left out."""
    model, processor = load_checkpoint(model_folder)
    inference = LogProbsSettings(**settings.model_dump(include={"device", "batch_seconds", "precision"}))
    with (
        tempfile.TemporaryFile(dir=work) as spill,
        acquire_devices(settings.device, f"runs.{settings.run}", gpus) as (device,),
    ):
        outputs = infer(model, processor, clips, [speech], inference, device, spill)
        write_ctc_outputs(ctc_outputs := work / "ctc_outputs.parquet", clips, outputs, spill, {})
    if lm_folder is None:
        hypotheses = [output.hypothesis for output in outputs]
    else:
        weights = Weights.model_validate(read_json(lm_folder / "weights.json"))
        hypotheses = decode_all(ctc_outputs, lm_folder, weights, threads)
    label_ids, special = LabelEncoder(processor), written_special_tokens(processor)
    separator = separator_id(processor)
    for clip, hypothesis, output in zip(clips, hypotheses, read_rows(ctc_outputs), strict=True):
        labels = label_ids(to_units(hypothesis, settings.units))
        named = [token for token in special if token in hypothesis]
        if not labels:
            clip |= {"reason": "empty", "detail": "the hypothesis is empty"}
        elif named:
            # The text rules of another run would read the name of the token as words.
            clip |= {"reason": "unknown", "detail": f"the hypothesis contains {named[0]}: {compose(hypothesis)}"}
        else:
            log_probs = np.frombuffer(output["log_probs"], dtype="<f2").reshape(output["frames"], -1)
            score = confidence(log_probs, labels, model.config.pad_token_id, separator)
            clip |= {"sentence": compose(hypothesis), "score": score}


def _with_audio(parts: list[dict[str, Any]], speech: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of PIECES, with the audio of those that have no reason."""
    audio = read_rows(speech)
    for part in parts:
        encoded = next(audio)["audio"]["bytes"] if "row_group" in part else None
        yield part | {"encoded": None if part["reason"] else encoded}


def main() -> None:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=TranscribeSettings.model_validate_json, required=True)
    parser.add_argument("--gpus", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--model", type=Path, required=True, help="the folder of the run's model")
    parser.add_argument("--selection", type=Path, required=True, help="selection.json of the run")
    parser.add_argument("--lm", type=Path, nargs="*", default=[], help="the files of the run's language model, if any")
    parser.add_argument("--shard", type=Path, required=True, help="the shard with the recordings")
    parser.add_argument("--rows", type=Path, required=True, help="the table of its rows")
    parser.add_argument("--pieces", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    check_files(args.model, read_json(args.selection)["sha256"])
    # The record of a base; the folder of a selected checkpoint has none.
    check_folder(args.model)
    lm_folder = args.lm[0].parent if args.lm else None
    if lm_folder is not None:
        check_lm(lm_folder)
    amounts = transcribe_shard(
        args.shard, args.rows, args.model, lm_folder, args.settings, args.pieces, args.gpus, args.threads
    )
    print(", ".join(f"{what}: {amount.seconds / 3600:.2f} h" for what, amount in amounts.items()) or "no recordings")


if __name__ == "__main__":
    run_command(main)
