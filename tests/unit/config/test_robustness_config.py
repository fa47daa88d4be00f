from typing import Any

import pytest
from pydantic import ValidationError

from speechmill.config.robustness import DEFAULT_EFFECTS, Effect, RobustnessConfig

SETS = ["corpus-test"]


def errors(effects: dict[str, Any]) -> str:
    """Return the errors of a section with these effects, one per line, each with its key."""
    with pytest.raises(ValidationError) as caught:
        RobustnessConfig.model_validate({"sets": SETS, "effects": effects})
    return "\n".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in caught.value.errors())


def test_default_effects() -> None:
    assert list(RobustnessConfig(sets=SETS).effects) == [
        *("telephone", "noise_20db", "noise_10db", "noise_0db", "reverberation", "tempo_slow", "tempo_fast"),
        *("quiet", "clipped", "gsm", "mp3_16k"),
    ]


@pytest.mark.parametrize("name", DEFAULT_EFFECTS)
def test_effect_survives_json(name: str) -> None:
    effect = DEFAULT_EFFECTS[name]
    assert Effect.model_validate_json(effect.model_dump_json(exclude_none=True)) == effect


def test_sox_effects_are_written_as_in_its_manual() -> None:
    steps: list[list[str | int | float]] = [
        ["highpass", 300],
        ["tempo", "-s", 0.85],
        ["compand", "0.3,1", "6:-70,-60,-20", -5, -90, 0.2],
        ["rate", "8k"],
        ["sinc", "300-3400"],
        ["equalizer", 1000, "1q", "+3"],
    ]
    given = RobustnessConfig.model_validate({"sets": SETS, "effects": {"custom": {"sox": steps}}})
    assert given.effects["custom"].sox == steps


@pytest.mark.parametrize(
    ("effect", "message"),
    [
        ({}, "effects.custom: Value error, give exactly one of `sox`, `noise_snr_db` and `codec`"),
        (
            {"noise_snr_db": 3, "codec": "gsm"},
            "effects.custom: Value error, give exactly one of `sox`, `noise_snr_db` and `codec`,"
            " not noise_snr_db and codec",
        ),
        ({"noise_snr": 3}, "effects.custom.noise_snr: Extra inputs are not permitted"),
        ({"noise_snr_db": 300}, "effects.custom.noise_snr_db: Input should be less than or equal to 60"),
        ({"codec": "mp3"}, "effects.custom: Value error, `codec: mp3` needs a bit rate, `kbps`"),
        (
            {"codec": "gsm", "kbps": 16},
            "effects.custom: Value error, `kbps` is only for `codec: mp3`; remove it",
        ),
        ({"sox": []}, "effects.custom.sox: List should have at least 1 item"),
        ({"sox": [[]]}, "effects.custom.sox.0: List should have at least 1 item"),
        ({"sox": [["reverbb"]]}, "effects.custom.sox: Value error, `reverbb` is not an available effect"),
    ],
)
def test_invalid_effect_is_refused_and_named(effect: dict[str, Any], message: str) -> None:
    assert message in errors({"custom": effect})


@pytest.mark.parametrize(
    "step", [["spectrogram"], ["ladspa", "plugin"], ["synth"], ["noiseprof", "/tmp/x"], ["trim", 1], ["remix", 1, 2]]
)
def test_effects_with_files_or_lost_speech_are_refused(step: list[Any]) -> None:
    assert f"`{step[0]}` is not an available effect" in errors({"custom": {"sox": [step]}})


@pytest.mark.parametrize("argument", ["reverse", ":", "/etc/passwd", "", "1 2", "3\nreverse"])
def test_argument_cannot_be_an_effect_or_a_file(argument: str) -> None:
    assert f"`{argument}` is not an argument of gain" in errors({"custom": {"sox": [["gain", argument]]}})


@pytest.mark.parametrize("name", ["Telephone", "noise-10", "a/b", ""])
def test_effect_name_is_safe_in_a_path(name: str) -> None:
    assert "String should match pattern" in errors({name: {"codec": "gsm"}})


def test_empty_effects_or_sets_are_refused() -> None:
    assert "effects: Dictionary should have at least 1 item" in errors({})
    with pytest.raises(ValidationError, match="sets"):
        RobustnessConfig(sets=[])
