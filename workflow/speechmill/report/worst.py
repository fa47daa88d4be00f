"""worst: a page with the clips of a set on which the selected checkpoint makes the most errors, with their audio."""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from pydantic import BaseModel
from transformers import PreTrainedModel

from speechmill.config.evaluation import ErrorRate
from speechmill.core.command import run_command
from speechmill.core.files import TEMPLATES, check_files, check_folder, read_json, write_text
from speechmill.core.flac import encode_flac
from speechmill.core.page import STYLE, data_url, page_environment
from speechmill.core.selection import selected_mean
from speechmill.core.tables import read_table
from speechmill.inference import log_probs
from speechmill.model.base_files import CONFIG, generates_text
from speechmill.model.clip_reader import ClipReader
from speechmill.model.models import Processor, load_checkpoint
from speechmill.model.word_times import Word, word_times
from speechmill.scoring.alignment import Pair, align_characters, align_words
from speechmill.scoring.error_rates import both_rates, rate
from speechmill.scoring.systems import System, systems

# Longer clips are shown without audio: a page with twenty clips of this duration already has about 60 MB.
_MAX_AUDIO_SECONDS = 120
# A hypothesis that is longer than its reference by more than this factor is likely to be made up.
_MUCH_LONGER = 2
# As many of these clips are named, those with the longest hypotheses.
_MAX_NAMED = 100
# CTC emits a character some frames after its sound begins.
_PLAYBACK_LEAD_SECONDS = 0.1

_TEMPLATE = TEMPLATES / "worst.html.j2"


class WorstSettings(BaseModel):
    """The settings of this stage: of the set, its dataset and the run."""

    title: str
    """The title of the set."""
    language: str
    redistribute: bool
    """Whether the terms of the corpus allow its audio to be redistributed, as a page that contains it may be."""
    units: str
    metric: ErrorRate
    """The error rate whose errors the page counts and aligns: words or characters."""
    worst_clips: int
    batch_seconds: float
    chunk_seconds: float | None = None
    stride_seconds: float = 0.0


class AlignedClip(NamedTuple):
    """The words, or characters, of a clip's reference and hypothesis with their times, and its audio as FLAC."""

    reference: list[Word]
    hypothesis: list[Word]
    flac: bytes


def select_worst(rows: Sequence[dict[str, Any]], number: int, metric: ErrorRate = "wer") -> list[dict[str, Any]]:
    """Return at most `number` rows of `hypotheses.parquet`: those with the most errors of `metric`, the worst first.

    Of clips with equally many, those with the higher rate rank first, then those with more errors of the other error
    rate. Adds `words`, `errors`, `wer` and `cer` to each row. Clips without errors are excluded.
    """
    scored = []
    for row in rows:
        words = row["hits"] + row["substitutions"] + row["deletions"]
        errors = row["substitutions"] + row["deletions"] + row["insertions"]
        cer = rate(row["character_errors"], row["characters"])
        scored.append(row | {"words": words, "errors": errors, "wer": rate(errors, words), "cer": cer})
    counts = {"wer": "errors", "cer": "character_errors"}
    order = [key for name in both_rates(metric) for key in (counts[name], name)]
    scored.sort(key=lambda row: (*(-row[key] for key in order), row["id"]))
    return [row for row in scored[:number] if row[counts[metric]]]


def much_longer_hypotheses(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows whose hypothesis has more than twice the characters of its reference, which may be empty.

    The longest hypothesis comes first. Models that generate text write such texts where there is no speech.
    """
    found = [row for row in rows if len(row["scored_hypothesis"]) > _MUCH_LONGER * len(row["scored_reference"])]
    return sorted(found, key=lambda row: (-len(row["scored_hypothesis"]), row["id"]))


def align_clips(
    rows: Sequence[dict[str, Any]], clips: pa.Table, shards: Sequence[Path], model: Path, settings: WorstSettings
) -> list[AlignedClip]:
    """Return the clip of each of `rows`, with its words aligned by the checkpoint in the folder `model`.

    Each row has `pairs`, the aligned words of reference and hypothesis; `clips` is the table of the set. The
    checkpoint is not loaded if `rows` is empty. A model that generates text aligns nothing: words then have no times.
    """
    if not rows:
        return []
    ids = pa.array([row["id"] for row in rows], pa.string())
    by_id = {clip["id"]: clip for clip in clips.filter(pc.is_in(clips["id"], ids)).to_pylist()}
    chosen = [by_id[row["id"]] for row in rows]
    reader = ClipReader(pa.Table.from_pylist(chosen), shards)
    if generates_text(read_json(model / CONFIG)):
        return [AlignedClip(*_untimed(row), encode_flac(reader.samples(i))) for i, row in enumerate(rows)]
    checkpoint = load_checkpoint(model)
    aligned = []
    for i, (row, frames) in enumerate(zip(rows, _log_probs(*checkpoint, chosen, shards, settings), strict=True)):
        reference, hypothesis = (
            word_times(words, frames, row["seconds"], *checkpoint, settings.units, separated=settings.metric == "wer")
            for words in _texts(row["pairs"])
        )
        aligned.append(AlignedClip(reference, hypothesis, encode_flac(reader.samples(i))))
    return aligned


def _untimed(row: dict[str, Any]) -> tuple[list[Word], list[Word]]:
    """Return the words of the reference and those of the hypothesis, without times."""
    reference, hypothesis = ([Word(word) for word in words] for words in _texts(row["pairs"]))
    return reference, hypothesis


def _texts(pairs: Sequence[Pair]) -> tuple[list[str], list[str]]:
    """Return the words of the reference and those of the hypothesis."""
    references, hypotheses = [word for word, _ in pairs], [word for _, word in pairs]
    return [word for word in references if word is not None], [word for word in hypotheses if word is not None]


def _log_probs(
    model: PreTrainedModel,
    processor: Processor,
    clips: list[dict[str, Any]],
    shards: Sequence[Path],
    settings: WorstSettings,
) -> list[torch.Tensor]:
    """Return the log-probabilities of each clip, shape (frames, vocabulary), computed with the chunks of scoring."""
    inference = log_probs.LogProbsSettings(
        device="cpu",
        batch_seconds=settings.batch_seconds,
        chunk_seconds=settings.chunk_seconds,
        stride_seconds=settings.stride_seconds,
    )
    with tempfile.TemporaryFile() as file:
        tensors = []
        for clip in log_probs.infer(model, processor, clips, shards, inference, torch.device("cpu"), file):
            parts = []
            for offset, size in clip.stored:
                file.seek(offset)
                parts.append(file.read(size))
            values = np.frombuffer(b"".join(parts), dtype="<f2").astype(np.float32)
            tensors.append(torch.from_numpy(values.reshape(-1, model.config.vocab_size)))
    return tensors


def prepare_clips(
    rows: list[dict[str, Any]], clips: pa.Table, shards: Sequence[Path], model: Path, settings: WorstSettings
) -> list[dict[str, Any]]:
    """Return the rows of `select_worst` with what the page shows: `columns`, and `audio` as a `data:` URL or None.

    Clips longer than `_MAX_AUDIO_SECONDS` have neither audio nor word times.
    """
    align = align_words if settings.metric == "wer" else align_characters
    alignments = align([row["scored_reference"] for row in rows], [row["scored_hypothesis"] for row in rows])
    rows = [row | {"pairs": pairs} for row, pairs in zip(rows, alignments, strict=True)]
    short = [row for row in rows if row["seconds"] <= _MAX_AUDIO_SECONDS]
    aligned_clips = align_clips(short, clips, shards, model, settings)
    aligned = {row["id"]: clip for row, clip in zip(short, aligned_clips, strict=True)}
    prepared = []
    for row in rows:
        audio = None
        if row["id"] in aligned:
            reference, hypothesis, flac = aligned[row["id"]]
            if settings.redistribute:
                audio = data_url(flac, "audio/flac")
        else:
            reference, hypothesis = _untimed(row)
        prepared.append(row | {"columns": word_columns(row["pairs"], reference, hypothesis), "audio": audio})
    return prepared


def word_columns(pairs: Sequence[Pair], reference: Sequence[Word], hypothesis: Sequence[Word]) -> list[dict[str, Any]]:
    """Return a column for each pair of aligned words: its `kind`, and the `reference` and `hypothesis` word or None."""
    reference_words, hypothesis_words = iter(reference), iter(hypothesis)
    columns = []
    for wanted, got in pairs:
        if wanted is None or got is None:
            kind = "insertion" if wanted is None else "deletion"
        else:
            kind = "hit" if wanted == got else "substitution"
        columns.append(
            {
                "kind": kind,
                "reference": None if wanted is None else next(reference_words),
                "hypothesis": None if got is None else next(hypothesis_words),
            }
        )
    return columns


def playback_start(word: Word) -> float | None:
    """Return the time in seconds from which a word is played, or None if its time is unknown."""
    return None if word.start is None else max(0.0, word.start - _PLAYBACK_LEAD_SECONDS)


def render_page(clips: list[Any], summary: dict[str, Any], settings: WorstSettings) -> str:
    """Return the HTML page for the clips of `prepare_clips`.

    Args:
        clips: The clips, the worst first.
        summary: `run`, `system`, the numbers of clips `scored` and `with_errors` of the set, and the rows of its
            `much_longer_hypotheses`.
        settings: The settings of the stage.
    """
    environment = page_environment()
    environment.filters["percent"] = lambda value: f"{100 * value:.0f}%" if np.isfinite(value) else "undefined"
    environment.filters["playback_start"] = playback_start
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        clips=clips,
        settings=settings,
        timed=_any_timed(clips),
        max_audio_seconds=_MAX_AUDIO_SECONDS,
        max_named=_MAX_NAMED,
        style=STYLE,
        **summary,
    )


def _any_timed(clips: list[Any]) -> bool:
    """Return whether a word of any clip has a time."""
    words = (column[side] for clip in clips for column in clip["columns"] for side in ("reference", "hypothesis"))
    return any(word is not None and word.start is not None for word in words)


def main() -> None:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", required=True)
    parser.add_argument("--settings", type=WorstSettings.model_validate_json, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--set", required=True, help="the evaluation set, {dataset}-{split}")
    parser.add_argument("--decoder", required=True)
    parser.add_argument("--selection", type=Path, required=True, help="selection.json, with the selected step")
    parser.add_argument(
        "--hypotheses", type=Path, nargs="+", required=True, help="of the set and decoder, at every step"
    )
    parser.add_argument("--model", type=Path, required=True, help="the folder of the selected checkpoint")
    parser.add_argument("--clips", type=Path, required=True, help="the clips of the set")
    parser.add_argument("--shards", type=Path, nargs="*", required=True, help="the shards of the clips")
    parser.add_argument("--page", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    selection = read_json(args.selection)
    check_files(args.model, selection["sha256"])
    # The record of a base; the folder of a selected checkpoint has none.
    check_folder(args.model)
    system = System(args.set, selection["step"], args.decoder, selected_mean(selection))
    rows = read_table(systems(args.hypotheses, selection)[system]).to_pylist()
    selected = select_worst(rows, args.settings.worst_clips, args.settings.metric)
    clips = prepare_clips(selected, read_table(args.clips), args.shards, args.model, args.settings)
    with_errors = len(select_worst(rows, len(rows), args.settings.metric))
    summary = {
        "run": args.run,
        "system": system,
        "scored": len(rows),
        "with_errors": with_errors,
        "much_longer": much_longer_hypotheses(rows),
    }
    write_text(render_page(clips, summary, args.settings), args.page)


if __name__ == "__main__":
    run_command(main)
