"""confidence: the confidence of each word in the hypotheses of the selected checkpoint, and which of them are right.

The confidence is that of `speechmill.transcribe` before calibration. A word is right if it is aligned with the same
word of the reference; a substituted or inserted word is wrong. In a language that is written without spaces between
words, characters are words.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel
from transformers import AutoConfig

from speechmill.core.command import SpeechmillError, run_command
from speechmill.core.files import check_files, read_json
from speechmill.core.schemas import CONFIDENCE
from speechmill.core.tables import read_rows, read_table, write_table
from speechmill.model.models import load_processor
from speechmill.model.word_times import WordSpan, align_hypothesis, raw_confidence, split_words
from speechmill.scoring.alignment import align_words
from speechmill.scoring.systems import selected_systems


class ConfidenceSettings(BaseModel):
    """The stage settings."""

    units: str
    """The output units of the model."""
    separated: bool
    """Whether the language is written with spaces between words."""


Align = Callable[[str, NDArray[np.float16]], list[tuple[str, WordSpan | None]]]
"""A function that returns the words of a hypothesis with their frames, given its log-probabilities."""


def right_words(hypotheses: Sequence[dict[str, Any]], separated: bool) -> list[list[bool] | None]:
    """Return, for each clip, which words of its hypothesis are right.

    None for a clip of which the scored hypothesis has another number of words, such as one with a number in digits that
    the text rules write in words: the result of the alignment cannot be assigned to its words.

    Args:
        hypotheses: The rows of `hypotheses.parquet`.
        separated: Whether the language is written with spaces between words.
    """
    references, scored = (
        [" ".join(split_words(row[column], separated)) for row in hypotheses]
        for column in ("scored_reference", "scored_hypothesis")
    )
    right = [
        [expected == actual for expected, actual in pairs if actual is not None]
        for pairs in align_words(references, scored)
    ]
    return [
        each if len(each) == len(split_words(row["hypothesis"], separated)) else None
        for row, each in zip(hypotheses, right, strict=True)
    ]


def confidence_rows(
    ctc_outputs: Path, hypotheses: dict[str, list[dict[str, Any]]], align: Align, separated: bool
) -> Iterator[dict[str, Any]]:
    """Yield the rows of the table CONFIDENCE, clip by clip.

    Args:
        ctc_outputs: The outputs of the model for a set, with log-probabilities.
        hypotheses: By decoder, the rows of `hypotheses.parquet` of the same set.
        align: Returns the words of a hypothesis with their frames, given its log-probabilities.
        separated: Whether the language is written with spaces between words.

    Raises:
        SpeechmillError: The outputs are not those of the same clips, or lack the log-probabilities.
    """
    right = {decoder: right_words(rows, separated) for decoder, rows in hypotheses.items()}
    ids = read_table(ctc_outputs, ["id"])["id"].to_pylist()
    if any([row["id"] for row in rows] != ids for rows in hypotheses.values()):
        raise SpeechmillError(f"{ctc_outputs} does not match the clips that were scored; delete it and run snakemake"
                              " again")  # fmt: skip
    for i, output in enumerate(read_rows(ctc_outputs)):
        if output["log_probs"] is None:
            raise SpeechmillError(
                f"{ctc_outputs} has no log-probabilities for {output['id']}; delete it and run snakemake again"
            )
        log_probs = np.frombuffer(output["log_probs"], dtype="<f2")
        for decoder, rows in hypotheses.items():
            known = right[decoder][i]
            confidence = None
            if known is not None:
                # A clip that is shorter than one frame has no log-probabilities, and no words.
                frames = output["frames"]
                words = align(rows[i]["hypothesis"], log_probs.reshape(frames, -1)) if frames else []
                confidence = [raw_confidence(span) for _, span in words]
            yield {"decoder": decoder, "id": output["id"], "confidence": confidence, "right": known}


def main() -> None:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=ConfidenceSettings.model_validate_json, required=True)
    parser.add_argument("--selection", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True, help="the folder of the selected checkpoint")
    parser.add_argument("--ctc-outputs", type=Path, required=True, help="the outputs of the checkpoint for the set")
    parser.add_argument("--hypotheses", type=Path, nargs="+", required=True, help="of the set, every step and decoder")
    parser.add_argument("--confidence", type=Path, required=True, help="the table to write")
    args = parser.parse_args()
    torch.set_num_threads(1)
    selection = read_json(args.selection)
    check_files(args.model, selection["sha256"])
    selected = selected_systems(args.hypotheses, selection)
    hypotheses = {system.decoder: read_table(path).to_pylist() for system, path in selected.items()}
    align = partial(
        align_hypothesis,
        processor=load_processor(args.model),
        blank=AutoConfig.from_pretrained(args.model, trust_remote_code=False).pad_token_id,
        **args.settings.model_dump(),
    )
    rows = list(confidence_rows(args.ctc_outputs, hypotheses, align, args.settings.separated))
    write_table(rows, CONFIDENCE, args.confidence)
    left_out = sum(row["right"] is None for row in rows)
    print(f"{sum(len(row['right'] or []) for row in rows):,} words; {left_out:,} hypotheses left out")


if __name__ == "__main__":
    run_command(main)
