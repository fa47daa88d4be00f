"""The `speak` section: the small corpora that espeak-ng speaks for the demos."""

from typing import Literal

from pydantic import Field, model_validator

from speechmill.config.base import Section


class SplitConfig(Section):
    """How much of the corpus one published split holds."""

    voices: int = Field(ge=1, description="Number of speakers; no speaker is in two splits.")
    clips: int = Field(ge=1, description="Number of clips, drawn over the split's speakers.")


class SplitsConfig(Section):
    """The splits that are trained and scored on."""

    train: SplitConfig = Field(description="Clips to train on.")
    dev: SplitConfig | None = Field(
        default=None,
        description="Clips to choose a checkpoint with; must be given for `common_voice`, and left out for `zeroth`.",
    )
    test: SplitConfig = Field(description="Clips to report; speakers and sentences unheard in train.")

    def sizes(self) -> dict[str, SplitConfig]:
        """The splits that there are, by name: test, then dev, then train."""
        dev = {} if self.dev is None else {"dev": self.dev}
        return {"test": self.test, **dev, "train": self.train}


class SpeakConfig(Section):
    """What espeak-ng speaks, and how it is packed. Same settings: same bytes."""

    language: Literal["ru", "ko"] = Field(default="ru", description="Language of the sentences and voices.")
    layout: Literal["common_voice", "zeroth"] = Field(
        default="common_voice", description="Published corpus whose archive layout is copied."
    )
    release: str | None = Field(
        default=None,
        pattern=r"^[\w.-]+$",
        description="Name of the archive's top folder, such as cv-corpus-demo-1.0-2026-11-22; must be given for"
        " `common_voice`, and left out for `zeroth`.",
    )
    seed: int = Field(default=0, description="Seed of all draws: speakers, sentences, pitch and speed.")
    min_words: int = Field(default=1, ge=1, le=4, description="Fewest words (spoken numbers) in a sentence.")
    max_words: int = Field(default=4, ge=1, le=4, description="Most words (spoken numbers) in a sentence.")
    splits: SplitsConfig = Field(description="Speakers and clips of each split.")

    @model_validator(mode="after")
    def _fewest_before_most(self) -> "SpeakConfig":
        if self.min_words > self.max_words:
            raise ValueError("`min_words` is greater than `max_words`")
        return self

    @model_validator(mode="after")
    def _as_the_layout_has_it(self) -> "SpeakConfig":
        if self.layout == "common_voice":
            if self.release is None:
                raise ValueError("an archive of Common Voice has a top folder: give its name as `release`")
            if self.splits.dev is None:
                raise ValueError("Common Voice has a dev split: give `splits.dev` its voices and clips")
        else:
            if self.release is not None:
                raise ValueError("an archive of Zeroth has no top folder: leave out `release`")
            if self.splits.dev is not None:
                raise ValueError(
                    "Zeroth has no dev split: leave out `splits.dev`; the dataset's `drawn` can draw one from train"
                )
        return self
