"""The times of words in a clip, by CTC forced alignment of a text with the model's log-probabilities."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torchaudio.functional import TokenSpan, forced_align, merge_tokens
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
    ids = token_ids(words, processor, units, log_probs.shape[-1])
    spans = word_spans(log_probs, ids, separator, model.config.pad_token_id)
    frame_seconds = seconds / max(1, len(log_probs))
    return [
        Word(word) if span is None else Word(word, span.start * frame_seconds, span.stop * frame_seconds)
        for word, span in zip(words, spans, strict=True)
    ]


def token_ids(words: Sequence[str], processor: Processor, units: str, num_outputs: int) -> list[list[int]]:
    """Return the token ids of each word, without the tokens that a model with `num_outputs` outputs cannot emit."""
    encode, unknown = LabelEncoder(processor), processor.tokenizer.unk_token_id
    return [[i for i in encode(to_units(word, units)) if i != unknown and i < num_outputs] for word in words]


class WordSpan(NamedTuple):
    """The frames of a word in the alignment, from the first of its first token to the last of its last one.

    `stop` is the frame after the last one. The confidence, from 0 to 1, is the mean probability of the word's tokens in
    the frames that are aligned with them; the blanks between them do not count.
    """

    start: int
    stop: int
    confidence: float


def word_spans(
    log_probs: torch.Tensor, words: Sequence[Sequence[int]], separator: int | None, blank: int
) -> list[WordSpan | None]:
    """Return the frames of each word, by CTC forced alignment.

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
    # The score of a token is the mean over its frames.
    spans = merge_tokens(aligned[0], scores[0].exp(), blank=blank)
    return [_word_span(spans[first:stop]) for first, stop in positions]


def _word_span(tokens: Sequence[TokenSpan]) -> WordSpan | None:
    if not tokens:
        return None
    confidence = sum(each.score * len(each) for each in tokens) / sum(map(len, tokens))
    return WordSpan(tokens[0].start, tokens[-1].end, min(1.0, confidence))
