from pathlib import Path

import pytest
from transformers import pipeline

from material import recording
from speechmill.report.usage import code, usage


def test_the_code_is_run_as_it_stands_and_prints_what_the_pipeline_hears(checkpoints: Path) -> None:
    model, samples = checkpoints / "checkpoint-0", recording(1.0, seed=3)
    before = sorted(path.name for path in model.iterdir())
    (shown,) = usage(model, ["greedy"], "characters", "corpus-dev", "clip-003", samples)
    theirs = pipeline("automatic-speech-recognition", model=str(model))
    assert shown["printed"] == theirs({"raw": samples / 32768, "sampling_rate": 16_000})["text"]
    assert (shown["set"], shown["clip"]) == ("corpus-dev", "clip-003")
    assert sorted(path.name for path in model.iterdir()) == before


@pytest.mark.parametrize(("units", "composes"), [("characters", False), ("jamo", True)])
def test_jamo_are_composed_where_the_model_writes_them(units: str, composes: bool) -> None:
    program = code("greedy", units)
    compile(program, "usage.py", "exec")
    assert ("unicodedata" in program) == composes


def test_the_code_for_a_language_model_is_a_program() -> None:
    compile(code("lm", "characters"), "usage.py", "exec")
