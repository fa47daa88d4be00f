"""Key `runs.*.vocab`: the tokens that a model writes text in."""

from typing import Literal

from pydantic import Field

from speechmill.config.base import Section


class SentencePieceConfig(Section):
    """How the subwords are found in the training text."""

    size: int = Field(
        gt=3,
        description="number of tokens: the subwords, and the tokens for the blank, for unknown characters and for the"
        " space",
    )
    model_type: Literal["unigram", "bpe"] = Field(
        "unigram", description="algorithm of SentencePiece: a unigram language model, or byte pair encoding"
    )


class SentencePieceVocab(Section):
    """A vocabulary of subwords, which the library sentencepiece finds in the normalised training text."""

    sentencepiece: SentencePieceConfig = Field(description="how the subwords are found")


Vocab = Literal["characters", "keep"] | SentencePieceVocab
"""What the vocabulary consists of: characters, the tokens of the base, or subwords."""
