"""Published results: in the configuration, compared with a run, and cards rendered by the template of our cards."""

import copy
import functools
import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import jinja2.meta
import pandas as pd
import pytest
import yaml
from huggingface_hub import EvalResult

from material import ROOT
from speechmill.config.published import Published
from speechmill.config.root import load
from speechmill.core.command import SpeechmillError
from speechmill.report import card_context
from speechmill.report.markdown import Markdown, table
from speechmill.report.model_index import front_matter
from speechmill.report.published_comparison import comparison_table

# The recipes of published models, with their cards, which are compared if they lie next to the clone.
RECIPES = {"ko_zeroth": "wav2vec2-xls-r-1b-korean.md", "ru_common_voice_8": "wav2vec2-xlsr-1b-ru.md"}
SEEDS = ROOT.parent / "shared" / "seeds"


@functools.cache
def _recipe(recipe: str) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load(
        (ROOT / "config" / "recipes" / f"{recipe}.yaml").read_text(encoding="utf-8")
    )
    return config


def raw(recipe: str) -> dict[str, Any]:
    """Return a copy of the recipe that may be changed."""
    return copy.deepcopy(_recipe(recipe))


def published_card(recipe: str) -> Published:
    """Return the published card in the recipe, which is the first entry."""
    return load(raw(recipe)).runs[recipe].published[0]


# In the configuration


def error_message(key: str, value: Any) -> str:
    """Return the error for the Korean recipe with `value` at `key` of its published card."""
    changed = raw("ko_zeroth")
    *path, last = key.split(".")
    node: Any = changed["runs"]["ko_zeroth"]["published"][0]
    for part in path:
        node = node[int(part)] if isinstance(node, list) else node[part]
    node[int(last) if isinstance(node, list) else last] = value
    with pytest.raises(SpeechmillError) as caught:
        load(changed)
    return str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("results.0.set", "zeroth-dve", "zeroth-dve, which `evaluation.sets` lacks; did you mean `zeroth-dev`?"),
        (
            "evaluation.set",
            "other-test",
            "`published` of anantoj/wav2vec2-xls-r-1b-korean refers to other-test, which `evaluation.sets` lacks",
        ),
        ("model", "wav2vec2-xls-r-1b-korean", "runs.ko_zeroth.published.0.model: "),
        ("results.0.metrics", [], "runs.ko_zeroth.published.0.results.0.metrics: "),
        ("results.0.metrics.0.valeu", 1.0, "unknown key `valeu`; did you mean `value`?"),
        ("results.0.protocol", "event", "runs.ko_zeroth.published.0.results.0.protocol: "),
        ("training.rows.3", [1.0, 2.88, 2000, 0.8366], "row 4 of `rows` has 4 cells for 5 `columns`"),
        ("training.rows.3", [1.0, 2.88, 2000, "No log", 0.6], "row 4 of `rows` has `No log` outside the first cell"),
        ("training.rows.3", [1.0, 2.88, 500, 0.8366, 0.6], "the steps, in the third cell of each of `rows`, must be"),
        (
            "training.rows.3",
            [1.0, 2.88, 2000.5, 0.8366, 0.6],
            "the steps, in the third cell of each of `rows`, must be",
        ),
        ("training.columns", ["Step", "Wer"], "`columns` must start with Training Loss, Epoch, Step, Validation Loss"),
        ("versions", {"Pytorch": 1.1}, "runs.ko_zeroth.published.0.versions.Pytorch: "),
    ],
)
def test_invalid_values_are_named(key: str, value: Any, message: str) -> None:
    assert message in error_message(key, value)


def test_no_log_is_allowed_before_the_first_loss() -> None:
    changed = raw("ko_zeroth")
    changed["runs"]["ko_zeroth"]["published"][0]["training"]["rows"][0][0] = "No log"
    section = load(changed).runs["ko_zeroth"].published[0]
    assert section.training is not None
    assert section.training.rows[0][:3] == ["No log", 0.72, 500]


@pytest.mark.parametrize("recipe", RECIPES)
def test_reference_card_survives_json(recipe: str) -> None:
    card = published_card(recipe)
    parsed = Published.model_validate_json(card.model_dump_json())
    assert parsed == card
    assert list(map(str, parsed.hyper_parameters.values())) == list(map(str, card.hyper_parameters.values()))


def test_single_card_needs_no_list() -> None:
    changed = raw("ko_zeroth")
    changed["runs"]["ko_zeroth"]["published"] = changed["runs"]["ko_zeroth"]["published"][0]
    assert load(changed).runs["ko_zeroth"].published == [published_card("ko_zeroth")]


def with_entry(**entry: Any) -> list[Published]:
    """Return `published` of the Korean recipe with another entry at its end."""
    changed = raw("ko_zeroth")
    changed["runs"]["ko_zeroth"]["published"].append(entry)
    return load(changed).runs["ko_zeroth"].published


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"title": "A", "scores": [{"set": "zeroth-test", "wer": 3}]}, "give `source`, where the figures are from"),
        ({"title": "A", "source": "a paper", "scores": [{"set": "zeroth-test"}]}, "give `wer`, `cer`, or both"),
        ({"title": "A", "source": "a paper", "sets": {"Zeroth": "zeroth-test"}}, "`sets` needs `card`"),
        ({"title": "A", "model": "anantoj/wav2vec2-xls-r-1b-korean"}, "lists anantoj/wav2vec2-xls-r-1b-korean twice"),
        ({"card": "missing.md", "source": "a paper"}, "`card`: there is no file missing.md"),
    ],
)
def test_incomplete_entries_are_refused(entry: dict[str, Any], message: str) -> None:
    with pytest.raises(SpeechmillError) as caught:
        with_entry(**entry)
    assert message in str(caught.value)


CARD = """---
language: ko
model-index:
- name: A published model
  results:
  - task: {type: automatic-speech-recognition}
    dataset: {name: Zeroth Korean, type: kresnik/zeroth_korean, config: clean, split: test}
    metrics:
    - {name: Test WER, type: wer, value: 5.5}
    - {name: Test WER (+LM), type: wer, value: 4.5}
    - {name: Test CER (no LM), type: cer, value: 1.5}
  - dataset: {name: Other, type: other}
    metrics: [{type: wer, value: 30}]
---
# A published model
"""


def test_results_are_read_from_a_card_file(tmp_path: Path) -> None:
    path = tmp_path / "card.md"
    path.write_text(CARD, encoding="utf-8")
    found = with_entry(card=str(path), sets={"Zeroth Korean": "zeroth-test"}, differs="It is another model.")[-1]
    assert (found.title, found.where, found.address) == ("A published model", "card.md", None)
    table = comparison_table([found], scores({}, {"decoder": "lm"}), str)
    assert [row[1:4] for row in table[1:]] == [
        ["zeroth-test", "WER %", "5.50"],
        ["zeroth-test", "WER %, with a language model", "4.50"],
        ["zeroth-test", "CER %", "1.50"],
        ["Other", "WER %", "30.00"],
    ]
    # The evidence of a model has the results instead of the path.
    path.unlink()
    assert Published.model_validate(found.model_dump(exclude_unset=True)) == found


@pytest.mark.parametrize(
    ("text", "sets", "message"),
    [
        ("# A card without front matter\n", {}, "has no front matter with a `model-index` and its results"),
        (CARD.replace("model-index", "model"), {}, "has no front matter with a `model-index` and its results"),
        (CARD, {"Zeroth": "zeroth-test"}, "has no results on the dataset Zeroth; did you mean `Zeroth Korean`?"),
    ],
)
def test_card_file_without_the_results_is_refused(
    text: str, sets: dict[str, str], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "card.md"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SpeechmillError) as caught:
        with_entry(card=str(path), sets=sets)
    assert message in str(caught.value)


# Compared with a run


def scores(*rows: dict[str, Any]) -> pd.DataFrame:
    """Return rows of a summary at one step; by default, the set was scored by both protocols."""
    row = {
        "set": "zeroth-test", "decoder": "greedy", "protocol": "plain", "wer": 0.05, "cer": 0.02,
        "wer_plain": 0.05, "cer_plain": 0.02, "wer_robust_speech_event": 0.06, "cer_robust_speech_event": 0.03,
        "clips_scored": 457, "clips_expected": 457, "unavailable": None,
    }  # fmt: skip
    return pd.DataFrame([row | changes for changes in rows])


def compared(section: dict[str, Any], *rows: dict[str, Any]) -> list[list[str]]:
    """Return the comparison table, without heading and first column, for a card with the fields of `section`."""
    card = Published.model_validate({"model": "somebody/model", "title": "A model"} | section)
    table = comparison_table([card], scores(*rows), lambda name: f"<{name}>")
    assert {row[0] for row in table[1:]} == {"somebody/model"}
    return [row[1:] for row in table[1:]]


def result(value: float | None = 5.5, **changed: Any) -> dict[str, Any]:
    metrics = [{"type": "wer", "value": value}]
    return {"set": "zeroth-test", "name": "Zeroth", "type": "kresnik/zeroth_korean", "metrics": metrics} | changed


def test_recipes_are_compared_on_their_sets() -> None:
    sets = ["zeroth-test", "robust_dev_ko-validation", "robust_test_ko-test"]
    table = comparison_table([published_card("ko_zeroth")], scores(*({"set": name} for name in sets)), str)
    assert table[0] == ["Published model", "Set", "Metric", "Published", "This run", "Difference", "Remarks"]
    assert [row[1:6] for row in table[1:]] == [
        ["zeroth-test", "WER %", "4.49", "5.00", "+0.51"],
        ["zeroth-test", "CER %", "–", "2.00", "–"],
        ["robust_dev_ko-validation", "WER %", "82.07", "6.00", "−76.07"],
        ["robust_dev_ko-validation", "CER %", "42.12", "3.00", "−39.12"],
        ["robust_test_ko-test", "WER %", "82.09", "6.00", "−76.09"],
        ["robust_test_ko-test", "CER %", "–", "3.00", "–"],
    ]
    remarks = [row[6] for row in table[1:]]
    assert "456 of the 457 clips" in remarks[0]
    assert remarks[1] == remarks[5] == "not published"
    assert remarks[2] == ""
    assert "chunks" in remarks[4]


def test_rates_are_compared_by_their_protocol() -> None:
    body = compared({"evaluation": {"set": "zeroth-test", "wer": 0.04, "cer": 0.01}}, {})
    assert [row[2:] for row in body] == [["4.00", "5.00", "+1.00", ""], ["1.00", "2.00", "+1.00", ""]]
    index = compared({"results": [result()]}, {})
    assert index[0][2:] == ["5.50", "6.00", "+0.50", ""]
    plain = compared({"results": [result(protocol="plain")]}, {})
    assert plain[0][2:] == ["5.50", "5.00", "−0.50", ""]


def test_different_protocol_is_remarked() -> None:
    absent = {"wer_robust_speech_event": math.nan, "cer_robust_speech_event": math.nan}
    (row, _) = compared({"results": [result()]}, absent)
    assert row[3:] == ["5.00", "−0.50", "scored here by the protocol plain, published by robust_speech_event"]


def test_missing_clips_are_remarked() -> None:
    (row, _) = compared({"results": [result(remark="from memory")]}, {"clips_scored": 1455, "clips_expected": 1457})
    assert row[5] == "from memory; 1,455 of 1,457 clips scored here"


def test_unavailable_set_has_a_reason_and_no_rate() -> None:
    absent = dict.fromkeys(["wer", "cer", "wer_plain", "wer_robust_speech_event"], math.nan)
    (row, _) = compared({"results": [result()]}, absent | {"unavailable": "needs a token", "clips_scored": 0})
    assert row[2:] == ["5.50", "–", "–", "not available here: needs a token"]


def test_lm_rates_are_compared_with_lm_rates() -> None:
    metrics = [{"type": "wer", "value": 9.82}, {"type": "wer", "value": 7.08, "decoder": "lm"}]
    section = {"results": [result(metrics=metrics)]}
    rows = compared(section, {}, {"decoder": "lm", "wer_robust_speech_event": 0.08})
    assert [row[:5] for row in rows] == [
        ["<zeroth-test>", "WER %", "9.82", "6.00", "−3.82"],
        ["<zeroth-test>", "WER %, with a language model", "7.08", "8.00", "+0.92"],
        ["<zeroth-test>", "CER %", "–", "3.00", "–"],
    ]
    assert compared(section, {})[1][3:] == ["–", "–", "not scored here with the decoder lm"]


def test_scores_without_a_card_are_compared() -> None:
    section = {"scores": [{"set": "zeroth-test", "wer": 4.74, "remark": "other text rules"}]}
    assert compared(section, {}) == [
        ["<zeroth-test>", "WER %", "4.74", "5.00", "+0.26", "other text rules"],
        ["<zeroth-test>", "CER %", "–", "2.00", "–", "not published"],
    ]


def test_unscored_set_has_the_name_of_the_card() -> None:
    section = {"evaluation": {"wer": 0.0971, "loss": 0.1352}, "results": [result(set=None)]}
    assert compared(section, {}) == [
        ["evaluation set of the published model", "WER %", "9.71", "–", "–", "not scored here"],
        ["Zeroth", "WER %", "5.50", "–", "–", "not scored here"],
    ]


def test_rate_in_another_part_of_the_card_is_published() -> None:
    metrics = [{"type": "wer", "value": 5.5}, {"type": "cer", "value": 2.5}]
    section = {"evaluation": {"set": "zeroth-test", "wer": 0.04}, "results": [result(metrics=metrics)]}
    published = [f"{metric} {value}" for _, metric, value, *_ in compared(section, {})]
    assert published == ["WER % 4.00", "WER % 5.50", "CER % 2.50"]


def test_rounded_equal_rates_have_zero_difference() -> None:
    (row, _) = compared({"results": [result(6.004)]}, {})
    assert row[2:5] == ["6.00", "6.00", "+0.00"]


# Rendered by the template of our cards


class CardContent(NamedTuple):
    """The content of a card, as in its text."""

    front_matter: dict[str, Any]
    base: str
    trained_on: str
    evaluation: dict[str, str]
    hyper_parameters: list[tuple[str, str]]
    training: list[list[str]]
    versions: list[tuple[str, str]]


def parse(text: str) -> CardContent:
    _, front, body = text.split("---\n", 2)
    sections = dict(re.findall(r"^#+ (.*)\n((?:(?!#).*\n?)*)", body, re.MULTILINE))
    (opening,) = re.findall(r"fine-tuned version of [\[`](.*?)[\]`].*? on (.*)\.\n.*\n((?:- .*\n)+)", body)
    figures = dict(line[2:].split(": ") for line in opening[2].splitlines())
    table = [line.strip("|") for line in sections["Training results"].splitlines() if line.startswith("| ")]

    def listed(heading: str, separator: str) -> list[tuple[str, str]]:
        lines = [line[2:] for line in sections[heading].splitlines() if line.startswith("- ")]
        return [(name, value) for name, _, value in (line.partition(separator) for line in lines)]

    return CardContent(
        front_matter=yaml.safe_load(front),
        base=opening[0],
        trained_on=opening[1],
        evaluation={name: value for name, value in figures.items() if value != "nan"},
        hyper_parameters=listed("Training hyperparameters", ": "),
        training=[[cell.strip() for cell in line.split("|")] for line in table],
        versions=listed("Framework versions", " "),
    )


def known(**items: Any) -> dict[str, Any]:
    return {name: value for name, value in items.items() if value not in (None, [])}


def training_rows(section: Published) -> list[list[str]]:
    """Return the training table as the Trainer prints it, with four decimals for evaluated values."""
    assert section.training is not None
    rows = [[*map(str, row[:3]), *(f"{cell:.4f}" for cell in row[3:])] for row in section.training.rows]
    return [section.training.columns, *rows]


def expected(section: Published) -> CardContent:
    """Return the content of a card with the fields of `section`."""
    entries = [
        {
            "task": known(type=each.task, name=each.task_name),
            "dataset": known(
                name=each.name, type=each.type, args=each.args, config=each.config, split=each.split,
                revision=each.revision,
            ),
            "metrics": [known(type=metric.type, name=metric.name, value=metric.value) for metric in each.metrics],
        }
        for each in section.results
    ]  # fmt: skip
    assert section.evaluation is not None
    figures = known(Loss=section.evaluation.loss, Wer=section.evaluation.wer, Cer=section.evaluation.cer)
    return CardContent(
        front_matter=known(
            language=section.language, license=section.licence, library_name=section.library,
            base_model=section.base_model, tags=section.tags, datasets=section.datasets, metrics=section.metrics,
        )
        | {"model-index": [{"name": section.title, "results": entries}]},
        base=str(section.base),
        trained_on=str(section.trained_on),
        evaluation={name: f"{value:.4f}" for name, value in figures.items()},
        hyper_parameters=[(name, str(value)) for name, value in section.hyper_parameters.items()],
        training=training_rows(section),
        versions=list(section.versions.items()),
    )  # fmt: skip


def our_card(section: Published) -> str:
    """Return a card by our template with the fields of `section` and nothing else."""
    results = [
        EvalResult(
            task_type=each.task, task_name=each.task_name, dataset_type=each.type, dataset_name=each.name,
            dataset_args=each.args, dataset_config=each.config, dataset_split=each.split,
            dataset_revision=each.revision, metric_type=metric.type, metric_name=metric.name,
            metric_value=metric.value,
        )
        for each in section.results
        for metric in each.metrics
    ]  # fmt: skip
    matter = front_matter(
        title=section.title, language=section.language, licence=section.licence, base=section.base_model,
        library=section.library, tags=section.tags, datasets=section.datasets, metrics=section.metrics,
        results=results,
    )  # fmt: skip
    assert section.evaluation is not None
    figures = {key: getattr(section.evaluation, key) for key in ("loss", "wer", "cer")}
    template = card_context.TEMPLATE.read_text(encoding="utf-8")
    names = jinja2.meta.find_undeclared_variables(card_context.template_environment().parse(template))
    return card_context.render(
        dict.fromkeys(names, "")
        | {
            "front_matter": Markdown(matter),
            "title": section.title,
            "base": section.base,
            "base_source": {"commit": None},
            "train": [section.trained_on],
            "selection": {"set": "", "decoder": "greedy", "metric": "wer"},
            "rates": ["wer", "cer"],
            "score": {key: math.nan if value is None else value for key, value in figures.items()},
            "training": {
                "parameters": 0,
                "wall_seconds": 0.0,
                "sessions": 1,
                "hardware": {"device": "", "processor": "", "threads": 0},
                "hyper_parameters": section.hyper_parameters,
                "versions": section.versions,
            },
            "training_results": table(training_rows(section)),
            "plan": {"hours": 0.0, "epochs": 0, "checkpoints": []},
            "kept": 0,
            "scoring_seconds": 0.0,
        }
    )


@pytest.mark.parametrize("recipe", RECIPES)
def test_our_card_has_all_content_of_published_cards(recipe: str) -> None:
    section = published_card(recipe)
    assert parse(our_card(section)) == expected(section)


def test_recipes_have_all_content_of_published_cards() -> None:
    for recipe, seed in RECIPES.items():
        if (SEEDS / seed).is_file():
            assert parse(our_card(published_card(recipe))) == parse((SEEDS / seed).read_text(encoding="utf-8"))
