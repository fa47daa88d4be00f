"""label_scores: score how well the audio and the sentence of each training clip agree, by the selected checkpoint.

The score of a clip is the CTC log-likelihood of its text minus that of the greedy hypothesis, divided by the number of
labels of the text: about 0 where the model would write the same, and the lower, the less the text fits the audio. The
difference cancels how difficult the audio is. With planted errors it found more of them than the loss itself, the loss
per frame, and error rates of the hypothesis; see docs/questions.md.

The model was trained on these clips, and may have learned some wrong sentences by heart: it is a weaker judge than a
model that was not.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from transformers import PreTrainedModel

from speechmill.config.text import TextConfig
from speechmill.core.command import run_command
from speechmill.core.files import check_files, read_json, write_json
from speechmill.core.schemas import LABEL_SCORES, SAMPLE_RATE
from speechmill.core.tables import read_table, write_table
from speechmill.inference.log_probs import LogProbsSettings, infer
from speechmill.model.devices import acquire_devices
from speechmill.model.labels import LabelEncoder, written_special_tokens
from speechmill.model.models import Processor, load_checkpoint
from speechmill.scoring.protocols import apply_protocol


class LabelScoresSettings(BaseModel):
    """The stage settings: how the model is run, and the text rules of the run."""

    inference: LogProbsSettings
    text: TextConfig


def label_scores(
    model: PreTrainedModel,
    processor: Processor,
    clips: list[dict[str, Any]],
    shards: Sequence[Path],
    settings: LabelScoresSettings,
    device: torch.device,
) -> list[dict[str, Any]]:
    """Return a row of `scores.parquet` for each clip, in order; `reason` says why a clip has no score."""
    outputs = infer(model, processor, clips, shards, settings.inference, device)
    # Likelihoods of the hypotheses take a second pass, because log-probabilities of all clips would fill the disk.
    special_tokens = written_special_tokens(processor)
    decoded = [
        clip | {"text": _without(special_tokens, output.hypothesis)}
        for clip, output in zip(clips, outputs, strict=True)
    ]
    decoded_outputs = infer(model, processor, decoded, shards, settings.inference, device)
    encode = LabelEncoder(processor)
    pairs = [(clip["sentence"], clip["text"]) for clip in clips]
    hypotheses = [output.hypothesis for output in outputs]
    texts = apply_protocol("plain", pairs, hypotheses, settings.text, special_tokens)
    rows = []
    for clip, output, other, own, reference, hypothesis in zip(
        clips, outputs, decoded, decoded_outputs, *texts, strict=True
    ):
        labels, hypothesis_labels = len(encode(clip["text"])), len(encode(other["text"]))
        score, reason = None, None
        if not output.frames:
            reason = "shorter than one frame of the model"
        elif not math.isfinite(output.loss):
            reason = f"{output.frames} frames are too few for the text"
        elif not math.isfinite(own.loss):
            reason = f"{output.frames} frames are too few for the hypothesis without special tokens"
        else:
            # A loss is divided by the number of labels.
            score = (own.loss * max(1, hypothesis_labels) - output.loss * max(1, labels)) / max(1, labels)
        rows.append(
            {key: clip[key] for key in ("dataset", "split", "id", "sentence")}
            | {
                "seconds": clip["num_samples"] / SAMPLE_RATE,
                "reference": reference,
                "hypothesis": hypothesis,
                "score": score,
                "reason": reason,
            }
        )
    return rows


def _without(special_tokens: Sequence[str], hypothesis: str) -> str:
    """Return a hypothesis without tokens such as `[UNK]`, which would be encoded as the characters of their names."""
    for token in special_tokens:
        hypothesis = hypothesis.replace(token, "")
    return hypothesis


def main() -> None:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", required=True)
    parser.add_argument("--settings", type=LabelScoresSettings.model_validate_json, required=True)
    parser.add_argument("--gpus", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--selection", type=Path, required=True, help="selection.json, with the digests of the model")
    parser.add_argument("--model", type=Path, required=True, help="the folder of the selected checkpoint")
    parser.add_argument("--clips", type=Path, required=True, help="the training clips")
    parser.add_argument("--shards", type=Path, nargs="+", required=True)
    parser.add_argument("--scores", type=Path, required=True)
    parser.add_argument("--counts", type=Path, required=True, help="JSON: the numbers of clips and of scored clips")
    args = parser.parse_args()
    settings: LabelScoresSettings = args.settings
    torch.set_num_threads(args.threads)
    check_files(args.model, read_json(args.selection)["sha256"])
    clips = read_table(args.clips).to_pylist()
    model, processor = load_checkpoint(args.model)
    with acquire_devices(settings.inference.device, f"runs.{args.run}", args.gpus) as (device,):
        rows = label_scores(model, processor, clips, args.shards, settings, device)
    write_table(rows, LABEL_SCORES, args.scores)
    scored = sum(row["score"] is not None for row in rows)
    write_json({"clips": len(rows), "scored": scored}, args.counts)


if __name__ == "__main__":
    run_command(main)
