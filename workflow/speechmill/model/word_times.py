"""The times of words in a clip, by CTC forced alignment of a text with the model's log-probabilities."""

import itertools
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
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
    spans = _align(words, log_probs, processor, model.config.pad_token_id, units, separated)
    frame_seconds = seconds / max(1, len(log_probs))
    return [
        Word(word) if span is None else Word(word, span.start * frame_seconds, span.stop * frame_seconds)
        for word, span in zip(words, spans, strict=True)
    ]


def align_hypothesis(
    hypothesis: str, log_probs: NDArray[np.float16], processor: Processor, blank: int, units: str, *, separated: bool
) -> list[tuple[str, "WordSpan | None"]]:
    """Return the words of a hypothesis as `split_words` does, each with its frames as `word_spans` finds them.

    Args:
        hypothesis: The text, decoded from `log_probs` by any decoder.
        log_probs: The log-probabilities, shape (frames, vocabulary).
        processor: The processor of the model.
        blank: The id of the CTC blank.
        units: The output units of the model, `text.units` of the configuration.
        separated: Whether the language is written with spaces between words.
    """
    words = split_words(hypothesis, separated)
    spans = _align(words, torch.from_numpy(log_probs.astype(np.float32)), processor, blank, units, separated)
    return list(zip(words, spans, strict=True))


def _align(
    words: Sequence[str], log_probs: torch.Tensor, processor: Processor, blank: int, units: str, separated: bool
) -> list["WordSpan | None"]:
    """Return the frames of each word, as `word_spans` finds them."""
    ids = token_ids(words, processor, units, log_probs.shape[-1])
    return word_spans(log_probs, ids, separator_id(processor) if separated else None, blank)


def raw_confidence(span: "WordSpan | None") -> float:
    """Return the confidence of a word before calibration; 0 for one without a span."""
    return 0.0 if span is None else span.confidence


def split_words(text: str, separated: bool) -> list[str]:
    """Return the words of a text, or, in a language that is written without spaces between words, its characters.

    A character has the combining marks that follow it. Spaces are in none of them.
    """
    if separated:
        return text.split()
    found: list[str] = []
    for character in text:
        if found and unicodedata.category(character)[0] == "M":
            found[-1] += character
        elif not character.isspace():
            found.append(character)
    return found


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
