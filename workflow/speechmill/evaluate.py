"""evaluate: one checkpoint on one evaluation set, every clip of it."""

import argparse
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel
from transformers import PreTrainedModel, Wav2Vec2Processor

from speechmill.batching import Lengths, fill
from speechmill.clip_reader import ClipReader, Collator
from speechmill.command import run_command
from speechmill.config.text import TextSettings
from speechmill.ctc import clip_losses
from speechmill.device import taken_device
from speechmill.models import depends_on_padding, load_checkpoint, output_frames
from speechmill.progress import progress
from speechmill.scoring import Counts, bootstrap_interval, count, rate
from speechmill.tables import (
    HYPOTHESES,
    SAMPLE_RATE,
    clips_digest,
    file_digest,
    read_json,
    read_table,
    write_json,
    write_table,
)
from speechmill.text import Normaliser, compose

_SEED = 0


class Settings(BaseModel):
    """The slice of a run's section that this stage reads."""

    device: str
    text: TextSettings
    batch_seconds: float


def transcribe(
    model: PreTrainedModel,
    processor: Wav2Vec2Processor,
    clips: list[dict[str, Any]],
    shards: list[Path],
    batch_seconds: float,
    device: torch.device,
) -> tuple[list[str], list[float]]:
    """The greedy hypothesis of each clip, as the tokenizer decodes it, and its loss, infinite where CTC has no path.

    Clips are batched by similar length; by equal length where padding would change the model's answer.
    """
    model.to(device)  # type: ignore[arg-type]
    reader, collate = ClipReader(clips, shards), Collator(processor)
    hypotheses, losses = [""] * len(clips), [float("inf")] * len(clips)
    lengths = np.array([clip["num_samples"] for clip in clips], dtype=np.int64)
    # Of a clip shorter than the window of the first frame the model hears nothing, and would refuse it.
    heard = np.flatnonzero(output_frames(model, torch.from_numpy(lengths)).numpy() > 0)
    by_length = evaluation_batches(lengths[heard], batch_seconds, equal_lengths=depends_on_padding(model.config))
    batches = [heard[batch] for batch in by_length]
    for batch in progress(batches, desc="evaluate", unit="batch"):
        inputs = {key: value.to(device) for key, value in collate([reader[int(i)] for i in batch]).items()}
        labels, num_samples = inputs.pop("labels"), inputs.pop("num_samples")
        with torch.inference_mode():
            logits = model(**inputs).logits
            frames = output_frames(model, num_samples)
            batch_losses = clip_losses(logits, frames, labels).tolist()
        best = logits.argmax(-1).cpu()
        for place, i in enumerate(batch):
            hypotheses[i] = processor.tokenizer.decode(best[place, : frames[place]])
            losses[i] = batch_losses[place]
    return hypotheses, losses


def evaluation_batches(lengths: Lengths, batch_seconds: float, equal_lengths: bool) -> list[Any]:
    """Batches of clips sorted by length, the longest first, each within `batch_seconds` with its padding."""
    order = np.argsort(lengths, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(lengths[order])) + 1) if equal_lengths else [order]
    return [batch for group in groups for batch in fill(group, lengths, batch_seconds * SAMPLE_RATE)][::-1]


def score(
    clips: list[dict[str, Any]], hypotheses: list[str], losses: list[float], text: TextSettings
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The rows of `hypotheses.parquet` and the scores of the whole set.

    The protocol `plain`: reference and hypothesis both go through the run's normalisation, and the errors of all clips
    are divided by the words of all references. Jamo are composed to syllables first.
    """
    normalise = Normaliser(text)
    references = [compose(clip["text"]) for clip in clips]
    hypotheses = [compose(hypothesis) for hypothesis in hypotheses]
    # Composed again: the rules may take syllables apart, and references are not.
    scored = [compose(normalise(hypothesis)) for hypothesis in hypotheses]
    counts = count(references, scored)
    rows = [
        {key: clip[key] for key in ("dataset", "split", "id", "speaker_id", "sentence")}
        | {
            "seconds": clip["num_samples"] / SAMPLE_RATE,
            "hypothesis": hypothesis,
            "scored_reference": reference,
            "scored_hypothesis": scored_hypothesis,
            "loss": loss,
            **vars(counted),
        }
        for clip, reference, hypothesis, scored_hypothesis, counted, loss in zip(
            clips, references, hypotheses, scored, counts, losses, strict=True
        )
    ]
    finite = [loss for loss in losses if np.isfinite(loss)]
    return rows, {
        **totals(counts, [clip["speaker_id"] or clip["id"] for clip in clips]),
        "loss": float(np.mean(finite)) if finite else None,
        "clips_without_loss": len(losses) - len(finite),
        "clips_scored": len(clips),
        "audio_seconds": sum(clip["num_samples"] for clip in clips) / SAMPLE_RATE,
    }


def totals(counts: list[Counts], groups: list[str]) -> dict[str, Any]:
    """Error rates over a whole set, with the interval of the WER over `groups`, a speaker's name for each clip.

    Null for a set without clips, which is one that could not be had.
    """
    words = [c.words for c in counts]
    return {
        "wer": _rate(sum(c.errors for c in counts), sum(words)) if counts else None,
        "cer": _rate(sum(c.character_errors for c in counts), sum(c.characters for c in counts)) if counts else None,
        "wer_ci95": list(bootstrap_interval([c.errors for c in counts], words, groups, _SEED))
        if counts
        else [None] * 2,
        "substitutions": sum(c.substitutions for c in counts),
        "deletions": sum(c.deletions for c in counts),
        "insertions": sum(c.insertions for c in counts),
        "reference_words": sum(words),
    }


def _rate(errors: int, length: int) -> float | None:
    # JSON has no infinity, which is the error rate of hypotheses where the references have no words at all.
    value = rate(errors, length)
    return value if np.isfinite(value) else None


def main() -> None:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", required=True)
    parser.add_argument("--settings", type=Settings.model_validate_json, required=True)
    parser.add_argument("--gpus", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--step", type=int, required=True)
    parser.add_argument("--set", required=True, help="the evaluation set, {dataset}-{split}")
    parser.add_argument("--checkpoints", type=Path, required=True)
    parser.add_argument("--clips", type=Path, required=True)
    parser.add_argument("--shards", type=Path, nargs="+", required=True)
    parser.add_argument("--counts", type=Path, required=True, help="the counts of the set's clips")
    parser.add_argument("--metrics", type=Path, required=True)
    parser.add_argument("--hypotheses", type=Path, required=True)
    args = parser.parse_args()
    settings: Settings = args.settings
    torch.set_num_threads(args.threads)
    clips = read_table(args.clips).to_pylist()
    counts = read_json(args.counts)
    checkpoint = args.checkpoints / f"checkpoint-{args.step}"
    started = time.monotonic()
    outside: Counter[str] = Counter()
    if counts["unavailable"] is None:
        model, processor = load_checkpoint(checkpoint)
        vocab = processor.tokenizer.get_vocab()
        outside.update(c for clip in clips for c in clip["text"] if c != " " and c not in vocab)
        with taken_device(settings.device, args.run, args.gpus) as device:
            started = time.monotonic()
            hypotheses, losses = transcribe(model, processor, clips, args.shards, settings.batch_seconds, device)
    else:
        hypotheses, losses, device = [], [], None
    wall_seconds = time.monotonic() - started
    rows, scores = score(clips, hypotheses, losses, settings.text)
    write_table(rows, HYPOTHESES, args.hypotheses)
    write_json(
        {
            "run": args.run,
            "step": args.step,
            "set": args.set,
            "decoder": "greedy",
            "protocol": "plain",
            **scores,
            "clips_expected": counts["published"],
            "unavailable": counts["unavailable"],
            "characters_outside_vocabulary": dict(outside.most_common()),
            "wall_seconds": wall_seconds,
            "device": None if device is None else str(device),
            "checkpoint_sha256": file_digest(checkpoint / "model.safetensors"),
            "eval_set_sha256": clips_digest(clips),
        },
        args.metrics,
    )


if __name__ == "__main__":
    run_command(main)
