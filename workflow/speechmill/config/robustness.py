"""Section `runs.*.evaluation.robustness`: perturbed copies of evaluation sets, to measure robustness."""

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from speechmill.config.base import EvalSet, Name, Section

# Effects of SoX for one channel whose arguments are numbers and options. None of them reads or writes a file, loads a
# plugin, removes part of the clip or is random.
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
# A number with an optional unit, or an option, but never the name of another effect.
_SOX_ARGUMENT = re.compile(r"[-+=.0-9][\w.,:%+-]*")

SoxEffect = Annotated[list[str | int | float], Field(min_length=1)]
"""An effect of SoX, written as in its manual: the name, then the arguments."""


class Effect(Section):
    """A perturbation of each clip: exactly one of `sox`, `noise_snr_db` and `codec`."""

    sox: list[SoxEffect] | None = Field(
        None,
        min_length=1,
        description="effects of SoX, applied in order, each a list of its name and its arguments as in the manual of"
        " SoX: `[[highpass, 300], [lowpass, 3400]]`. Available effects: " + ", ".join(_SOX_EFFECTS),
    )
    noise_snr_db: float | None = Field(
        None,
        ge=-20,
        le=60,
        description="signal-to-noise ratio in dB of added pink noise; the signal power is that of the clip without its"
        " silence",
    )
    codec: Literal["gsm", "mp3"] | None = Field(
        None,
        description="codec to encode and decode the clip with: GSM 06.10 (13 kbit/s, 8 kHz) or MP3 (16 kHz)",
    )
    kbps: Literal[8, 16, 24, 32, 40, 48, 56, 64] | None = Field(None, description="bit rate of `mp3` in kbit/s")

    @field_validator("sox")
    @classmethod
    def _effects_are_allowed(cls, effects: list[SoxEffect] | None) -> list[SoxEffect] | None:
        for name, *arguments in effects or []:
            if name not in _SOX_EFFECTS:
                raise ValueError(f"`{name}` is not an available effect; available are {', '.join(_SOX_EFFECTS)}")
            for argument in arguments:
                if not _SOX_ARGUMENT.fullmatch(str(argument)):
                    raise ValueError(f"`{argument}` is not an argument of {name}: use numbers and options, such as -s")
        return effects

    @model_validator(mode="after")
    def _exactly_one(self) -> "Effect":
        given = [key for key in ("sox", "noise_snr_db", "codec") if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(
                "give exactly one of `sox`, `noise_snr_db` and `codec`" + (f", not {' and '.join(given)}" * bool(given))
            )
        if self.codec == "mp3" and self.kbps is None:
            raise ValueError("`codec: mp3` needs a bit rate, `kbps`")
        if self.codec != "mp3" and self.kbps is not None:
            raise ValueError("`kbps` is only for `codec: mp3`; remove it")
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
"""The default perturbations: band limits, noise, reverberation, tempo, level and codecs."""


class RobustnessConfig(Section):
    """The evaluation sets whose perturbed copies are scored with the selected checkpoint, and the perturbations."""

    sets: list[EvalSet] = Field(min_length=1, description="evaluation sets, each `{dataset}-{split}`")
    effects: dict[Name, Effect] = Field(
        DEFAULT_EFFECTS,
        min_length=1,
        description="perturbations by name; each gives a set `{dataset}-{split}-{name}`. Default: "
        + ", ".join(
            f"`{name}: {effect.model_dump_json(exclude_none=True)}`" for name, effect in DEFAULT_EFFECTS.items()
        ),
    )
