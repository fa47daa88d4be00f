"""Hypotheses of speech recognisers that generate text, such as Whisper, by the pipeline of transformers.

They have no CTC outputs: no loss, no frames, and nothing that beam search with a language model could read.
"""

import inspect
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from transformers import Pipeline

from speechmill.config.evaluation import GenerationConfig
from speechmill.core.command import SpeechmillError
from speechmill.core.flac import to_floats
from speechmill.core.progress import progress
from speechmill.core.schemas import CLIPS, SAMPLE_RATE
from speechmill.model.batching import Indices, Lengths, pack_batches
from speechmill.model.clip_reader import ClipReader
from speechmill.model.models import load_recogniser


def generate(
    folder: Path,
    clips: list[dict[str, Any]],
    shards: Sequence[Path],
    settings: GenerationConfig,
    language: str,
    batch_seconds: float,
    device: torch.device,
    dtype: torch.dtype,
) -> list[str]:
    """Return the hypothesis of each clip, in order, as the pipeline of transformers returns it.

    Whisper pads every clip to 30 seconds, and transcribes longer ones window by window, from the timestamps that it
    predicts. Other models pad to the longest clip of a batch, which can change their output, so that the clips of a
    batch have the same length.

    Args:
        folder: The folder of the model.
        clips: The rows of the table of clips.
        shards: The shards that contain them.
        settings: The language, the task and the number of beams.
        language: The language of the run, for a model that takes one, unless `settings` has another.
        batch_seconds: The largest sum of the durations in a batch, with padding.
        device: The device of the model.
        dtype: The precision of the model.

    Raises:
        SpeechmillError: The model lacks the language or the task, or takes none; its weights or a shard are corrupt; or
            the device runs out of memory.
    """
    recogniser = load_recogniser(folder, device, dtype)
    # No attribute in the feature extractors of other models.
    window = getattr(recogniser.feature_extractor, "n_samples", 0) if _is_whisper(recogniser) else 0
    options = _generate_options(recogniser, settings, language)
    padded = np.maximum(np.array([clip["num_samples"] for clip in clips], dtype=np.int64), window)
    reader = ClipReader(pa.Table.from_pylist(clips, CLIPS), shards)
    hypotheses = [""] * len(clips)
    for batch in progress(_batches(padded, batch_seconds), desc="log_probs", unit="batch"):
        inputs: list[dict[str, Any]] = [
            {"raw": to_floats(reader.samples(i)), "sampling_rate": SAMPLE_RATE} for i in batch
        ]
        # Beyond its window, Whisper continues at the last timestamp.
        timestamps = {"return_timestamps": True} if window and padded[batch[0]] > window else {}
        # The pipeline refuses batches of a tokenizer that cannot pad.
        size = len(batch) if getattr(recogniser.tokenizer, "pad_token_id", None) is not None else 1
        try:
            outputs = recogniser(inputs, batch_size=size, generate_kwargs=dict(options), **timestamps)
        except torch.OutOfMemoryError as error:
            raise SpeechmillError(
                f"the device ran out of memory on a batch of {len(batch)} clips ({error}); lower"
                " evaluation.batch_seconds or evaluation.generation.num_beams"
            ) from error
        for i, output in zip(batch, outputs, strict=True):
            hypotheses[i] = output["text"]
    return hypotheses


def _is_whisper(recogniser: Pipeline) -> bool:
    return bool(recogniser.model.config.model_type == "whisper")


def _batches(padded: Lengths, batch_seconds: float) -> list[Indices]:
    """Return batches of clips with equal lengths including padding, the longest first."""

    def of_each_length() -> Iterator[Indices]:
        for length in np.unique(padded)[::-1]:
            yield from pack_batches(np.flatnonzero(padded == length), padded, batch_seconds * SAMPLE_RATE)

    return list(of_each_length())


def _generate_options(recogniser: Pipeline, settings: GenerationConfig, language: str) -> dict[str, Any]:
    """Return the arguments of `generate`: the language and the task only for a model that takes them."""
    beams = {} if settings.num_beams is None else {"num_beams": settings.num_beams}
    defaults = recogniser.model.generation_config
    architecture: Any = type(recogniser.model)
    takes_language = "language" in inspect.signature(architecture.generate).parameters
    known = {"language": getattr(defaults, "lang_to_id", None), "task": getattr(defaults, "task_to_id", None)}
    # A Whisper for English alone takes no language, and neither do most models other than Whisper.
    if not takes_language or not getattr(defaults, "is_multilingual", True) or not known["language"]:
        given = [key for key in known if getattr(settings, key) is not None]
        if given:
            raise SpeechmillError(
                f"evaluation.generation.{given[0]}: the model is for one language, or finds it by itself, and takes no"
                f" {given[0]}; remove the key"
            )
        return beams
    chosen = {"language": settings.language or language, "task": settings.task or "transcribe"}
    languages = sorted(token.strip("<|>") for token in known["language"])
    if chosen["language"] not in languages:
        raise SpeechmillError(
            f"evaluation.generation.language: the model has no language {chosen['language']}; it has"
            f" {', '.join(languages)}"
        )
    return chosen | beams
