"""The `speak` section: the small corpus that espeak-ng speaks for the demo."""

from typing import Literal

from pydantic import Field, model_validator

from speechmill.config.base import Section


class SplitSettings(Section):
    """How much of the corpus one published split holds."""

    voices: int = Field(ge=1, description="Number of speakers; no speaker is in two splits.")
    clips: int = Field(ge=1, description="Number of clips, drawn over the split's speakers.")


class SplitsSettings(Section):
    """The three splits that are trained and scored on."""

    train: SplitSettings = Field(description="Clips to train on.")
    dev: SplitSettings = Field(description="Clips to choose a checkpoint with.")
    test: SplitSettings = Field(description="Clips to report; speakers and sentences unheard in train.")


class SpeakSettings(Section):
    """What espeak-ng speaks, and how it is packed. Same settings: same bytes."""

    language: Literal["ru"] = Field(default="ru", description="Language of the sentences and voices.")
    layout: Literal["common_voice"] = Field(
        default="common_voice", description="Published corpus whose archive layout is copied."
    )
    release: str = Field(
        pattern=r"^[\w.-]+$",
        description="Name of the archive's top folder, such as cv-corpus-demo-1.0-2026-11-22.",
    )
    seed: int = Field(default=0, description="Seed of all draws: speakers, sentences, pitch and speed.")
    min_words: int = Field(default=1, ge=1, le=4, description="Fewest words (spoken digits) in a sentence.")
    max_words: int = Field(default=4, ge=1, le=4, description="Most words (spoken digits) in a sentence.")
    splits: SplitsSettings = Field(description="Speakers and clips of each split.")

    @model_validator(mode="after")
    def _fewest_before_most(self) -> "SpeakSettings":
        if self.min_words > self.max_words:
            raise ValueError("`min_words` is greater than `max_words`")
        return self
