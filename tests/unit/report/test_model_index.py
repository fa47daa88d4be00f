from typing import Any

import yaml
from huggingface_hub import EvalResult, EvalResultEntry, ModelCard, parse_eval_result_entries
from hypothesis import given, settings
from hypothesis import strategies as st

from speechmill.report.model_index import front_matter, result_files

COMMIT = "5503434ddd753f426f4b38109466949a1217c2bb"


def result(value: float, **changed: Any) -> EvalResult:
    about: dict[str, Any] = {
        "task_type": "automatic-speech-recognition",
        "task_name": "Automatic Speech Recognition",
        "dataset_type": "mozilla-foundation/common_voice_8_0",
        "dataset_name": "Common Voice 8.0",
        "dataset_config": "ru",
        "dataset_split": "test",
        "metric_type": "wer",
        "metric_name": "Test WER, greedy",
    }
    return EvalResult(**about | changed, metric_value=value)


RESULTS = [
    result(10.83),
    result(2.41, metric_type="cer", metric_name="Test CER, greedy"),
    result(7.08, metric_name="Test WER, lm"),
    result(
        37.71, dataset_type="speech-recognition-community-v2/dev_data", dataset_name="Dev Data",
        dataset_split="validation", dataset_revision=COMMIT, metric_name="Validation WER, greedy",
    ),
]  # fmt: skip


def matter(results: list[EvalResult] = RESULTS, **changed: Any) -> str:
    about: dict[str, Any] = {
        "title": "XLS-R 1B Russian", "language": "ru", "licence": "apache-2.0", "base": "facebook/wav2vec2-xls-r-1b",
        "tags": ["automatic-speech-recognition", "speechmill"], "datasets": ["mozilla-foundation/common_voice_8_0"],
        "metrics": ["wer", "cer"],
    }  # fmt: skip
    return front_matter(**about | changed, results=results)


def card(text: str) -> ModelCard:
    return ModelCard(f"---\n{text}\n---\n\n# A model\n")


def test_front_matter_keys_are_ordered() -> None:
    found = yaml.safe_load(matter())
    assert list(found) == [
        "language", "license", "library_name", "base_model", "tags", "datasets", "metrics", "model-index",
    ]  # fmt: skip
    assert (found["language"], found["license"], found["library_name"]) == ("ru", "apache-2.0", "transformers")
    assert found["metrics"] == ["wer", "cer"]


def test_set_has_one_entry_with_a_metric_per_decoder() -> None:
    (index,) = yaml.safe_load(matter())["model-index"]
    first, second = index["results"]
    assert index["name"] == "XLS-R 1B Russian"
    assert first == {
        "task": {"type": "automatic-speech-recognition", "name": "Automatic Speech Recognition"},
        "dataset": {
            "name": "Common Voice 8.0", "type": "mozilla-foundation/common_voice_8_0", "config": "ru", "split": "test",
        },
        "metrics": [
            {"type": "wer", "value": 10.83, "name": "Test WER, greedy"},
            {"type": "cer", "value": 2.41, "name": "Test CER, greedy"},
            {"type": "wer", "value": 7.08, "name": "Test WER, lm"},
        ],
    }  # fmt: skip
    assert second["dataset"]["revision"] == COMMIT


def test_empty_values_are_omitted() -> None:
    found = yaml.safe_load(
        matter([], language=None, licence=None, base=None, tags=[], datasets=[], metrics=[], library=None)
    )
    assert not found
    assert set(yaml.safe_load(matter([]))) == set(yaml.safe_load(matter())) - {"model-index"}


def test_dataset_args_of_older_cards_are_kept() -> None:
    (index,) = yaml.safe_load(matter([result(1.0, dataset_config=None, dataset_split=None, dataset_args="ru")]))[
        "model-index"
    ]
    assert index["results"][0]["dataset"]["args"] == "ru"


words = st.text(st.characters(categories=["L", "N", "P", "S", "Zs"]), min_size=1, max_size=100)
some_results = st.lists(
    st.builds(
        result,
        st.floats(0, 200, allow_nan=False),
        dataset_type=st.sampled_from(["a/b", "c/d", "own"]),
        dataset_name=st.just("A corpus"),
        dataset_config=st.sampled_from(["ru", "no", None]),
        dataset_split=st.sampled_from(["test", "dev"]),
        dataset_revision=st.sampled_from([COMMIT, None]),
        dataset_args=st.none(),
        metric_type=st.sampled_from(["wer", "cer"]),
        metric_name=words,
    ),
    max_size=6,
)


@given(words, st.sampled_from(["ru", "no", "y", ["ko", "en"]]), st.lists(words), some_results)
@settings(max_examples=30, deadline=None)
def test_hub_client_round_trip_is_unchanged(
    title: str, language: str, tags: list[str], results: list[EvalResult]
) -> None:
    text = matter(results, title=title, language=language, tags=tags)
    loaded = card(text)
    assert loaded.data.language == language
    assert str(loaded) == f"---\n{text}\n---\n\n# A model\n"
    assert sorted(map(repr, loaded.data.eval_results or [])) == sorted(map(repr, results))
    if results:
        assert loaded.data.model_name == title


def test_hub_client_parses_result_files() -> None:
    files = result_files(RESULTS)
    parsed = {name: parse_eval_result_entries(yaml.safe_load(text)) for name, text in files.items()}
    common_voice, event = "mozilla-foundation/common_voice_8_0", "speech-recognition-community-v2/dev_data"
    assert parsed == {
        "mozilla-foundation--common_voice_8_0--ru--test.yaml": [
            EvalResultEntry(common_voice, "ru_test_wer", 10.83, notes="Test WER, greedy"),
            EvalResultEntry(common_voice, "ru_test_cer", 2.41, notes="Test CER, greedy"),
            EvalResultEntry(common_voice, "ru_test_wer", 7.08, notes="Test WER, lm"),
        ],
        "speech-recognition-community-v2--dev_data--ru--validation.yaml": [
            EvalResultEntry(event, "ru_validation_wer", 37.71, COMMIT, notes="Validation WER, greedy"),
        ],
    }


def test_result_file_follows_hub_specification() -> None:
    # Source: eval_results.yaml in the repository huggingface/hub-docs.
    (text,) = result_files(RESULTS[3:]).values()
    (entry,) = yaml.safe_load(text)
    assert entry == {
        "dataset": {
            "id": "speech-recognition-community-v2/dev_data",
            "task_id": "ru_validation_wer",
            "revision": COMMIT,
        },
        "value": 37.71,
        "notes": "Validation WER, greedy",
    }


def test_no_results_give_no_files() -> None:
    assert result_files([]) == {}
