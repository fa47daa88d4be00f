from typing import Any

import pytest
from pydantic import ValidationError

from speechmill.config.robustness import DEFAULT_EFFECTS, Effect, RobustnessConfig

SETS = ["corpus-test"]


def faults(effects: dict[str, Any]) -> str:
    """What is wrong with a section, the place of each fault before its message."""
    with pytest.raises(ValidationError) as caught:
        RobustnessConfig.model_validate({"sets": SETS, "effects": effects})
    return "\n".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in caught.value.errors())


def test_a_section_that_names_only_sets_has_the_default_effects() -> None:
    assert list(RobustnessConfig(sets=SETS).effects) == [
        *("telephone", "noise_20db", "noise_10db", "noise_0db", "reverberation", "tempo_slow", "tempo_fast"),
        *("quiet", "clipped", "gsm", "mp3_16k"),
    ]


@pytest.mark.parametrize("name", DEFAULT_EFFECTS)
def test_an_effect_goes_through_json_unchanged(name: str) -> None:
    effect = DEFAULT_EFFECTS[name]
    assert Effect.model_validate_json(effect.model_dump_json(exclude_none=True)) == effect


def test_effects_of_sox_are_written_as_its_manual_has_them() -> None:
    steps: list[list[str | int | float]] = [
        ["highpass", 300],
        ["tempo", "-s", 0.85],
        ["compand", "0.3,1", "6:-70,-60,-20", -5, -90, 0.2],
        ["rate", "8k"],
        ["sinc", "300-3400"],
        ["equalizer", 1000, "1q", "+3"],
    ]
    given = RobustnessConfig.model_validate({"sets": SETS, "effects": {"mine": {"sox": steps}}})
    assert given.effects["mine"].sox == steps


@pytest.mark.parametrize(
    ("effect", "sentence"),
    [
        ({}, "effects.mine: Value error, give exactly one of `sox`, `noise_snr_db` and `codec`"),
        (
            {"noise_snr_db": 3, "codec": "gsm"},
            "effects.mine: Value error, give exactly one of `sox`, `noise_snr_db` and `codec`,"
            " not noise_snr_db and codec",
        ),
        ({"noise_snr": 3}, "effects.mine.noise_snr: Extra inputs are not permitted"),
        ({"noise_snr_db": 300}, "effects.mine.noise_snr_db: Input should be less than or equal to 60"),
        ({"codec": "mp3"}, "effects.mine: Value error, `mp3` has many bit rates: give `kbps`"),
        (
            {"codec": "gsm", "kbps": 16},
            "effects.mine: Value error, `kbps` is the bit rate of `codec: mp3`: leave it out",
        ),
        ({"sox": []}, "effects.mine.sox: List should have at least 1 item"),
        ({"sox": [[]]}, "effects.mine.sox.0: List should have at least 1 item"),
        ({"sox": [["reverbb"]]}, "effects.mine.sox: Value error, `reverbb` is no effect that can be used here"),
    ],
)
def test_a_wrong_effect_is_refused_and_named(effect: dict[str, Any], sentence: str) -> None:
    assert sentence in faults({"mine": effect})


@pytest.mark.parametrize(
    "step", [["spectrogram"], ["ladspa", "plugin"], ["synth"], ["noiseprof", "/tmp/x"], ["trim", 1], ["remix", 1, 2]]
)
def test_no_effect_reads_or_writes_files_or_drops_speech(step: list[Any]) -> None:
    assert f"`{step[0]}` is no effect that can be used here" in faults({"mine": {"sox": [step]}})


@pytest.mark.parametrize("argument", ["reverse", ":", "/etc/passwd", "", "1 2", "3\nreverse"])
def test_no_argument_is_another_effect_or_a_file(argument: str) -> None:
    assert f"`{argument}` is no argument of gain" in faults({"mine": {"sox": [["gain", argument]]}})


@pytest.mark.parametrize("name", ["Telephone", "noise-10", "a/b", ""])
def test_a_name_can_stand_in_a_path(name: str) -> None:
    assert "String should match pattern" in faults({name: {"codec": "gsm"}})


def test_an_empty_list_of_effects_or_sets_is_refused() -> None:
    assert "effects: Dictionary should have at least 1 item" in faults({})
    with pytest.raises(ValidationError, match="sets"):
        RobustnessConfig(sets=[])
