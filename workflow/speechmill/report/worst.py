"""worst: a page of the clips of a set on which the selected checkpoint errs most, to read and to listen to."""

import argparse
import base64
import itertools
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from pydantic import BaseModel
from torchaudio.functional import forced_align, merge_tokens
from transformers import PreTrainedModel

from speechmill.core.command import atomic_write, run_command
from speechmill.core.flac import encode_flac
from speechmill.core.page import STYLE
from speechmill.core.tables import read_json, read_table
from speechmill.inference import log_probs
from speechmill.model.clip_reader import ClipReader
from speechmill.model.models import Processor, load_checkpoint
from speechmill.scoring.alignment import Pair, aligned_words
from speechmill.scoring.error_rates import rate
from speechmill.scoring.systems import System, systems
from speechmill.text.normaliser import to_units

# A page with the audio of twenty such clips has some 60 MB.
_LONGEST_SECONDS = 120
# CTC puts a character where it is sure of it, which is some frames after its sound begins.
_LEAD_SECONDS = 0.1

_TEMPLATE = Path(__file__).parents[2] / "templates" / "worst.html.j2"


class WorstSettings(BaseModel):
    """The slice of the configuration that this stage reads: of the set, of its dataset and of the run."""

    title: str
    """The set's, for people."""
    language: str
    redistribute: bool
    """Whether the corpus's terms allow its audio to be passed on, as a page with it inside may be."""
    units: str
    worst_clips: int
    batch_seconds: float
    chunk_seconds: float | None = None
    stride_seconds: float = 0.0


class Word(NamedTuple):
    """A word with the time at which it is said, in seconds, where that is known."""

    text: str
    start: float | None = None
    end: float | None = None

    @property
    def play_from(self) -> float | None:
        """Where to begin to listen."""
        return None if self.start is None else max(0.0, self.start - _LEAD_SECONDS)


def worst(rows: Sequence[dict[str, Any]], number: int) -> list[dict[str, Any]]:
    """The rows of `hypotheses.parquet` with the most errors, then with the highest WER, at most `number`.

    Each with its `words`, `errors`, `wer` and `cer`. A clip without errors is none of them.
    """
    found = []
    for row in rows:
        words = row["hits"] + row["substitutions"] + row["deletions"]
        errors = row["substitutions"] + row["deletions"] + row["insertions"]
        cer = rate(row["character_errors"], row["characters"])
        found.append(row | {"words": words, "errors": errors, "wer": rate(errors, words), "cer": cer})
    found.sort(key=lambda row: (-row["errors"], -row["wer"], row["id"]))
    return [row for row in found[:number] if row["errors"]]


def word_spans(
    frames: torch.Tensor, words: Sequence[Sequence[int]], space: int | None, blank: int
) -> list[tuple[int, int] | None]:
    """The first frame of each word and the one after its last, by CTC forced alignment.

    `frames` has the shape (frames, vocabulary); a word is given by its tokens, and `space` is the token between
    words. A word without tokens has no span, and none has one where there are too few frames for all.
    """
    tokens: list[int] = []
    places: list[tuple[int, int]] = []
    for word in words:
        if word and tokens and space is not None:
            tokens.append(space)
        places.append((len(tokens), len(tokens) + len(word)))
        tokens += word
    repeats = sum(one == other for one, other in itertools.pairwise(tokens))
    if not tokens or len(frames) < len(tokens) + repeats:
        return [None] * len(words)
    aligned, scores = forced_align(frames[None], torch.tensor([tokens], dtype=torch.int32), blank=blank)
    spans = merge_tokens(aligned[0], scores[0], blank=blank)
    return [(spans[first].start, spans[last - 1].end) if last > first else None for first, last in places]


def tokens_of(word: str, processor: Processor, units: str, outputs: int) -> list[int]:
    """The ids of a word's characters, without those that the model, which has so many outputs, cannot write."""
    tokenizer = processor.tokenizer
    ids: list[int] = tokenizer(to_units(word, units)).input_ids
    return [i for i in ids if i not in (tokenizer.unk_token_id, tokenizer.pad_token_id) and i < outputs]


def timed(
    words: Sequence[str], frames: torch.Tensor, seconds: float, model: PreTrainedModel, processor: Processor, units: str
) -> list[Word]:
    """The words of a text with their times in a clip, as the model would say them.

    `frames` has the clip's log-probabilities, shape (frames, vocabulary); frames share its `seconds` evenly.
    """
    tokenizer = processor.tokenizer
    space = tokenizer.get_vocab().get(tokenizer.word_delimiter_token)
    ids = [tokens_of(word, processor, units, frames.shape[-1]) for word in words]
    spans = word_spans(frames, ids, space, model.config.pad_token_id)
    frame = seconds / max(1, len(frames))
    return [
        Word(word) if span is None else Word(word, span[0] * frame, span[1] * frame)
        for word, span in zip(words, spans, strict=True)
    ]


def columns(pairs: Sequence[Pair], reference: Sequence[Word], hypothesis: Sequence[Word]) -> list[dict[str, Any]]:
    """What stands against what, word by word: `kind`, and the `reference` and the `hypothesis`, None where none is."""
    wanted, got = iter(reference), iter(hypothesis)
    found = []
    for one, other in pairs:
        kind = "hit" if one == other else "substitution"
        if one is None or other is None:
            kind = "insertion" if one is None else "deletion"
        above, below = (None if one is None else next(wanted)), (None if other is None else next(got))
        found.append({"kind": kind, "reference": above, "hypothesis": below})
    return found


class Heard(NamedTuple):
    """A clip's words with their times, those of the reference and those of the hypothesis, and its audio."""

    reference: list[Word]
    hypothesis: list[Word]
    flac: bytes


def listen(
    rows: Sequence[dict[str, Any]], clips: pa.Table, shards: Sequence[Path], model: Path, settings: WorstSettings
) -> list[Heard]:
    """What the model in the folder `model` hears in the clips of `rows`, which have `pairs`, aligned words.

    `clips` is the table of the set. Nothing is loaded where there is nothing to hear.
    """
    if not rows:
        return []
    ids = pa.array([row["id"] for row in rows], pa.string())
    stored = {clip["id"]: clip for clip in clips.filter(pc.is_in(clips["id"], ids)).to_pylist()}
    table = [stored[row["id"]] for row in rows]
    loaded = load_checkpoint(model)
    reader = ClipReader(pa.Table.from_pylist(table), shards)
    found = []
    for i, (row, frames) in enumerate(zip(rows, _log_probs(*loaded, table, shards, settings), strict=True)):
        reference, hypothesis = (
            timed(words, frames, row["seconds"], *loaded, settings.units) for words in _sides(row["pairs"])
        )
        found.append(Heard(reference, hypothesis, encode_flac(reader.samples(i))))
    return found


def _sides(pairs: Sequence[Pair]) -> tuple[list[str], list[str]]:
    return [one for one, _ in pairs if one is not None], [other for _, other in pairs if other is not None]


def _log_probs(
    model: PreTrainedModel,
    processor: Processor,
    clips: list[dict[str, Any]],
    shards: Sequence[Path],
    settings: WorstSettings,
) -> list[torch.Tensor]:
    """The log-probabilities of each clip, shape (frames, vocabulary)."""
    as_scored = log_probs.LogProbsSettings(
        device="cpu",
        batch_seconds=settings.batch_seconds,
        chunk_seconds=settings.chunk_seconds,
        stride_seconds=settings.stride_seconds,
    )
    with tempfile.TemporaryFile() as file:
        found = []
        for clip in log_probs.infer(model, processor, clips, shards, as_scored, torch.device("cpu"), file):
            parts = []
            for at, size in clip.stored:
                file.seek(at)
                parts.append(file.read(size))
            values = np.frombuffer(b"".join(parts), dtype="<f2").astype(np.float32)
            found.append(torch.from_numpy(values.reshape(-1, model.config.vocab_size)))
    return found


def shown(
    rows: list[dict[str, Any]], clips: pa.Table, shards: Sequence[Path], model: Path, settings: WorstSettings
) -> list[dict[str, Any]]:
    """The rows that `worst` gives with what the page shows of them: `columns`, and the `audio` as an address, or None.

    A clip that is very long is shown without its audio and the times of its words.
    """
    alignments = aligned_words([row["scored_reference"] for row in rows], [row["scored_hypothesis"] for row in rows])
    rows = [row | {"pairs": pairs} for row, pairs in zip(rows, alignments, strict=True)]
    short = [row for row in rows if row["seconds"] <= _LONGEST_SECONDS]
    heard = {row["id"]: each for row, each in zip(short, listen(short, clips, shards, model, settings), strict=True)}
    found = []
    for row in rows:
        reference, hypothesis = ([Word(word) for word in words] for words in _sides(row["pairs"]))
        said = heard.get(row["id"], Heard(reference, hypothesis, b""))
        audio = None
        if said.flac and settings.redistribute:
            audio = f"data:audio/flac;base64,{base64.b64encode(said.flac).decode()}"
        found.append(row | {"columns": columns(row["pairs"], said.reference, said.hypothesis), "audio": audio})
    return found


def page(clips: list[Any], about: dict[str, Any], settings: WorstSettings) -> str:
    """The page of the clips that `shown` gives; `about` has the `run`, the `system` and the counts of the whole set."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["percent"] = lambda value: f"{100 * value:.0f} %" if np.isfinite(value) else "no words"
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        clips=clips, settings=settings, longest=_LONGEST_SECONDS, style=STYLE, **about
    )


def main() -> None:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", required=True)
    parser.add_argument("--settings", type=WorstSettings.model_validate_json, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--set", required=True, help="the evaluation set, {dataset}-{split}")
    parser.add_argument("--decoder", required=True)
    parser.add_argument("--selection", type=Path, required=True, help="which checkpoint is selected")
    parser.add_argument("--hypotheses", type=Path, nargs="+", required=True, help="of the set and decoder, every step")
    parser.add_argument("--model", type=Path, required=True, help="the folder of the selected checkpoint")
    parser.add_argument("--clips", type=Path, required=True)
    parser.add_argument("--shards", type=Path, nargs="*", required=True)
    parser.add_argument("--page", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    system = System(args.set, read_json(args.selection)["step"], args.decoder)
    rows = read_table(systems(args.hypotheses, system.step)[system]).to_pylist()
    found = worst(rows, args.settings.worst_clips)
    clips = shown(found, read_table(args.clips), args.shards, args.model, args.settings)
    wrong = sum(row["substitutions"] + row["deletions"] + row["insertions"] > 0 for row in rows)
    about = {"run": args.run, "system": system, "scored": len(rows), "wrong": wrong}
    with atomic_write(args.page) as beside:
        beside.write_text(page(clips, about, args.settings), encoding="utf-8")


if __name__ == "__main__":
    run_command(main)
