from pathlib import Path

import pytest
from transformers import pipeline

from material import recording
from speechmill.config.lm import LmUnit
from speechmill.config.text import TextConfig
from speechmill.report.usage import UsageSettings, usage_code, usage_examples

SETTINGS = UsageSettings(text=TextConfig(), lm_unit="words", separated=True)


def test_code_prints_what_the_pipeline_returns(checkpoints: Path) -> None:
    model, samples = checkpoints / "checkpoint-0", recording(1.0, seed=3)
    before = sorted(path.name for path in model.iterdir())
    (example,) = usage_examples(model, ["greedy"], SETTINGS, "corpus-dev", "clip-003", samples)
    transcriber = pipeline("automatic-speech-recognition", model=str(model))
    assert example["printed"] == transcriber({"raw": samples / 32768, "sampling_rate": 16_000})["text"]
    assert (example["set"], example["clip"]) == ("corpus-dev", "clip-003")
    assert sorted(path.name for path in model.iterdir()) == before


@pytest.mark.parametrize(("units", "composes"), [("characters", False), ("jamo", True)])
def test_code_composes_jamo_only_for_jamo_models(units: str, composes: bool) -> None:
    program = usage_code("greedy", units)
    compile(program, "usage.py", "exec")
    assert ("unicodedata" in program) == composes


@pytest.mark.parametrize("units", ["characters", "jamo"])
@pytest.mark.parametrize("lm_unit", ["words", "characters"])
def test_code_for_language_model_compiles(units: str, lm_unit: LmUnit) -> None:
    compile(usage_code("lm", units, lm_unit), "usage.py", "exec")
