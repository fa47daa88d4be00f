"""evaluate: decode the CTC outputs of a set with one decoder and score every clip."""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
from pydantic import BaseModel

from speechmill.config.evaluation import Decoder, Protocol
from speechmill.config.text import TextConfig
from speechmill.core.command import SpeechmillError, run_command
from speechmill.core.files import read_json, write_json
from speechmill.core.schemas import HYPOTHESES, SAMPLE_RATE
from speechmill.core.tables import clips_digest, ctc_outputs_metadata, read_table, write_table
from speechmill.scoring.error_rates import Counts, count, rate
from speechmill.scoring.intervals import confidence_interval, why_no_interval
from speechmill.scoring.protocols import apply_protocol
from speechmill.text.lexicon import check_lm
from speechmill.text.normaliser import compose


class EvaluateSettings(BaseModel):
    """The stage settings."""

    text: TextConfig


def score(
    clips: list[dict[str, Any]],
    hypotheses: Sequence[str],
    losses: Sequence[float | None],
    text: TextConfig,
    protocols: Sequence[Protocol] = ("plain",),
    special_tokens: Sequence[str] = (),
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the rows of `hypotheses.parquet` and the scores of the set for `metrics.json`.

    The rows and the top-level scores follow the first of the `protocols`; the key `protocols` holds the scores under
    each. Error rates are corpus-level: the errors of all clips divided by the words of all references. The mean loss
    leaves out clips whose loss is None or not finite. `special_tokens` are those that hypotheses can contain by name.
    """
    texts = [(clip["sentence"], clip["text"]) for clip in clips]
    groups = [clip["speaker_id"] or clip["id"] for clip in clips]
    scored = {protocol: apply_protocol(protocol, texts, hypotheses, text, special_tokens) for protocol in protocols}
    counts = {protocol: count(*pairs) for protocol, pairs in scored.items()}
    by_protocol = {protocol: corpus_scores(counts[protocol], groups) for protocol in protocols}
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
            **clip_counts._asdict(),
        }
        for clip, hypothesis, reference, scored_hypothesis, loss, clip_counts in zip(
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


def corpus_scores(counts: list[Counts], groups: list[str]) -> dict[str, Any]:
    """Return the error rates of a set with their confidence intervals, and the sums of its errors.

    `groups` holds the speaker of each clip, or the clip itself if its speaker is unknown. Rates are None for a set
    without clips, which is one that was unavailable. The ends of an interval are None if there is none, and
    `no_interval` then gives the reason.
    """
    words, characters = [c.words for c in counts], [c.characters for c in counts]
    rates: dict[str, Any] = {}
    for name, errors, lengths in (
        ("wer", [c.errors for c in counts], words),
        ("cer", [c.character_errors for c in counts], characters),
    ):
        rates[name] = _rate(sum(errors), sum(lengths)) if counts else None
        rates[f"{name}_ci95"] = list(confidence_interval(errors, lengths, groups) or (None, None))
    return {
        **rates,
        "no_interval": why_no_interval(words, groups),
        "substitutions": sum(c.substitutions for c in counts),
        "deletions": sum(c.deletions for c in counts),
        "insertions": sum(c.insertions for c in counts),
        "reference_words": sum(words),
    }


def _rate(errors: int, length: int) -> float | None:
    # JSON has no infinity, which is the rate where there are errors but the references have no words.
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
    parser.add_argument("--ctc-outputs", type=Path, required=True, help="the CTC outputs of the checkpoint on the set")
    parser.add_argument("--clips", type=Path, required=True)
    parser.add_argument("--counts", type=Path, required=True, help="the counts of the set's clips")
    parser.add_argument("--decoder", choices=get_args(Decoder), required=True)
    parser.add_argument("--lm", type=Path, nargs="*", default=[], help="the files of the language model, for lm")
    parser.add_argument("--metrics", type=Path, required=True)
    parser.add_argument("--hypotheses", type=Path, required=True)
    args = parser.parse_args()
    if (args.decoder == "lm") != bool(args.lm):
        parser.error("--decoder lm requires --lm, and --lm requires it")
    clips = read_table(args.clips).to_pylist()
    counts = read_json(args.counts)
    if counts["unavailable"] is not None:
        clips = []
    outputs = read_table(args.ctc_outputs, ["id", "hypothesis", "loss"]).to_pydict()
    if outputs["id"] != [clip["id"] for clip in clips]:
        raise SpeechmillError(
            f"{args.ctc_outputs} does not match the clips in {args.clips}; delete it and run snakemake again"
        )
    metadata = ctc_outputs_metadata(args.ctc_outputs)
    hypotheses, decoding_seconds = outputs["hypothesis"], 0.0
    if args.decoder == "lm" and clips:
        # Imports torch, which greedy decoding does not need.
        from speechmill.inference.decoders import Weights, decode_all

        started = time.monotonic()
        folder = args.lm[0].parent
        check_lm(folder)
        weights = Weights.model_validate(read_json(folder / "weights.json"))
        hypotheses = decode_all(args.ctc_outputs, folder, weights, args.threads)
        decoding_seconds = time.monotonic() - started
    rows, scores = score(
        clips, hypotheses, outputs["loss"], args.settings.text, args.protocols, metadata["special_tokens"]
    )
    write_table(rows, HYPOTHESES, args.hypotheses)
    write_json(
        {
            "run": args.run,
            "step": metadata["step"],
            **({"averaged": metadata["averaged"]} if "averaged" in metadata else {}),
            "set": args.set,
            "decoder": args.decoder,
            **scores,
            "clips_expected": counts["listed"],
            "unavailable": counts["unavailable"],
            "characters_outside_vocabulary": metadata["outside_vocabulary"],
            # All decoders of a set share one forward pass, which includes greedy decoding.
            "wall_seconds": metadata["wall_seconds"] + decoding_seconds,
            "forward_seconds": metadata["wall_seconds"],
            "decoding_seconds": decoding_seconds,
            "device": metadata["device"],
            "checkpoint_sha256": metadata["checkpoint_sha256"],
            "eval_set_sha256": clips_digest(clips),
        },
        args.metrics,
    )


if __name__ == "__main__":
    run_command(main)
