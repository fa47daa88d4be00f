from typing import Any

import pytest

from speechmill.config.languages import separates_words
from speechmill.config.root import Run

RUN: dict[str, Any] = {
    "training": "none",
    "dev": "c-dev",
    "model": {"base": "somebody/model", "revision": "main"},
    "evaluation": {"sets": ["c-dev"], "decoders": ["greedy", "lm"], "lm": {"text": "files", "files": ["text"]}},
}


def test_languages_that_whisper_splits_by_character() -> None:
    # Source: `split_to_word_tokens` in the tokenizer of OpenAI's Whisper.
    assert not [code for code in ("zh", "ja", "th", "lo", "my", "yue") if separates_words(code)]


@pytest.mark.parametrize("code", ["cmn", "yue", "jpn", "tha", "lao", "mya", "khm"])
def test_fleurs_languages_without_spaces(code: str) -> None:
    assert not separates_words(code)


@pytest.mark.parametrize("code", ["ru", "ko", "vi", "en", "tr", "am", "und"])
def test_languages_with_spaces(code: str) -> None:
    assert separates_words(code)


@pytest.mark.parametrize(("language", "metric", "unit"), [("ru", "wer", "words"), ("th", "cer", "characters")])
def test_defaults_follow_the_language(language: str, metric: str, unit: str) -> None:
    run = Run.model_validate(RUN | {"language": language})
    assert (run.select_metric, run.error_rate, run.lm_unit) == (metric, metric, unit)


@pytest.mark.parametrize(
    ("language", "metric", "rate"),
    [("th", "wer", "wer"), ("ru", "cer", "cer"), ("th", "loss", "cer"), ("ru", "loss", "wer")],
)
def test_explicit_metric_wins(language: str, metric: str, rate: str) -> None:
    run = Run.model_validate(RUN | {"language": language, "select": {"metric": metric}})
    assert (run.select_metric, run.error_rate) == (metric, rate)


def test_explicit_unit_wins() -> None:
    evaluation = RUN["evaluation"] | {"lm": RUN["evaluation"]["lm"] | {"unit": "words"}}
    assert Run.model_validate(RUN | {"language": "th", "evaluation": evaluation}).lm_unit == "words"
