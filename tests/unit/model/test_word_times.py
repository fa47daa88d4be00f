from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from transformers import Wav2Vec2Processor

from speechmill.model.models import load_checkpoint
from speechmill.model.word_times import Word, WordSpan, split_words, token_ids, word_spans, word_times


def peaks(ids: Sequence[int], vocabulary: int = 5) -> torch.Tensor:
    """Return log-probabilities with a sharp peak at one of `ids` in each frame."""
    return torch.log_softmax(20.0 * torch.nn.functional.one_hot(torch.tensor(ids), vocabulary).float(), -1)


def frames_of(spans: Sequence[WordSpan | None]) -> list[tuple[int, int] | None]:
    return [span and (span.start, span.stop) for span in spans]


def test_word_spans_follow_the_peaks() -> None:
    # 0 is the blank, 1 the separator.
    frames = peaks([0, 2, 2, 0, 3, 0, 1, 0, 0, 4, 0])
    assert frames_of(word_spans(frames, [[2, 3], [4]], separator=1, blank=0)) == [(1, 5), (9, 10)]


def test_any_blank_and_no_separator() -> None:
    assert frames_of(word_spans(peaks([4, 0, 4, 1, 4]), [[0], [1]], separator=None, blank=4)) == [(1, 2), (3, 4)]


def test_word_without_tokens_has_no_span() -> None:
    spans = word_spans(peaks([0, 2, 0, 1, 3, 0]), [[], [2], [], [3], []], separator=1, blank=0)
    assert frames_of(spans) == [None, (1, 2), None, (4, 5), None]


def test_confidence_is_the_mean_over_the_frames_of_tokens() -> None:
    # Token 2 has the probabilities 0.8 and 0.6 in its frames, token 3 has 0.4 in its frame; blanks do not count.
    probabilities = torch.tensor(
        [
            [0.9, 0.02, 0.04, 0.04],
            [0.1, 0.05, 0.8, 0.05],
            [0.3, 0.05, 0.6, 0.05],
            [0.98, 0.01, 0.005, 0.005],
            [0.35, 0.2, 0.05, 0.4],
        ]
    )
    (span,) = word_spans(probabilities.log(), [[2, 3]], separator=1, blank=0)
    assert span is not None
    assert (span.start, span.stop) == (1, 5)
    assert span.confidence == pytest.approx((0.8 + 0.6 + 0.4) / 3)


@pytest.mark.parametrize("words", [[[2, 2, 3]], [[2, 3, 4, 2]], [], [[], []]])
def test_too_few_frames_give_no_spans(words: list[list[int]]) -> None:
    # A repeated letter needs a blank in between: the first case takes four frames.
    assert word_spans(peaks([2, 2, 3]), words, separator=1, blank=0) == [None] * len(words)
    assert word_spans(torch.zeros((0, 5)), words, separator=1, blank=0) == [None] * len(words)


def test_characters_outside_the_vocabulary_are_skipped(letters: Wav2Vec2Processor) -> None:
    vocab = letters.tokenizer.get_vocab()
    assert token_ids(["aqb", "ж"], letters, "characters", len(vocab)) == [[vocab["a"], vocab["b"]], []]
    assert token_ids(["ab"], letters, "characters", vocab["a"] + 1) == [[vocab["a"]]]


def test_word_times_are_in_seconds(checkpoints: Path) -> None:
    model, processor = load_checkpoint(checkpoints / "checkpoint-0")
    vocab = processor.tokenizer.get_vocab()
    frames = peaks([0, vocab["a"], 0, vocab["|"], vocab["b"], vocab["b"], 0, 0], model.config.vocab_size)
    assert word_times(["a", "q", "b"], frames, 4.0, model, processor, "characters") == [
        Word("a", 0.5, 1.0), Word("q"), Word("b", 2.0, 3.0),
    ]  # fmt: skip


def test_combining_marks_belong_to_their_character() -> None:
    assert split_words("กิน ข้าว", False) == ["กิ", "น", "ข้", "า", "ว"]
