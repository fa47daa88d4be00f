"""The times of words in a clip, by CTC forced alignment of a text with the model's log-probabilities."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torchaudio.functional import forced_align, merge_tokens
from transformers import PreTrainedModel

from speechmill.model.labels import LabelEncoder, separator_id
from speechmill.model.models import Processor
from speechmill.text.normaliser import to_units


class Word(NamedTuple):
    """A word with its start and end in seconds; both are None if the word cannot be aligned."""

    text: str
    start: float | None = None
    end: float | None = None


def word_times(
    words: Sequence[str],
    log_probs: torch.Tensor,
    seconds: float,
    model: PreTrainedModel,
    processor: Processor,
    units: str,
    *,
    separated: bool = True,
) -> list[Word]:
    """Return the words of a text with their times in a clip, as the model aligns them.

    Args:
        words: The words of the text, in order.
        log_probs: The log-probabilities of the clip, shape (frames, vocabulary).
        seconds: The duration of the clip, which its frames divide evenly.
        model: The model that computed `log_probs`.
        processor: The processor of the model.
        units: The output units of the model, `text.units` of the configuration.
        separated: Whether the model separates the words; otherwise they are the characters of the text, with its
            spaces.
    """
    separator = separator_id(processor) if separated else None
    ids = [token_ids(word, processor, units, log_probs.shape[-1]) for word in words]
    spans = word_spans(log_probs, ids, separator, model.config.pad_token_id)
    frame_seconds = seconds / max(1, len(log_probs))
    return [
        Word(word) if span is None else Word(word, span[0] * frame_seconds, span[1] * frame_seconds)
        for word, span in zip(words, spans, strict=True)
    ]


def token_ids(word: str, processor: Processor, units: str, num_outputs: int) -> list[int]:
    """Return the token ids of a word, without the tokens that a model with `num_outputs` outputs cannot emit."""
    ids = LabelEncoder(processor)(to_units(word, units))
    return [i for i in ids if i != processor.tokenizer.unk_token_id and i < num_outputs]


def word_spans(
    log_probs: torch.Tensor, words: Sequence[Sequence[int]], separator: int | None, blank: int
) -> list[tuple[int, int] | None]:
    """Return the first frame of each word and the frame after its last one, by CTC forced alignment.

    Args:
        log_probs: The log-probabilities of the clip, shape (frames, vocabulary).
        words: The token ids of each word.
        separator: The id of the token between words, if the vocabulary has one.
        blank: The id of the CTC blank.

    Returns:
        A span for each word: None for a word without tokens, and for all words if there are too few frames for them.
    """
    tokens: list[int] = []
    positions: list[tuple[int, int]] = []
    for word in words:
        if word and tokens and separator is not None:
            tokens.append(separator)
        positions.append((len(tokens), len(tokens) + len(word)))
        tokens += word
    # CTC needs a frame with a blank between two equal tokens.
    repeats = sum(first == second for first, second in itertools.pairwise(tokens))
    if not tokens or len(log_probs) < len(tokens) + repeats:
        return [None] * len(words)
    aligned, scores = forced_align(log_probs[None], torch.tensor([tokens], dtype=torch.int32), blank=blank)
    spans = merge_tokens(aligned[0], scores[0], blank=blank)
    return [(spans[first].start, spans[stop - 1].end) if stop > first else None for first, stop in positions]
