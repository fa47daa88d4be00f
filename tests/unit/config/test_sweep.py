"""Sweeps: the runs that are made of a matrix of values, and errors in it."""

import copy
from typing import Any

import pytest
import yaml

from material import ROOT
from speechmill.config.base import MAX_NAME_LENGTH
from speechmill.config.root import Config, load
from speechmill.core.command import SpeechmillError
from speechmill.dag import stage_settings

DEMO = yaml.safe_load((ROOT / "config" / "config.yaml").read_text(encoding="utf-8"))
RATES = "finetune.learning_rate"


def sweep(matrix: Any, name: str = "demo", datasets: dict[str, Any] | None = None, **changes: Any) -> Config:
    """Return the demo's configuration with `matrix` as the sweep of its run, which is called `name`."""
    raw = copy.deepcopy(DEMO)
    raw["runs"] = {name: raw["runs"]["demo_ru"] | {"sweep": matrix} | changes}
    raw["datasets"] |= datasets or {}
    return load(raw)


def error(matrix: Any, **changes: Any) -> str:
    """Return the error message for a sweep."""
    with pytest.raises(SpeechmillError) as caught:
        sweep(matrix, **changes)
    return str(caught.value)


def test_matrix_becomes_one_run_for_each_combination() -> None:
    config = sweep({RATES: ["1e-5", 3e-5], "seed": [1, 2, 3]})
    assert list(config.runs) == [f"demo_lr{rate}_seed{seed}" for rate in ("1e_5", "3e_5") for seed in (1, 2, 3)]
    run = config.runs["demo_lr3e_5_seed2"]
    assert run.finetune is not None
    assert run.plan is not None
    assert (run.finetune.learning_rate, run.plan.seed, run.sweep) == (3e-5, 2, None)


def test_other_keys_of_a_section_stay() -> None:
    original, (run,) = load(DEMO).runs["demo_ru"], sweep({"seed": [7]}).runs.values()
    assert run.plan is not None
    assert original.plan is not None
    assert run.plan == original.plan.model_copy(update={"seed": 7})
    assert run.finetune == original.finetune


def test_runs_of_another_seed() -> None:
    (found,) = sweep({RATES: [1e-5, 3e-5], "seed": [1, 2, 3]}).sweeps
    assert found.other_seeds("demo_lr1e_5_seed2") == ["demo_lr1e_5_seed1", "demo_lr1e_5_seed3"]
    assert found.without_seed("demo_lr1e_5_seed2") == {RATES: 1e-5}


def test_description_has_what_differs_and_no_path() -> None:
    sizes = [{"init": {"model_type": "wav2vec2", "hidden_size": size}} for size in (16, 32)]
    (found,) = sweep({"model": [*sizes, {"base": "~/models/mine"}], "seed": [1]}).sweeps
    assert [found.description(run) for run in found.points] == [
        {"model": "init.model_type: wav2vec2, init.hidden_size: 16"},
        {"model": "init.model_type: wav2vec2, init.hidden_size: 32"},
        {"model": "base: mine"},
    ]
    (found,) = sweep({"model": sizes}).sweeps
    assert [found.description(run)["model"] for run in found.points] == ["init.hidden_size: 16", "init.hidden_size: 32"]


def test_plan_seed_is_the_seed() -> None:
    (found,) = sweep({"plan.seed": [1, 2]}).sweeps
    assert list(found.points) == ["demo_seed1", "demo_seed2"]
    assert found.other_seeds("demo_seed1") == ["demo_seed2"]


def test_values_may_be_sections() -> None:
    bases = [{"base": "facebook/wav2vec2-xls-r-300m", "revision": "a"}, {"base": "~/w2v-bert-2.0"}]
    config = sweep({"model": bases})
    assert [run.model.base for run in config.runs.values()] == ["facebook/wav2vec2-xls-r-300m", "~/w2v-bert-2.0"]
    assert list(config.runs) == ["demo_model_wav2vec2_xls_r_300m", "demo_model_w2v_bert_2_0"]


def test_key_within_a_section_that_is_swept_too() -> None:
    sizes = [{"model_type": "wav2vec2", "hidden_size": size} for size in (16, 32)]
    config = sweep({"model.init.num_hidden_layers": [1, 2], "model": [{"init": size} for size in sizes]})
    assert [run.model.init and run.model.init["num_hidden_layers"] for run in config.runs.values()] == [1, 1, 2, 2]


@pytest.mark.parametrize(
    ("matrix", "names"),
    [
        ({"seed": [-1, 1]}, ["demo_seed1", "demo_seed2"]),
        ({"card.title": ["Первая", "Вторая"]}, ["demo_title1", "demo_title2"]),
        ({"plan.batch": [{"clips": 4}, {"seconds": 10}]}, ["demo_batch4", "demo_batch10"]),
        ({RATES: [0.0001, 1.5]}, ["demo_lr0_0001", "demo_lr1_5"]),
        ({"model": [{"base": f"a/{'x' * 40}{i}", "revision": "r"} for i in (3, 4)]}, ["demo_model1", "demo_model2"]),
    ],
    ids=["same without a sign", "no Latin letters", "sections", "numbers", "too long"],
)
def test_names_are_unique_and_valid(matrix: dict[str, Any], names: list[str]) -> None:
    assert list(sweep(matrix).runs) == names


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        ({"finetune.lerning_rate": [1]}, "runs.demo.sweep.finetune.lerning_rate: unknown key"),
        ({"finetune.lerning_rate": [1]}, "did you mean `finetune.learning_rate`?"),
        ({"finetun.learning_rate": [1]}, "did you mean `finetun"),
        ({"sead": [1]}, "runs.demo.sweep.sead: unknown key `sead`;"),
        ({"sweep": [1]}, "runs.demo.sweep.sweep: unknown key"),
        ({"seed.x": [1]}, "unknown key `seed.x`"),
        ({"plan.seed.x": [1]}, "plan.seed is no section"),
        ({RATES: []}, f"runs.demo.sweep.{RATES}: give a list with at least one value"),
        ({RATES: 1e-5}, f"runs.demo.sweep.{RATES}: give a list"),
        ({"seed": "123"}, "runs.demo.sweep.seed: give a list"),
        ({RATES: [1e-5, "1e-5"]}, f"runs.demo.sweep.{RATES}: 1e-5 is listed twice"),
        ({"seed": [1], "plan.seed": [2]}, "runs.demo.sweep.seed: it is short for `plan.seed`"),
        ({}, "runs.demo.sweep: give lists of values by key"),
        ([1], "runs.demo.sweep: give lists of values by key"),
        ({"seed": ["one"]}, "runs.demo_seed_one.plan.seed: "),
    ],
)
def test_error_names_the_key(matrix: Any, message: str) -> None:
    assert message in error(matrix)


def test_name_that_is_too_long() -> None:
    assert f"more than {MAX_NAME_LENGTH} characters" in error({"seed": [1]}, name="x" * MAX_NAME_LENGTH)


def test_every_run_would_be_published_to_one_repository() -> None:
    assert "runs.demo.sweep: `publish` would" in error({"seed": [1]}, publish={"repo": "owner/name"})


def test_name_of_another_run() -> None:
    raw = copy.deepcopy(DEMO)
    raw["runs"] = {"demo": raw["runs"]["demo_ru"] | {"sweep": {"seed": [1]}}, "demo_seed1": raw["runs"]["demo_ru"]}
    with pytest.raises(SpeechmillError, match="two runs demo_seed1"):
        load(raw)


def test_reference_to_a_sweep_lists_its_runs() -> None:
    raw = copy.deepcopy(DEMO)
    first = raw["runs"]["demo_ru"]
    raw["runs"] = {"demo": first | {"sweep": {"seed": [1, 2]}}, "next": first | {"model": {"run": "demo"}}}
    with pytest.raises(SpeechmillError) as caught:
        load(raw)
    assert "runs.next.model.run: demo is a sweep; name one of its runs: demo_seed1, demo_seed2" in str(caught.value)
    raw["runs"]["next"]["model"]["run"] = "demo_seed2"
    raw["runs"]["next"]["evaluation"] = first["evaluation"] | {"compare": ["demo"]}
    with pytest.raises(
        SpeechmillError, match=r"runs\.next\.evaluation\.compare: demo is a sweep; name one of its runs"
    ):
        load(raw)
    raw["runs"]["next"]["evaluation"]["compare"] = ["demo_seed1", "demo_seed2"]
    assert load(raw).runs["next"].model.run == "demo_seed2"


def test_transcription_by_a_sweep() -> None:
    by = {"source": "transcribe", "of": "demo_ru", "by": "demo", "splits": ["train"]}
    assert "datasets.more.by: demo is a sweep" in error({"seed": [1]}, datasets={"more": by})


def test_reproduction_contains_the_run_of_the_sweep() -> None:
    config = sweep({RATES: ["1e-5", "3e-5"], "seed": [1, 2]})
    name = "demo_lr3e_5_seed2"
    again = load(yaml.safe_load(stage_settings.reproduction(config, name)))
    assert list(again.runs) == [name]
    assert again.runs[name] == config.runs[name]
    assert stage_settings.finetune(again, name) == stage_settings.finetune(config, name)
