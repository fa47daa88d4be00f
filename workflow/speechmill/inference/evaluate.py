"""evaluate: what a model heard in a set becomes text by one decoder, and every clip of the set is scored."""

import argparse
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
from pydantic import BaseModel

from speechmill.config.evaluation import Decoder, Protocol
from speechmill.config.text import TextConfig
from speechmill.core.command import SpeechmillError, run_command
from speechmill.core.tables import (
    HYPOTHESES,
    SAMPLE_RATE,
    clips_digest,
    ctc_outputs_metadata,
    read_json,
    read_table,
    write_json,
    write_table,
)
from speechmill.scoring.error_rates import Counts, bootstrap_interval, count, rate
from speechmill.scoring.protocols import scored_texts
from speechmill.text.normaliser import compose

SEED = 0
"""Of the bootstrap."""


class EvaluateSettings(BaseModel):
    """The slice of a run's section that this stage reads."""

    text: TextConfig


def score(
    clips: list[dict[str, Any]],
    hypotheses: Sequence[str],
    losses: Sequence[float | None],
    text: TextConfig,
    protocols: Sequence[Protocol] = ("plain",),
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The rows of `hypotheses.parquet` and the scores of the whole set.

    Rows and the scores at the top level are by the first of the `protocols`; the scores by each stand in `protocols`.
    The errors of all clips are divided by the words of all references. A loss that is null or not finite is none.
    """
    texts = [(clip["sentence"], clip["text"]) for clip in clips]
    groups = [clip["speaker_id"] or clip["id"] for clip in clips]
    scored = {protocol: scored_texts(protocol, texts, hypotheses, text) for protocol in protocols}
    counts = {protocol: count(*pairs) for protocol, pairs in scored.items()}
    by_protocol = {protocol: totals(counts[protocol], groups) for protocol in protocols}
    finite = [loss if loss is not None and np.isfinite(loss) else None for loss in losses]
    first = protocols[0]
    rows = [
        {key: clip[key] for key in ("dataset", "split", "id", "speaker_id", "sentence")}
        | {
            "seconds": clip["num_samples"] / SAMPLE_RATE,
            "hypothesis": compose(hypothesis),
            "scored_reference": reference,
            "scored_hypothesis": scored_hypothesis,
            "loss": loss,
            **counted._asdict(),
        }
        for clip, hypothesis, reference, scored_hypothesis, loss, counted in zip(
            clips, hypotheses, *scored[first], finite, counts[first], strict=True
        )
    ]
    known = [loss for loss in finite if loss is not None]
    return rows, {
        "protocol": first,
        **by_protocol[first],
        "protocols": by_protocol,
        "loss": float(np.mean(known)) if known else None,
        "clips_without_loss": len(finite) - len(known),
        "clips_scored": len(clips),
        "audio_seconds": sum(clip["num_samples"] for clip in clips) / SAMPLE_RATE,
    }


def totals(counts: list[Counts], groups: list[str]) -> dict[str, Any]:
    """Error rates over a whole set, with their intervals over `groups`, a speaker's name for each clip.

    Null for a set without clips, which is one that could not be had.
    """
    words, characters = [c.words for c in counts], [c.characters for c in counts]
    rates: dict[str, Any] = {}
    for name, errors, lengths in (
        ("wer", [c.errors for c in counts], words),
        ("cer", [c.character_errors for c in counts], characters),
    ):
        rates[name] = _rate(sum(errors), sum(lengths)) if counts else None
        rates[f"{name}_ci95"] = list(bootstrap_interval(errors, lengths, groups, SEED)) if counts else [None] * 2
    return {
        **rates,
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
    parser.add_argument("--settings", type=EvaluateSettings.model_validate_json, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--set", required=True, help="the evaluation set, {dataset}-{split}")
    parser.add_argument("--protocols", nargs="+", choices=get_args(Protocol), default=["plain"])
    parser.add_argument("--ctc-outputs", type=Path, required=True, help="what the checkpoint heard in the set")
    parser.add_argument("--clips", type=Path, required=True)
    parser.add_argument("--counts", type=Path, required=True, help="the counts of the set's clips")
    parser.add_argument("--decoder", choices=get_args(Decoder), required=True)
    parser.add_argument("--lm", type=Path, help="the folder of the language model; decoder lm only")
    parser.add_argument("--weights", type=Path, help="how it is weighed; decoder lm only")
    parser.add_argument("--metrics", type=Path, required=True)
    parser.add_argument("--hypotheses", type=Path, required=True)
    args = parser.parse_args()
    if (args.decoder == "lm") != (args.lm is not None) or (args.lm is None) != (args.weights is None):
        parser.error("--lm and --weights belong to --decoder lm")
    clips = read_table(args.clips).to_pylist()
    counts = read_json(args.counts)
    if counts["unavailable"] is not None:
        clips = []
    heard = read_table(args.ctc_outputs, ["id", "hypothesis", "loss"]).to_pydict()
    if heard["id"] != [clip["id"] for clip in clips]:
        raise SpeechmillError(f"{args.ctc_outputs} is not of the clips in {args.clips}; delete it and run snakemake again")
    about = ctc_outputs_metadata(args.ctc_outputs)
    started = time.monotonic()
    hypotheses = heard["hypothesis"]
    if args.decoder == "lm" and clips:
        # It brings torch, which greedy decoding has no need of.
        from speechmill.inference.decoders import Weights, decode_all

        weights = Weights.model_validate(read_json(args.weights))
        hypotheses = decode_all(args.ctc_outputs, args.lm, weights, args.threads)
    decoding_seconds = time.monotonic() - started
    rows, scores = score(clips, hypotheses, heard["loss"], args.settings.text, args.protocols)
    known = set(about["vocabulary"])
    outside = Counter(c for clip in clips for c in clip["text"] if c != " " and c not in known)
    write_table(rows, HYPOTHESES, args.hypotheses)
    write_json(
        {
            "run": args.run,
            "step": about["step"],
            "set": args.set,
            "decoder": args.decoder,
            **scores,
            "clips_expected": counts["listed"],
            "unavailable": counts["unavailable"],
            "characters_outside_vocabulary": dict(outside.most_common()),
            "wall_seconds": about["wall_seconds"] + decoding_seconds,
            "device": about["device"],
            "checkpoint_sha256": about["checkpoint_sha256"],
            "eval_set_sha256": clips_digest(clips),
        },
        args.metrics,
    )


if __name__ == "__main__":
    run_command(main)
