from pathlib import Path
from typing import Any

import pytest
from transformers import pipeline

from material import recording
from speechmill.config.lm import LmUnit
from speechmill.config.text import TextConfig
from speechmill.report.usage import UsageSettings, app_code, requirements, usage_code, usage_examples

ROOT = Path(__file__).resolve().parents[3]
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


@pytest.mark.parametrize("decoders", [["greedy"], ["greedy", "lm"]])
@pytest.mark.parametrize("units", ["characters", "jamo"])
@pytest.mark.parametrize("lm_unit", ["words", "characters"])
@pytest.mark.parametrize("separated", [True, False])
def test_page_compiles(decoders: list[str], units: Any, lm_unit: LmUnit, separated: bool) -> None:
    settings = UsageSettings(text=TextConfig(units=units), lm_unit=lm_unit, separated=separated)
    program = app_code(decoders, settings)
    compile(program, "app.py", "exec")
    assert ("beam_search(log_probs)" in program) == ("lm" in decoders)


def test_page_requires_the_locked_versions() -> None:
    required = {line.split(" ")[0] for line in requirements().splitlines() if not line.startswith("#")}
    files = [ROOT / "requirements.lock", ROOT / "envs" / "gradio.txt"]
    locked = {line.split(" ")[0] for file in files for line in file.read_text().splitlines()}
    assert required <= locked
