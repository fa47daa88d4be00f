"""The labels of texts, and the special tokens in what a tokenizer decodes.

Labels are looked up here, not by calling the tokenizer: Wav2Vec2CTCTokenizer takes `[PAD]` or `<s>` in a sentence for
its special tokens, of which one is the blank, and deletes the spaces around each token of several characters.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from transformers import Wav2Vec2CTCTokenizer

from speechmill.model.models import Processor
from speechmill.text.kept_vocab import writes
from speechmill.text.tokens import unit_pattern


class LabelEncoder:
    """A function from texts to their token ids in the vocabulary of a processor."""

    def __init__(self, processor: Processor) -> None:
        self._tokenizer = tokenizer = processor.tokenizer
        if isinstance(tokenizer, Wav2Vec2CTCTokenizer):
            self._ids: dict[str, int] = {unit: tokenizer.encoder[unit] for unit in _units(tokenizer)}
            if tokenizer.word_delimiter_token in tokenizer.encoder:
                self._ids[" "] = tokenizer.encoder[tokenizer.word_delimiter_token]
            self._unknown = tokenizer.encoder.get(tokenizer.unk_token)
            self._pattern = unit_pattern(self._ids)

    def __call__(self, text: str) -> list[int]:
        """Return the token ids of a text, with the id of the unknown token for a character outside the vocabulary.

        Special tokens that are spelled in the text are characters. Neither the blank nor, if the vocabulary has no
        unknown token, a character outside it has a label.
        """
        tokenizer = self._tokenizer
        if not isinstance(tokenizer, Wav2Vec2CTCTokenizer):
            ids: list[int | None] = tokenizer(text, split_special_tokens=True, add_special_tokens=False).input_ids
        else:
            ids = [self._ids.get(unit, self._unknown) for unit in self._units_of(text)]
        return [i for i in ids if i is not None and i != tokenizer.pad_token_id]

    def outside_vocabulary(self, texts: Iterable[str]) -> Counter[str]:
        """Return how often each character that the vocabulary cannot write, other than a space, occurs in `texts`."""
        tokenizer = self._tokenizer
        if not isinstance(tokenizer, Wav2Vec2CTCTokenizer):
            counts = Counter(character for text in texts for character in text if not character.isspace())
            return Counter({each: count for each, count in counts.items() if not writes(tokenizer, each)})
        units = Counter(
            unit for text in texts for unit in self._units_of(text) if unit not in self._ids and unit != " "
        )
        return Counter({unit.lower(): count for unit, count in units.items()}) if tokenizer.do_lower_case else units

    def _units_of(self, text: str) -> list[str]:
        return self._pattern.findall(text.upper() if self._tokenizer.do_lower_case else text)


def separator_id(processor: Processor) -> int | None:
    """Return the id of the token between words, or None if the vocabulary has none."""
    tokenizer = processor.tokenizer
    if not isinstance(tokenizer, Wav2Vec2CTCTokenizer):
        return None
    separator: int | None = tokenizer.encoder.get(tokenizer.word_delimiter_token)
    return separator


def written_special_tokens(processor: Processor) -> list[str]:
    """Return the special tokens that hypotheses can contain by name, as the tokenizer decodes them.

    These are all but the blank and the word separator. A name that the vocabulary can spell in other tokens is left
    out: in a hypothesis, it counts as these characters.
    """
    tokenizer = processor.tokenizer
    unwritten = {tokenizer.pad_token, getattr(tokenizer, "word_delimiter_token", None)}
    names = sorted(set(tokenizer.all_special_tokens) - unwritten)
    if not isinstance(tokenizer, Wav2Vec2CTCTokenizer):
        return names
    units = _units(tokenizer)
    pattern = unit_pattern(units)
    unspelled = [name for name in names if not units.issuperset(pattern.findall(name))]
    return [name.lower() if tokenizer.do_lower_case else name for name in unspelled]


def _units(tokenizer: Any) -> set[str]:
    """Return the tokens that stand for text."""
    return set(tokenizer.encoder) - set(tokenizer.all_special_tokens)
