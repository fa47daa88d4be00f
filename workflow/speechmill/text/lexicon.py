"""The lexicon of the beam search: how words are spelled in the tokens of a model."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from speechmill.core.command import SpeechmillError
from speechmill.core.files import check_files, read_json
from speechmill.text.normaliser import compose, to_units
from speechmill.text.tokens import unit_pattern

MODEL, LEXICON, TOKENS, ABOUT = "lm.binary", "lexicon.txt", "tokens.txt", "arpa.json"
"""The files that the stage `lm` writes to the folder of a language model."""

# With the defaults of Wav2Vec2CTCTokenizer.
_SPECIAL_TOKENS = {
    "pad_token": "<pad>",
    "word_delimiter_token": "|",
    "unk_token": "<unk>",
    "bos_token": "<s>",
    "eos_token": "</s>",
}


@dataclass(frozen=True)
class Tokens:
    """The tokens of a model by id, with the CTC blank, the word separator and the other special tokens."""

    by_id: list[str]
    blank: str
    separator: str
    special: frozenset[str] = frozenset()

    @cached_property
    def letters(self) -> frozenset[str]:
        """The tokens that words consist of."""
        return frozenset(self.by_id) - {self.blank, self.separator} - self.special

    @cached_property
    def _units(self) -> re.Pattern[str]:
        return unit_pattern(self.letters)

    def entry(self, word: str) -> str | None:
        """Return the line of `lexicon.txt` for a word, or None if the model lacks one of its characters.

        The spelling ends with the word separator.
        """
        spelled = self.spell(word)
        return None if spelled is None else f"{word}\t{' '.join(spelled)} {self.separator}\n"

    def spell(self, word: str) -> list[str] | None:
        """Return a word in the tokens of the model, or None if the model lacks one of its characters.

        It is spelled in characters or, if the model has jamo instead, in jamo, with the longest token at each position
        if the model has tokens of several characters.
        """
        for units in ("characters", "jamo"):
            spelled = self._units.findall(to_units(word, units))
            if self.letters.issuperset(spelled):
                return spelled
        return None

    def sentence(self, text: str) -> list[str]:
        """Return a sentence as tokens, without the characters that the model lacks."""
        return [token for c in text for token in ([self.separator] if c == " " else self.spell(c) or [])]

    def text(self, tokens: Iterable[str]) -> str:
        """Return the text of a sequence of tokens, without special tokens: the inverse of `sentence`."""
        letters = (
            " " if token == self.separator else token for token in tokens if token not in self.special | {self.blank}
        )
        return compose(" ".join("".join(letters).split()))


def tokenizer_tokens(vocab: Path, tokenizer: Path) -> Tokens:
    """Return the tokens in the `vocab.json` and `tokenizer_config.json` of a CTC tokenizer of transformers.

    Raises:
        SpeechmillError: Words cannot be spelled with these tokens.
    """
    ids: Mapping[str, Any] = read_json(vocab)
    settings = read_json(tokenizer)
    # Some versions of transformers write a token as a mapping.
    blank, separator, *special = (
        each["content"] if isinstance(each, Mapping) else each
        for each in (settings.get(key, default) for key, default in _SPECIAL_TOKENS.items())
    )
    by_id = sorted(ids, key=lambda token: str(ids[token]).zfill(9))
    if [ids[token] for token in by_id] != list(range(len(by_id))) or not {blank, separator} <= set(by_id):
        raise SpeechmillError(
            f"{vocab} does not number its tokens from 0, or lacks the blank {blank!r} or the word separator"
            f" {separator!r}: a language model of words cannot be used with this model; remove `lm` from"
            " evaluation.decoders"
        )
    return Tokens(by_id, blank, separator, frozenset(special).intersection(by_id))


def check_lm(folder: Path) -> None:
    """Compare the files of the language model in `folder` with the digests in its `arpa.json`.

    Raises:
        SpeechmillError: A file has changed since it was written.
    """
    check_files(folder, read_json(folder / ABOUT).get("sha256", {}))


def folder_tokens(folder: Path) -> Tokens:
    """Return the tokens that the language model in `folder` was built for."""
    about = read_json(folder / ABOUT)
    by_id = (folder / TOKENS).read_text(encoding="utf-8").removesuffix("\n").split("\n")
    # Models of release 0.1.0 do not list their special tokens, and have no other tokens of several characters.
    special = about.get("special", [token for token in by_id if len(token) > 1])
    return Tokens(by_id, about["blank"], about["separator"], frozenset(special) - {about["blank"], about["separator"]})
