"""What published cards say: in the configuration, beside our own figures, and expressed by our card."""

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
from speechmill.config.reference_card import ReferenceCard
from speechmill.config.root import load
from speechmill.core.command import SpeechmillError
from speechmill.report import card
from speechmill.report.model_index import front_matter
from speechmill.report.reference_comparison import side_by_side

# The recipes of the published runs, and their cards where these lie beside the clone.
RECIPES = {"ko_zeroth": "wav2vec2-xls-r-1b-korean.md", "ru_common_voice_8": "wav2vec2-xlsr-1b-ru.md"}
SEEDS = ROOT.parent / "shared" / "seeds"


@functools.cache
def _recipe(recipe: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "config" / "recipes" / f"{recipe}.yaml").read_text(encoding="utf-8"))
    return found


def raw(recipe: str) -> dict[str, Any]:
    """The recipe, to be changed at will."""
    return copy.deepcopy(_recipe(recipe))


def published(recipe: str) -> ReferenceCard:
    """What the recipe holds of the published card."""
    found = load(raw(recipe)).runs[recipe].published
    assert found is not None
    return found


# In the configuration


def faults(place: str, value: Any) -> str:
    """What is said of the Korean recipe with `value` at `place` of its section."""
    changed = raw("ko_zeroth")
    *path, last = place.split(".")
    node: Any = changed["runs"]["ko_zeroth"]["published"]
    for part in path:
        node = node[int(part)] if isinstance(node, list) else node[part]
    node[int(last) if isinstance(node, list) else last] = value
    with pytest.raises(SpeechmillError) as caught:
        load(changed)
    return str(caught.value)


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ("results.0.set", "zeroth-dve", "zeroth-dve, which `evaluation.sets` lacks; did you mean `zeroth-dev`?"),
        ("evaluation.set", "other-test", "`published` holds figures against other-test, which `evaluation.sets` lacks"),
        ("model", "wav2vec2-xls-r-1b-korean", "runs.ko_zeroth.published.model: "),
        ("results.0.metrics", [], "runs.ko_zeroth.published.results.0.metrics: "),
        ("results.0.metrics.0.valeu", 1.0, "unknown key `valeu`; did you mean `value`?"),
        ("results.0.protocol", "event", "runs.ko_zeroth.published.results.0.protocol: "),
        ("training.rows.3", [1.0, 2.88, 2000, 0.8366], "row 4 of `rows` has 4 cells, and `columns` are 5"),
        ("training.rows.3", [1.0, 2.88, 2000, "No log", 0.6], "row 4 of `rows` says `No log` elsewhere than in"),
        ("training.rows.3", [1.0, 2.88, 500, 0.8366, 0.6], "the steps, in the third cell of each of `rows`, are whole"),
        ("training.rows.3", [1.0, 2.88, 2000.5, 0.8366, 0.6], "the steps, in the third cell of each of `rows`, are"),
        ("training.columns", ["Step", "Wer"], "`columns` begin with Training Loss, Epoch, Step, Validation Loss"),
        ("versions", {"Pytorch": 1.1}, "runs.ko_zeroth.published.versions.Pytorch: "),
    ],
)
def test_what_cannot_be_right_is_named(place: str, value: Any, said: str) -> None:
    assert said in faults(place, value)


def test_a_row_before_the_first_training_loss_says_so_as_the_card_does() -> None:
    changed = raw("ko_zeroth")
    changed["runs"]["ko_zeroth"]["published"]["training"]["rows"][0][0] = "No log"
    section = load(changed).runs["ko_zeroth"].published
    assert section is not None
    assert section.training is not None
    assert section.training.rows[0][:3] == ["No log", 0.72, 500]


@pytest.mark.parametrize("recipe", RECIPES)
def test_what_goes_to_a_stage_as_json_comes_back_the_same(recipe: str) -> None:
    found = published(recipe)
    again = ReferenceCard.model_validate_json(found.model_dump_json())
    assert again == found
    assert list(map(str, again.hyper_parameters.values())) == list(map(str, found.hyper_parameters.values()))


# Beside our own figures


def scores(*rows: dict[str, Any]) -> pd.DataFrame:
    """Rows of a summary at one step, of a set that was scored by both protocols unless said."""
    whole = {
        "set": "zeroth-test", "decoder": "greedy", "protocol": "plain", "wer": 0.05, "cer": 0.02,
        "wer_plain": 0.05, "cer_plain": 0.02, "wer_robust_speech_event": 0.06, "cer_robust_speech_event": 0.03,
        "clips_scored": 457, "clips_expected": 457, "unavailable": None,
    }  # fmt: skip
    return pd.DataFrame([whole | row for row in rows])


def compared(section: dict[str, Any], *rows: dict[str, Any]) -> list[list[str]]:
    """The table without its heading, for a card that says what is in `section`."""
    settings = ReferenceCard.model_validate({"model": "somebody/model", "title": "A model"} | section)
    return side_by_side(settings, scores(*rows), lambda name: f"<{name}>")[1:]


def result(value: float | None = 5.5, **changed: Any) -> dict[str, Any]:
    metrics = [{"type": "wer", "value": value}]
    return {"set": "zeroth-test", "name": "Zeroth", "type": "kresnik/zeroth_korean", "metrics": metrics} | changed


def test_the_published_recipes_are_held_against_the_sets_that_they_score() -> None:
    sets = ["zeroth-test", "robust_dev_ko-validation", "robust_test_ko-test"]
    table = side_by_side(published("ko_zeroth"), scores(*({"set": name} for name in sets)), str)
    assert table[0] == ["Set", "Metric", "Published", "Ours", "Difference", "Remarks"]
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


def test_the_figures_of_the_event_are_compared_by_its_protocol_and_those_of_the_trainer_by_our_own() -> None:
    body = compared({"evaluation": {"set": "zeroth-test", "wer": 0.04, "cer": 0.01}}, {})
    assert [row[2:] for row in body] == [["4.00", "5.00", "+1.00", ""], ["1.00", "2.00", "+1.00", ""]]
    index = compared({"results": [result()]}, {})
    assert index[0][2:] == ["5.50", "6.00", "+0.50", ""]
    plain = compared({"results": [result(protocol="plain")]}, {})
    assert plain[0][2:] == ["5.50", "5.00", "−0.50", ""]


def test_another_protocol_than_the_published_one_is_said() -> None:
    absent = {"wer_robust_speech_event": math.nan, "cer_robust_speech_event": math.nan}
    (row, _) = compared({"results": [result()]}, absent)
    assert row[3:] == ["5.00", "−0.50", "ours by the protocol `plain`, the published one by `robust_speech_event`"]


def test_clips_that_could_not_be_read_are_said() -> None:
    (row, _) = compared({"results": [result(remark="from memory")]}, {"clips_scored": 1455, "clips_expected": 1457})
    assert row[5] == "from memory; ours on 1,455 of 1,457 clips"


def test_a_set_that_could_not_be_had_has_no_figure_and_its_reason() -> None:
    absent = dict.fromkeys(["wer", "cer", "wer_plain", "wer_robust_speech_event"], math.nan)
    (row, _) = compared({"results": [result()]}, absent | {"unavailable": "needs a token", "clips_scored": 0})
    assert row[2:] == ["5.50", "–", "–", "not available here: needs a token"]


def test_what_was_decoded_with_a_language_model_is_held_against_the_same() -> None:
    metrics = [{"type": "wer", "value": 9.82}, {"type": "wer", "value": 7.08, "decoder": "lm"}]
    section = {"results": [result(metrics=metrics)]}
    rows = compared(section, {}, {"decoder": "lm", "wer_robust_speech_event": 0.08})
    assert [row[:5] for row in rows] == [
        ["<zeroth-test>", "WER %", "9.82", "6.00", "−3.82"],
        ["<zeroth-test>", "WER %, with a language model", "7.08", "8.00", "+0.92"],
        ["<zeroth-test>", "CER %", "–", "3.00", "–"],
    ]
    assert compared(section, {})[1][3:] == ["–", "–", "not scored here by the decoder `lm`"]


def test_a_published_set_that_is_not_scored_here_has_its_own_name() -> None:
    section = {"evaluation": {"wer": 0.0971, "loss": 0.1352}, "results": [result(set=None)]}
    assert compared(section, {}) == [
        ["its own evaluation set", "WER %", "9.71", "–", "–", "not scored here"],
        ["Zeroth", "WER %", "5.50", "–", "–", "not scored here"],
    ]


def test_a_figure_that_one_part_of_the_card_has_is_not_called_unpublished_by_another() -> None:
    metrics = [{"type": "wer", "value": 5.5}, {"type": "cer", "value": 2.5}]
    section = {"evaluation": {"set": "zeroth-test", "wer": 0.04}, "results": [result(metrics=metrics)]}
    told = [f"{metric} {value}" for _, metric, value, *_ in compared(section, {})]
    assert told == ["WER % 4.00", "WER % 5.50", "CER % 2.50"]


def test_what_is_equal_to_two_decimals_differs_by_nothing() -> None:
    (row, _) = compared({"results": [result(6.004)]}, {})
    assert row[2:5] == ["6.00", "6.00", "+0.00"]


# Expressed by our card


class Said(NamedTuple):
    """What a card says, as its text has it."""

    front_matter: dict[str, Any]
    base: str
    trained_on: str
    evaluation: dict[str, str]
    hyper_parameters: list[tuple[str, str]]
    training: list[list[str]]
    versions: list[tuple[str, str]]


def read(text: str) -> Said:
    _, front, body = text.split("---\n", 2)
    sections = dict(re.findall(r"^#+ (.*)\n((?:(?!#).*\n?)*)", body, re.MULTILINE))
    (opening,) = re.findall(r"fine-tuned version of [\[`](.*?)[\]`].*? on (.*)\.\n.*\n((?:- .*\n)+)", body)
    figures = dict(line[2:].split(": ") for line in opening[2].splitlines())
    table = [line.strip("|") for line in sections["Training results"].splitlines() if line.startswith("| ")]

    def listed(heading: str, separator: str) -> list[tuple[str, str]]:
        lines = [line[2:] for line in sections[heading].splitlines() if line.startswith("- ")]
        return [(name, value) for name, _, value in (line.partition(separator) for line in lines)]

    return Said(
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
    """The training table as the Trainer prints it: what is logged as it is, what is evaluated with four decimals."""
    assert section.training is not None
    rows = [[*map(str, row[:3]), *(f"{cell:.4f}" for cell in row[3:])] for row in section.training.rows]
    return [section.training.columns, *rows]


def expected(section: ReferenceCard) -> Said:
    """What a card must say that says what `section` does."""
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
    return Said(
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


def in_our_card(section: ReferenceCard) -> str:
    """A card by our template that says what `section` does, and of all else nothing."""
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
    template = (Path(card.__file__).parents[1] / "templates" / "card.md.j2").read_text(encoding="utf-8")
    names = jinja2.meta.find_undeclared_variables(jinja2.Environment().parse(template))
    return card.render(
        dict.fromkeys(names, "")
        | {
            "front_matter": matter,
            "card": {"title": section.title, "description": "", "uses": ""},
            "base": section.base,
            "base_source": {"commit": None},
            "train": section.trained_on,
            "selection": {"set": "", "decoder": "greedy", "metric": "wer"},
            "score": {key: math.nan if value is None else value for key, value in figures.items()},
            "training": {
                "parameters": 0,
                "wall_seconds": 0.0,
                "hardware": {"device": "", "processor": "", "threads": 0},
                "hyper_parameters": section.hyper_parameters,
                "versions": section.versions,
            },
            "training_results": card.table(training_rows(section)),
            "plan": {"hours": 0.0, "epochs": 0, "checkpoints": []},
            "kept": 0,
            "scoring_seconds": 0.0,
        }
    )


@pytest.mark.parametrize("recipe", RECIPES)
def test_our_card_says_all_that_a_published_card_does(recipe: str) -> None:
    section = published(recipe)
    assert read(in_our_card(section)) == expected(section)


def test_the_recipes_have_all_that_the_published_cards_say() -> None:
    for recipe, seed in RECIPES.items():
        if (SEEDS / seed).is_file():
            assert read(in_our_card(published(recipe))) == read((SEEDS / seed).read_text(encoding="utf-8"))
