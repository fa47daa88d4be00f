"""Published cards: in the configuration, compared with a run, and rendered by the template of our cards."""

import copy
import functools
import math
import re
from typing import Any, NamedTuple

import jinja2
import jinja2.meta
import pandas as pd
import pytest
import yaml
from huggingface_hub import EvalResult

from material import ROOT
from speechmill.config.reference_card import ReferenceCard
from speechmill.config.root import load
from speechmill.core.command import SpeechmillError
from speechmill.report import card_context
from speechmill.report.markdown import Markdown, table
from speechmill.report.model_index import front_matter
from speechmill.report.reference_comparison import comparison_table

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


def reference_card(recipe: str) -> ReferenceCard:
    """Return the published card in the recipe."""
    card = load(raw(recipe)).runs[recipe].reference_card
    assert card is not None
    return card


# In the configuration


def error_message(key: str, value: Any) -> str:
    """Return the error for the Korean recipe with `value` at `key` of its `reference_card`."""
    changed = raw("ko_zeroth")
    *path, last = key.split(".")
    node: Any = changed["runs"]["ko_zeroth"]["reference_card"]
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
            "`reference_card` refers to other-test, which `evaluation.sets` lacks",
        ),
        ("model", "wav2vec2-xls-r-1b-korean", "runs.ko_zeroth.reference_card.model: "),
        ("results.0.metrics", [], "runs.ko_zeroth.reference_card.results.0.metrics: "),
        ("results.0.metrics.0.valeu", 1.0, "unknown key `valeu`; did you mean `value`?"),
        ("results.0.protocol", "event", "runs.ko_zeroth.reference_card.results.0.protocol: "),
        ("training.rows.3", [1.0, 2.88, 2000, 0.8366], "row 4 of `rows` has 4 cells for 5 `columns`"),
        ("training.rows.3", [1.0, 2.88, 2000, "No log", 0.6], "row 4 of `rows` has `No log` outside the first cell"),
        ("training.rows.3", [1.0, 2.88, 500, 0.8366, 0.6], "the steps, in the third cell of each of `rows`, must be"),
        (
            "training.rows.3",
            [1.0, 2.88, 2000.5, 0.8366, 0.6],
            "the steps, in the third cell of each of `rows`, must be",
        ),
        ("training.columns", ["Step", "Wer"], "`columns` must start with Training Loss, Epoch, Step, Validation Loss"),
        ("versions", {"Pytorch": 1.1}, "runs.ko_zeroth.reference_card.versions.Pytorch: "),
    ],
)
def test_invalid_values_are_named(key: str, value: Any, message: str) -> None:
    assert message in error_message(key, value)


def test_no_log_is_allowed_before_the_first_loss() -> None:
    changed = raw("ko_zeroth")
    changed["runs"]["ko_zeroth"]["reference_card"]["training"]["rows"][0][0] = "No log"
    section = load(changed).runs["ko_zeroth"].reference_card
    assert section is not None
    assert section.training is not None
    assert section.training.rows[0][:3] == ["No log", 0.72, 500]


@pytest.mark.parametrize("recipe", RECIPES)
def test_reference_card_survives_json(recipe: str) -> None:
    card = reference_card(recipe)
    parsed = ReferenceCard.model_validate_json(card.model_dump_json())
    assert parsed == card
    assert list(map(str, parsed.hyper_parameters.values())) == list(map(str, card.hyper_parameters.values()))


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
    """Return the comparison table without its heading for a card with the fields of `section`."""
    card = ReferenceCard.model_validate({"model": "somebody/model", "title": "A model"} | section)
    return comparison_table(card, scores(*rows), lambda name: f"<{name}>")[1:]


def result(value: float | None = 5.5, **changed: Any) -> dict[str, Any]:
    metrics = [{"type": "wer", "value": value}]
    return {"set": "zeroth-test", "name": "Zeroth", "type": "kresnik/zeroth_korean", "metrics": metrics} | changed


def test_recipes_are_compared_on_their_sets() -> None:
    sets = ["zeroth-test", "robust_dev_ko-validation", "robust_test_ko-test"]
    table = comparison_table(reference_card("ko_zeroth"), scores(*({"set": name} for name in sets)), str)
    assert table[0] == ["Set", "Metric", "Published", "This run", "Difference", "Remarks"]
    assert [row[:5] for row in table[1:]] == [
        ["zeroth-test", "WER %", "4.49", "5.00", "+0.51"],
        ["zeroth-test", "CER %", "–", "2.00", "–"],
        ["robust_dev_ko-validation", "WER %", "82.07", "6.00", "−76.07"],
        ["robust_dev_ko-validation", "CER %", "42.12", "3.00", "−39.12"],
        ["robust_test_ko-test", "WER %", "82.09", "6.00", "−76.09"],
        ["robust_test_ko-test", "CER %", "–", "3.00", "–"],
    ]
    remarks = [row[5] for row in table[1:]]
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


def training_rows(section: ReferenceCard) -> list[list[str]]:
    """Return the training table as the Trainer prints it, with four decimals for evaluated values."""
    assert section.training is not None
    rows = [[*map(str, row[:3]), *(f"{cell:.4f}" for cell in row[3:])] for row in section.training.rows]
    return [section.training.columns, *rows]


def expected(section: ReferenceCard) -> CardContent:
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


def our_card(section: ReferenceCard) -> str:
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
    section = reference_card(recipe)
    assert parse(our_card(section)) == expected(section)


def test_recipes_have_all_content_of_published_cards() -> None:
    for recipe, seed in RECIPES.items():
        if (SEEDS / seed).is_file():
            assert parse(our_card(reference_card(recipe))) == parse((SEEDS / seed).read_text(encoding="utf-8"))
