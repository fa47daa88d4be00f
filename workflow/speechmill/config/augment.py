"""Section `runs.*.augment`: how training clips are changed, differently each time that they are seen."""

from typing import Annotated

from pydantic import Field, model_validator

from speechmill.config.base import Section


class Noise(Section):
    """Noise that is added to some of the clips."""

    probability: float = Field(gt=0, le=1, description="the share of the clips that are changed")
    snr_db: tuple[float, float] = Field(
        description="the lowest and the highest ratio of the clip's power to the noise's, in dB; one is drawn a clip"
    )
    folder: str | None = Field(
        None,
        description="a folder of recordings of noise, of which a stretch is drawn a clip; unless given, white noise",
    )

    @model_validator(mode="after")
    def _lowest_first(self) -> "Noise":
        if self.snr_db[0] > self.snr_db[1]:
            raise ValueError("`snr_db` is the lowest ratio, then the highest")
        return self


class Room(Section):
    """Rooms in which some of the clips are heard."""

    probability: float = Field(gt=0, le=1, description="the share of the clips that are changed")
    rt60_seconds: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0, le=5)]] = Field(
        (0.2, 0.8),
        description="without a `folder`: the shortest and the longest time in which sound falls by 60 dB in the room;"
        " one is drawn a clip",
    )
    folder: str | None = Field(
        None,
        description="a folder of recorded room responses, of which one is drawn a clip; unless given, white noise that"
        " dies away",
    )

    @model_validator(mode="after")
    def _shortest_first(self) -> "Room":
        if self.rt60_seconds[0] > self.rt60_seconds[1]:
            raise ValueError("`rt60_seconds` is the shortest time, then the longest")
        return self


class AugmentConfig(Section):
    """What is done to the samples, in this order; SpecAugment is the model's: `mask_time_prob` in its configuration."""

    speed: list[Annotated[float, Field(ge=0.5, le=2)]] = Field(
        default_factory=list,
        description="factors of speed, pitch included, such as `[0.9, 1.0, 1.1]`; one is drawn a batch",
    )
    room: Room | None = Field(None, description="clips as they are heard in a room")
    noise: Noise | None = Field(None, description="clips with noise")

    @model_validator(mode="after")
    def _whole_hundredths(self) -> "AugmentConfig":
        # The resampler's filter has as many phases as the factor's fraction has parts.
        for factor in self.speed:
            if abs(100 * factor - round(100 * factor)) > 1e-6:
                raise ValueError(f"`speed` has {factor}; give factors of two decimals at most")
        return self

    @property
    def is_on(self) -> bool:
        """Whether anything is done."""
        return bool(self.speed or self.room or self.noise)

    @property
    def longest_factor(self) -> float:
        """How many times longer a clip can become: what its memory needs."""
        return 1 / min(self.speed, default=1.0)

    @property
    def shortest_factor(self) -> float:
        """What is left of a clip's length at the highest speed: what CTC needs frames in."""
        return 1 / max(self.speed, default=1.0)
