"""A look at the model while it is trained: its greedy WER on clips of dev."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from speechmill.config.text import TextConfig
from speechmill.inference.log_probs import transcribe
from speechmill.model.models import Processor
from speechmill.scoring.error_rates import count, rate
from speechmill.scoring.protocols import scored_texts


class DevEvaluator:
    """The clips of dev on which a model is tried, and how it is scored: as the stage `evaluate` does it."""

    def __init__(
        self,
        clips: Sequence[dict[str, Any]],
        shards: Sequence[Path],
        processor: Processor,
        text: TextConfig,
        batch_seconds: float,
    ) -> None:
        """`clips` are rows of the table of dev, and `shards` the files that they point into."""
        self._clips, self._shards, self._processor = list(clips), list(shards), processor
        self._batch_seconds, self._text = batch_seconds, text

    def __call__(self, model: PreTrainedModel, device: torch.device) -> dict[str, Any]:
        """`dev_wer`, null without words, `dev_clips`, and `dev_empty`, the clips for which nothing was written.

        Leaves the model as it was, and the states of all that draws lots.
        """
        trained = model.training
        # A model may draw lots even where it uses none: wav2vec2 does, for layers that it might leave out.
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            hypotheses, _ = transcribe(
                model.eval(), self._processor, self._clips, self._shards, self._batch_seconds, device
            )
        model.train(trained)
        clips = [(clip["sentence"], clip["text"]) for clip in self._clips]
        references, scored = scored_texts("plain", clips, hypotheses, self._text)
        counts = count(references, scored)
        wer = rate(sum(c.errors for c in counts), sum(c.words for c in counts))
        return {
            # The log is JSON, which has no infinity.
            "dev_wer": wer if np.isfinite(wer) else None,
            "dev_clips": len(self._clips),
            "dev_empty": sum(not hypothesis for hypothesis in scored),
        }


def spread_over_lengths(clips: Sequence[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """At most so many of `clips`, from the shortest to the longest at even distances of rank."""
    order = np.argsort([clip["num_samples"] for clip in clips], kind="stable")
    places = np.unique(np.linspace(0, len(clips) - 1, min(most, len(clips))).round().astype(int))
    return [clips[i] for i in order[places]]
