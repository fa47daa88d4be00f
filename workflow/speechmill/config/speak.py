"""Section `speak`: small corpora that espeak-ng synthesises for the demos."""

from typing import Literal

from pydantic import Field, model_validator

from speechmill.config.base import Section


class SplitConfig(Section):
    """The size of one split of the corpus."""

    voices: int = Field(ge=1, description="number of speakers; no speaker is in two splits")
    clips: int = Field(ge=1, description="number of clips, distributed over the speakers of the split")


class SplitsConfig(Section):
    """The sizes of the splits."""

    train: SplitConfig = Field(description="training split")
    dev: SplitConfig | None = Field(
        default=None,
        description="split to select a checkpoint on; required for `common_voice`, not allowed for `zeroth`",
    )
    test: SplitConfig = Field(description="test split, with speakers and sentences that are not in train")

    def sizes(self) -> dict[str, SplitConfig]:
        """Return the splits by name: test, dev (if there is one), train."""
        dev = {} if self.dev is None else {"dev": self.dev}
        return {"test": self.test, **dev, "train": self.train}


class SpeakConfig(Section):
    """A synthetic corpus: what espeak-ng speaks, and how it is packed. The same settings give the same bytes."""

    language: Literal["ru", "ko"] = Field(default="ru", description="language of the sentences and voices")
    layout: Literal["common_voice", "zeroth"] = Field(
        default="common_voice", description="corpus whose archive layout is used"
    )
    release: str | None = Field(
        default=None,
        pattern=r"^[\w.-]+$",
        description="name of the top folder in the archive, such as cv-corpus-demo-1.0-2026-11-22; required for"
        " `common_voice`, not allowed for `zeroth`",
    )
    seed: int = Field(default=0, description="seed of all random choices: speakers, sentences, pitch and speed")
    min_words: int = Field(default=1, ge=1, le=4, description="smallest number of words (spoken numbers) per sentence")
    max_words: int = Field(default=4, ge=1, le=4, description="largest number of words (spoken numbers) per sentence")
    splits: SplitsConfig = Field(description="number of speakers and clips of each split")

    @model_validator(mode="after")
    def _min_below_max(self) -> "SpeakConfig":
        if self.min_words > self.max_words:
            raise ValueError("`min_words` is greater than `max_words`")
        return self

    @model_validator(mode="after")
    def _matches_layout(self) -> "SpeakConfig":
        if self.layout == "common_voice":
            if self.release is None:
                raise ValueError("`layout: common_voice` needs `release`, the name of the top folder in the archive")
            if self.splits.dev is None:
                raise ValueError("`layout: common_voice` needs `splits.dev`")
        else:
            if self.release is not None:
                raise ValueError("`layout: zeroth` has no top folder in the archive: remove `release`")
            if self.splits.dev is not None:
                raise ValueError(
                    "`layout: zeroth` has no dev split: remove `splits.dev`, and draw one from train with the dataset's"
                    " `drawn`"
                )
        return self
