"""Section `runs.*.evaluation.lm`: the n-gram language model and the beam search."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from speechmill.config.base import Name, Section

Vocabulary = Literal["open", "closed"]

LmUnit = Literal["words", "characters"]

LmText = Literal["training", "files", "texts"]


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


class BeamConfig(Section):
    """Width of the beam search: wider finds better hypotheses and is slower; `threshold` usually prunes most."""

    size: int = Field(64, gt=0, description="number of hypotheses that are kept")
    tokens: int = Field(32, gt=0, description="number of tokens that are tried per frame, the most likely ones")
    threshold: float = Field(
        20.0, gt=0, description="hypotheses that score worse than the best by more than this are dropped; natural log"
    )


class LmConfig(Section):
    """The n-gram language model, built with KenLM; its weights are tuned on the run's `dev` only."""

    text: Annotated[list[LmText], BeforeValidator(_as_list, json_schema_input_type=LmText | list[LmText])] = Field(
        ["training"],
        min_length=1,
        description="where the text comes from, one or a list: the `training` clips of the run, `files`, `texts`. Each"
        " sentence of training clips and of `texts` is used once, and lines of `files` as often as they occur;"
        " sentences of dev and of all scored sets are removed",
    )
    files: list[str] = Field(
        default_factory=list, description="for `text: files`: plain text files in UTF-8, one sentence per line"
    )
    texts: list[Name] = Field(
        default_factory=list,
        description="for `text: texts`: names in the section `texts`; their sentences with a character that the"
        " vocabulary of the model lacks are left out",
    )
    unit: LmUnit | None = Field(
        None,
        description="unit of the n-grams: `words`, or `characters`, with which the beam search can write any text;"
        " default: `words`, or `characters` if `language` is written without spaces between words",
    )
    order: int | None = Field(
        None, ge=2, le=6, description="order of the n-grams, in units; default: 4 for words, 6 for characters"
    )
    prune: list[int] = Field(
        [0, 0, 1],
        description="n-grams that occur at most this often are removed: one number per order, starting with unigrams;"
        " the last one also applies to all higher orders, and numbers beyond `order` are ignored",
    )
    max_mb: int | None = Field(
        None,
        gt=0,
        description="largest size of the model in MB; `prune` is raised, from the highest orders on, until it fits",
    )
    format: Literal["trie", "probing"] = Field(
        "trie", description="data structure of the model: `trie` takes the least memory, `probing` is faster"
    )
    max_words: int = Field(
        300_000,
        gt=0,
        description="size of the vocabulary of words, the most frequent of the text; a million words take some GB;"
        " not used with `unit: characters`",
    )
    vocabulary: Vocabulary = Field(
        "open",
        description="words that the beam search can write in a clip: those of the text (`closed`), or those and the"
        " words of the clip's greedy hypothesis, which the language model treats as unknown (`open`); not used with"
        " `unit: characters`",
    )
    lm_weight: list[float] = Field(
        [0.5, 1.0, 2.0, 4.0],
        min_length=1,
        description="grid of weights of the language model, which multiply log10 probabilities; the midpoints to the"
        " neighbours of the best one are tried as well",
    )
    word_score: list[float] = Field(
        [-2.0, 0.0, 2.0],
        min_length=1,
        description="grid of scores added per word, tried with each weight; higher values give more words; not used"
        " with `unit: characters`",
    )
    beam: BeamConfig = Field(BeamConfig(), description="width of the beam search")
    tuning_clips: int = Field(
        1000, gt=0, description="largest number of dev clips used for tuning; a larger dev set is sampled evenly"
    )

    @model_validator(mode="after")
    def _files_match_text(self) -> "LmConfig":
        for key, listed in (("files", self.files), ("texts", self.texts)):
            if (key in self.text) != bool(listed):
                raise ValueError(f"`{key}` in `text` and a list of `{key}` belong together: give both, or neither")
        for key, values in (("text", self.text), ("texts", self.texts)):
            if len(set(values)) < len(values):
                raise ValueError(f"`{key}` lists a name twice")
        return self

    @model_validator(mode="after")
    def _prune_ascends(self) -> "LmConfig":
        if self.prune != sorted(self.prune) or min(self.prune, default=0) < 0:
            raise ValueError(f"`prune` is {self.prune}: the numbers must be ascending and not negative")
        return self
