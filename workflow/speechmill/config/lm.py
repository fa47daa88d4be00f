"""Section `runs.*.evaluation.lm`: the n-gram language model, and how it is searched with."""

from typing import Literal

from pydantic import Field, model_validator

from speechmill.config.base import Section

Vocabulary = Literal["open", "closed"]


class BeamConfig(Section):
    """What the beam search keeps from frame to frame: more finds better sentences, and takes longer.

    Of these, `threshold` takes most of what others leave over: where the model is sure, few hypotheses are so near.
    """

    size: int = Field(64, gt=0, description="hypotheses that are kept")
    tokens: int = Field(32, gt=0, description="the likeliest tokens of a frame that are tried")
    threshold: float = Field(
        20.0, gt=0, description="how far a hypothesis may fall behind the best, in natural logarithms of probability"
    )


class LmConfig(Section):
    """The language model is of words, made by KenLM; its two weights are tuned on the run's `dev` alone."""

    text: Literal["training", "files"] = Field(
        "training",
        description="the text that it is made of: the run's training clips, each sentence once, or `files`; without the"
        " sentences of dev and of every scored set",
    )
    files: list[str] = Field(
        default_factory=list, description="with `text: files`, plain text in UTF-8 with a sentence a line"
    )
    order: int = Field(4, ge=2, le=6, description="words of the longest n-grams")
    prune: list[int] = Field(
        [0, 0, 1],
        description="n-grams seen no more often than this are left out, a number an order from the unigrams on; the"
        " last holds for the orders above, and numbers above `order` for nothing",
    )
    format: Literal["trie", "probing"] = Field(
        "trie", description="how it is stored: `trie` takes the least memory, `probing` is faster"
    )
    max_words: int = Field(
        300_000, gt=0, description="words that can be written, the most frequent of the text; a million take some GB"
    )
    vocabulary: Vocabulary = Field(
        "open",
        description="with `open`, words that greedy decoding writes in the set can be written as well, as unknown words"
        " of the language model; with `closed`, those of the text alone",
    )
    lm_weight: list[float] = Field(
        [0.5, 1.0, 2.0, 4.0],
        min_length=1,
        description="weights of the language model that are tried; what lies halfway to the best one's neighbours is"
        " tried after them. They multiply logarithms to base 10",
    )
    word_score: list[float] = Field(
        [-2.0, 0.0, 2.0],
        min_length=1,
        description="what is added for each word, tried likewise with each of the weights: more makes more words",
    )
    beam: BeamConfig = Field(BeamConfig(), description="how wide the search is")
    tuning_clips: int = Field(
        1000, gt=0, description="of a larger dev set, about this many clips are taken evenly for the tuning"
    )

    @model_validator(mode="after")
    def _files_are_named(self) -> "LmConfig":
        if (self.text == "files") != bool(self.files):
            raise ValueError("`text: files` and a list of `files` belong together: give both, or neither")
        return self

    @model_validator(mode="after")
    def _pruning_grows(self) -> "LmConfig":
        if self.prune != sorted(self.prune) or min(self.prune, default=0) < 0:
            raise ValueError(f"`prune` is {self.prune}: the numbers may not become smaller, nor be negative")
        return self
