"""The words that beam search can write, and how they are spelled in a model's tokens."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from speechmill.core.command import SpeechmillError
from speechmill.core.tables import read_json
from speechmill.text.normaliser import to_units

MODEL, LEXICON, TOKENS, ABOUT = "lm.binary", "lexicon.txt", "tokens.txt", "arpa.json"
"""The files of a language model's folder, as the stage `lm` writes them."""


@dataclass(frozen=True)
class Tokens:
    """A model's tokens by id, the one that is the blank of CTC, and the one that stands between words."""

    by_id: list[str]
    blank: str
    separator: str

    @cached_property
    def _letters(self) -> frozenset[str]:
        return frozenset(self.by_id) - {self.blank, self.separator}

    def entry(self, word: str) -> str | None:
        """The line of `lexicon.txt` for a word, or None where the model lacks one of its characters.

        It is spelled with its characters, or with the jamo of its syllables where the model writes those, and ends with
        the separator.
        """
        for units in ("characters", "jamo"):
            spelled = to_units(word, units)
            if self._letters.issuperset(spelled):
                return f"{word}\t{' '.join(spelled)} {self.separator}\n"
        return None


def tokenizer_tokens(vocab: Path, tokenizer: Path) -> Tokens:
    """The tokens of a `vocab.json` and a `tokenizer_config.json`, as transformers writes them for CTC.

    Raises SpeechmillError where words cannot be spelled with them.
    """
    ids: Mapping[str, Any] = read_json(vocab)
    settings = read_json(tokenizer)
    # Some versions of transformers wrote a token as a mapping.
    blank, separator = (
        each["content"] if isinstance(each, Mapping) else each
        for each in (settings.get("pad_token", "<pad>"), settings.get("word_delimiter_token", "|"))
    )
    by_id = sorted(ids, key=lambda token: str(ids[token]).zfill(9))
    if [ids[token] for token in by_id] != list(range(len(by_id))) or not {blank, separator} <= set(by_id):
        raise SpeechmillError(
            f"{vocab} does not number its tokens from 0 on, or lacks the blank {blank!r} or the sign between words,"
            f" {separator!r}: a language model of words cannot be used with this model; take `lm` out of"
            " evaluation.decoders"
        )
    return Tokens(by_id, blank, separator)


def folder_tokens(folder: Path) -> Tokens:
    """The tokens that a language model's folder was made for."""
    about = read_json(folder / ABOUT)
    by_id = (folder / TOKENS).read_text(encoding="utf-8").removesuffix("\n").split("\n")
    return Tokens(by_id, about["blank"], about["separator"])
