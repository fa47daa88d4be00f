"""Section `runs.*.evaluation.robustness`: changed copies of evaluation sets, to see what a model bears."""

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from speechmill.config.base import EvalSet, Name, Section

# What SoX can do to one channel with numbers and options alone. No effect that reads or writes a file, starts a
# plugin, takes out a part of the clip or draws random numbers.
_SOX_EFFECTS = (
    "allpass",
    "band",
    "bandpass",
    "bandreject",
    "bass",
    "biquad",
    "chorus",
    "compand",
    "contrast",
    "dcshift",
    "echo",
    "echos",
    "equalizer",
    "flanger",
    "gain",
    "highpass",
    "loudness",
    "lowpass",
    "norm",
    "overdrive",
    "pad",
    "phaser",
    "pitch",
    "rate",
    "reverb",
    "sinc",
    "speed",
    "stretch",
    "tempo",
    "treble",
    "tremolo",
    "vol",
)
# A number, with what follows it, or an option; so that none can be the name of another effect.
_SOX_ARGUMENT = re.compile(r"[-+=.0-9][\w.,:%+-]*")

SoxEffect = Annotated[list[str | int | float], Field(min_length=1)]
"""An effect of SoX as its manual writes it: its name, then its arguments."""


class Effect(Section):
    """What is done to each clip: exactly one of `sox`, `noise_snr_db` and `codec`."""

    sox: list[SoxEffect] | None = Field(
        None,
        min_length=1,
        description="effects of SoX, one after another, each a list of its name and its arguments as the manual of SoX"
        " has them: `[[highpass, 300], [lowpass, 3400]]`. Names: " + ", ".join(_SOX_EFFECTS),
    )
    noise_snr_db: float | None = Field(
        None,
        ge=-20,
        le=60,
        description="pink noise, with the ratio of the clip's power, where there is sound in it, to the noise's in dB",
    )
    codec: Literal["gsm", "mp3"] | None = Field(
        None, description="the clip is encoded and decoded: GSM 06.10 (13 kbit/s, at 8 kHz) or MP3 (at 16 kHz)"
    )
    kbps: Literal[8, 16, 24, 32, 40, 48, 56, 64] | None = Field(None, description="bit rate of `mp3`, in kbit/s")

    @field_validator("sox")
    @classmethod
    def _sox_knows(cls, effects: list[SoxEffect] | None) -> list[SoxEffect] | None:
        for name, *arguments in effects or []:
            if name not in _SOX_EFFECTS:
                raise ValueError(f"`{name}` is no effect that can be used here; those are {', '.join(_SOX_EFFECTS)}")
            for argument in arguments:
                if not _SOX_ARGUMENT.fullmatch(str(argument)):
                    raise ValueError(f"`{argument}` is no argument of {name}: give numbers and options, such as -s")
        return effects

    @model_validator(mode="after")
    def _one_thing(self) -> "Effect":
        given = [key for key in ("sox", "noise_snr_db", "codec") if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(
                "give exactly one of `sox`, `noise_snr_db` and `codec`" + (f", not {' and '.join(given)}" * bool(given))
            )
        if self.codec == "mp3" and self.kbps is None:
            raise ValueError("`mp3` has many bit rates: give `kbps`")
        if self.codec != "mp3" and self.kbps is not None:
            raise ValueError("`kbps` is the bit rate of `codec: mp3`: leave it out")
        return self


DEFAULT_EFFECTS = {
    "telephone": Effect(sox=[["rate", "8k"], ["sinc", "300-3400"]]),
    "noise_20db": Effect(noise_snr_db=20),
    "noise_10db": Effect(noise_snr_db=10),
    "noise_0db": Effect(noise_snr_db=0),
    "reverberation": Effect(sox=[["gain", "-h"], ["reverb", 50, 50, 100], ["gain", "-r"]]),
    "tempo_slow": Effect(sox=[["tempo", "-s", 0.85]]),
    "tempo_fast": Effect(sox=[["tempo", "-s", 1.2]]),
    "quiet": Effect(sox=[["gain", -20]]),
    "clipped": Effect(sox=[["gain", 20]]),
    "gsm": Effect(codec="gsm"),
    "mp3_16k": Effect(codec="mp3", kbps=16),
}
"""A narrow band, noise, a room, pace, level and codecs: what recordings of speech suffer from most often."""


class RobustnessConfig(Section):
    """Which sets are scored once more in changed copies, at the selected checkpoint, and how they are changed."""

    sets: list[EvalSet] = Field(min_length=1, description="the evaluation sets, each `{dataset}-{split}`")
    effects: dict[Name, Effect] = Field(
        DEFAULT_EFFECTS,
        min_length=1,
        description="what is done to the clips, by name; a copy is the set `{dataset}-{split}-{name}`. Unless given: "
        + ", ".join(
            f"`{name}: {effect.model_dump_json(exclude_none=True)}`" for name, effect in DEFAULT_EFFECTS.items()
        ),
    )
