"""Evaluation during training: the greedy error rates and the loss of a checkpoint on dev clips."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from speechmill.config.text import TextConfig
from speechmill.inference.log_probs import transcribe
from speechmill.model.labels import written_special_tokens
from speechmill.model.models import Processor
from speechmill.scoring.error_rates import count, rate
from speechmill.scoring.protocols import apply_protocol


class DevEvaluator:
    """Greedy error rates and loss of a model on dev clips, scored as in the stage `evaluate`."""

    def __init__(
        self,
        clips: Sequence[dict[str, Any]],
        shards: Sequence[Path],
        processor: Processor,
        text: TextConfig,
        batch_seconds: float,
    ) -> None:
        """Prepare the evaluation of `clips`, rows of the table of dev clips, whose audio is in `shards`."""
        self._clips, self._shards, self._processor = list(clips), list(shards), processor
        self._batch_seconds, self._text = batch_seconds, text

    def __call__(self, model: PreTrainedModel, device: torch.device) -> dict[str, Any]:
        """Return `dev_wer`, `dev_cer`, `dev_loss`, `dev_clips`, and `dev_empty` (the empty hypotheses).

        An error rate is None without references, and the mean loss without a clip whose loss is finite. The mode of the
        model and all random states stay unchanged.
        """
        was_training = model.training
        # Some models draw random numbers in eval mode without using them, e.g. wav2vec2 for layerdrop.
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            hypotheses, losses = transcribe(
                model.eval(), self._processor, self._clips, self._shards, self._batch_seconds, device
            )
        model.train(was_training)
        clips = [(clip["sentence"], clip["text"]) for clip in self._clips]
        special_tokens = written_special_tokens(self._processor)
        references, scored = apply_protocol("plain", clips, hypotheses, self._text, special_tokens)
        counts = count(references, scored)
        wer = rate(sum(c.errors for c in counts), sum(c.words for c in counts))
        cer = rate(sum(c.character_errors for c in counts), sum(c.characters for c in counts))
        finite = [loss for loss in losses if np.isfinite(loss)]
        return {
            # JSON has no infinity.
            "dev_wer": wer if np.isfinite(wer) else None,
            "dev_cer": cer if np.isfinite(cer) else None,
            "dev_loss": float(np.mean(finite)) if finite else None,
            "dev_clips": len(self._clips),
            "dev_empty": sum(not hypothesis for hypothesis in scored),
        }


def spread_over_lengths(clips: Sequence[dict[str, Any]], limit: int) -> list[dict[str, Any]]:
    """Return at most `limit` of `clips`, from the shortest to the longest, evenly spaced by rank."""
    order = np.argsort([clip["num_samples"] for clip in clips], kind="stable")
    ranks = np.unique(np.linspace(0, len(clips) - 1, min(limit, len(clips))).round().astype(int))
    return [clips[i] for i in order[ranks]]
