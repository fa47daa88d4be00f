"""Section `runs.*.augment`: random changes of the training audio, drawn anew in every epoch."""

from typing import Annotated

from pydantic import Field, model_validator

from speechmill.config.base import Section

AUDIO_SUFFIXES = {".flac", ".mp3", ".ogg", ".opus", ".wav"}
"""The endings of the names of noise and room recordings, in lower case."""


class Noise(Section):
    """Noise that is added to a share of the clips."""

    probability: float = Field(gt=0, le=1, description="share of the clips that get noise")
    snr_db: tuple[float, float] = Field(
        description="lowest and highest signal-to-noise ratio in dB; one is drawn per clip"
    )
    folder: str | None = Field(
        None, description="folder of noise recordings, from which an excerpt is drawn per clip; default: white noise"
    )

    @model_validator(mode="after")
    def _lowest_first(self) -> "Noise":
        if self.snr_db[0] > self.snr_db[1]:
            raise ValueError("`snr_db` must be [lowest, highest]")
        return self


class Room(Section):
    """Room reverberation that is added to a share of the clips."""

    probability: float = Field(gt=0, le=1, description="share of the clips that get reverberation")
    rt60_seconds: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0, le=5)]] = Field(
        (0.2, 0.8),
        description="without `folder`: shortest and longest reverberation time RT60, the time in which sound decays by"
        " 60 dB; one is drawn per clip",
    )
    folder: str | None = Field(
        None,
        description="folder of recorded room impulse responses, of which one is drawn per clip; default: white noise"
        " that decays exponentially",
    )

    @model_validator(mode="after")
    def _shortest_first(self) -> "Room":
        if self.rt60_seconds[0] > self.rt60_seconds[1]:
            raise ValueError("`rt60_seconds` must be [shortest, longest]")
        return self


class AugmentConfig(Section):
    """Waveform augmentation, in this order; SpecAugment is set in `model`, for example `mask_time_prob`."""

    speed: list[Annotated[float, Field(ge=0.5, le=2)]] = Field(
        default_factory=list,
        description="speed factors, which change the pitch too, such as `[0.9, 1.0, 1.1]`; one is drawn per batch",
    )
    room: Room | None = Field(None, description="reverberation")
    noise: Noise | None = Field(None, description="additive noise")

    @model_validator(mode="after")
    def _two_decimals(self) -> "AugmentConfig":
        # The polyphase filter of the resampler has as many phases as the denominator of the factor.
        for factor in self.speed:
            if abs(100 * factor - round(100 * factor)) > 1e-6:
                raise ValueError(f"`speed` contains {factor}; use at most two decimals")
        return self

    @property
    def folders(self) -> list[str]:
        """The folders of recordings that augmentation uses: of noise, then of rooms."""
        return [each.folder for each in (self.noise, self.room) if each is not None and each.folder is not None]

    @property
    def is_on(self) -> bool:
        """Whether any augmentation is configured."""
        return bool(self.speed or self.room or self.noise)

    @property
    def longest_factor(self) -> float:
        """The factor by which the slowest speed lengthens a clip, which decides how much memory it needs."""
        return 1 / min(self.speed, default=1.0)

    @property
    def shortest_factor(self) -> float:
        """The factor by which the highest speed shortens a clip, which decides how many frames CTC has for its text."""
        return 1 / max(self.speed, default=1.0)
