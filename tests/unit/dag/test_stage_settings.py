"""A stage runs again when its slice changes: what is in a slice, and what must not be."""

import copy
import json
from typing import Any

import pytest
import yaml

from material import ROOT
from speechmill.config.root import load
from speechmill.dag import stage_settings
from speechmill.training.plan import PlanSettings

DEMO = yaml.safe_load((ROOT / "config" / "config.yaml").read_text(encoding="utf-8"))


def changed(**sections: Any) -> dict[str, str]:
    """The slices of what trains, of the demo with its run's sections changed."""
    raw = copy.deepcopy(DEMO)
    run = raw["runs"]["demo_ru"]
    for name, value in sections.items():
        run[name] = run.get(name, {}) | value if isinstance(value, dict) else value
    config = load(raw)
    return {stage.__name__: stage(config, "demo_ru") for stage in (stage_settings.plan, stage_settings.finetune, stage_settings.pace)}


@pytest.mark.parametrize(
    ("change", "stages"),
    [
        ({"finetune": {"learning_rate": 0.5}}, {"finetune"}),
        ({"finetune": {"threads": 7}}, {"finetune"}),
        ({"augment": {"noise": {"probability": 0.5, "snr_db": [0, 5]}}}, {"finetune"}),
        ({"augment": {"speed": [0.9, 1.0]}}, {"plan", "finetune"}),
        ({"finetune": {"precision": "bf16"}}, {"plan", "finetune"}),
        ({"finetune": {"gradient_checkpointing": True}}, {"plan", "pace"}),
        ({"plan": {"pool_clips": 99}}, {"plan", "finetune"}),
        ({"gpus": 2}, {"plan", "finetune"}),
        ({"checkpoints": {"best": 2}}, {"plan", "finetune", "pace"}),
        ({"gpu_memory_gib": 24}, {"plan"}),
        ({"finetune": {"workers": 3}}, {"pace"}),
        ({"finetune": {"logging_steps": 3}}, {"pace"}),
        ({"finetune": {"resume_minutes": 3}}, {"pace"}),
        ({"checkpoints": {"dev_clips": 3}}, {"pace"}),
        ({"text": {"case": "keep"}}, {"pace"}),
        ({"evaluation": {"batch_seconds": 3}}, {"pace"}),
        ({"card": {"title": "another"}}, set()),
    ],
)
def test_a_setting_is_in_the_slices_of_the_stages_that_read_it(change: dict[str, Any], stages: set[str]) -> None:
    before, after = changed(), changed(**change)
    assert {stage for stage in before if before[stage] != after[stage]} == stages


def test_how_checkpoints_are_scored_counts_where_it_decides_which_are_kept() -> None:
    best = {"checkpoints": {"best": 2}}
    before, after = changed(**best), changed(**best, text={"case": "keep"})
    assert {stage for stage in before if before[stage] != after[stage]} == {"finetune"}


def test_settings_and_pace_are_all_of_finetune_and_share_nothing() -> None:
    config, made = load(DEMO), changed()
    weights, pace = json.loads(made["finetune"]), json.loads(made["pace"])
    section = config.runs["demo_ru"].model_dump(mode="json")
    for name in ("finetune", "checkpoints"):
        assert not weights[name].keys() & pace[name].keys()
        assert weights[name] | pace[name] == section[name]


def test_the_plan_takes_its_slice_whole() -> None:
    made = changed()["plan"]
    assert PlanSettings.model_validate_json(made).model_dump(mode="json").keys() == json.loads(made).keys()


EVALUATION = {
    "sets": ["demo_ru-dev", {"set": "demo_ru-test", "chunk_seconds": 6}],
    "decoders": ["greedy", "lm"],
    "robustness": {"sets": ["demo_ru-test"], "effects": {"noisy": {"noise_snr_db": 5}}},
}


def scored(**evaluation: Any) -> dict[str, str]:
    """The slices of what scores, of the demo with its evaluation changed."""
    raw = copy.deepcopy(DEMO)
    raw["runs"]["demo_ru"]["evaluation"] = EVALUATION | evaluation
    config = load(raw)
    of_run = (stage_settings.evaluate, stage_settings.lm_text, stage_settings.lm, stage_settings.lm_weights, stage_settings.robustness)
    return {stage.__name__: stage(config, "demo_ru") for stage in of_run} | {
        "card": stage_settings.card(config, "demo_ru", {"card": "c0de"}),
        "log_probs": stage_settings.log_probs(config, "demo_ru", "demo_ru-test"),
        "perturb": stage_settings.perturb(config, "demo_ru", "noisy"),
        "worst": stage_settings.worst(config, "demo_ru", "demo_ru-test"),
    }


@pytest.mark.parametrize(
    ("change", "stages"),
    [
        ({"sets": [*EVALUATION["sets"], "demo_ru-train"]}, {"card"}),
        ({"sets": ["demo_ru-dev", "demo_ru-test"]}, {"log_probs", "worst"}),
        ({"precision": "bf16"}, {"log_probs"}),
        ({"batch_seconds": 7}, {"log_probs", "worst"}),
        ({"worst_clips": 7}, {"worst"}),
        ({"lm": {"order": 3}}, {"lm"}),
        ({"lm": {"word_score": [1.0]}}, {"lm_weights"}),
        ({"lm": {"text": "files", "files": ["more.txt"]}}, set()),
        ({"robustness": {"sets": ["demo_ru-test"], "effects": {"noisy": {"noise_snr_db": 6}}}}, {"perturb"}),
    ],
)
def test_a_setting_of_the_evaluation_is_in_the_slices_of_the_stages_that_read_it(
    change: dict[str, Any], stages: set[str]
) -> None:
    before, after = scored(), scored(**change)
    assert {stage for stage in before if before[stage] != after[stage]} == stages


def test_a_stride_that_is_not_given_is_a_sixth_of_the_chunk_and_a_copy_is_heard_as_its_original() -> None:
    config = load(DEMO | {"runs": {"demo_ru": DEMO["runs"]["demo_ru"] | {"evaluation": EVALUATION}}})
    for name, chunk, stride in (("dev", None, 0), ("test", 6, 1), ("test-noisy", 6, 1)):
        made = json.loads(stage_settings.log_probs(config, "demo_ru", f"demo_ru-{name}"))
        assert (made["chunk_seconds"], made["stride_seconds"]) == (chunk, stride)


def test_each_stage_takes_its_slice_whole() -> None:
    from speechmill.inference import evaluate, log_probs
    from speechmill.lm.lm import lm, lm_text, lm_weights
    from speechmill.report import card, robustness, worst

    modules = {
        m.__name__.split(".")[1]: m for m in (card, evaluate, lm, lm_text, lm_weights, log_probs, robustness, worst)
    }
    made = scored()
    for stage, module in modules.items():
        taken = stage_class(module).model_validate_json(made[stage]).model_dump(mode="json")  # type: ignore[attr-defined]
        assert taken.keys() == json.loads(made[stage]).keys(), stage


@pytest.mark.parametrize(("redistribute", "passed_on"), [(None, False), (True, True), (False, False)])
def test_audio_of_common_voice_is_in_a_page_only_where_that_is_allowed(
    redistribute: bool | None, passed_on: bool
) -> None:
    raw = copy.deepcopy(DEMO)
    raw["datasets"]["demo_ru"]["redistribute"] = redistribute
    assert json.loads(stage_settings.worst(load(raw), "demo_ru", "demo_ru-test"))["redistribute"] is passed_on


def reproduced(raw: dict[str, Any], run: str) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(stage_settings.reproduction(load(raw), run))
    return made


def test_what_makes_a_run_again_is_a_configuration_of_its_own_that_means_the_same() -> None:
    raw = copy.deepcopy(DEMO)
    raw["runs"]["other"] = raw["runs"]["demo_ru"]
    made = reproduced(raw, "demo_ru")
    assert list(made["runs"]) == ["demo_ru"]
    again, before = load(made), load(DEMO)
    assert again.runs["demo_ru"] == before.runs["demo_ru"]
    assert (again.datasets, again.speak) == (before.datasets, before.speak)


def test_what_makes_a_run_again_has_the_runs_that_it_starts_from() -> None:
    raw = copy.deepcopy(DEMO)
    raw["runs"]["tuned"] = raw["runs"]["demo_ru"] | {"model": {"run": "demo_ru"}}
    made = reproduced(raw, "tuned")
    assert list(made["runs"]) == ["demo_ru", "tuned"]
    assert load(made)


def test_where_a_corpus_lies_on_this_host_stays_here() -> None:
    raw = copy.deepcopy(DEMO)
    del raw["speak"]
    raw["datasets"]["demo_ru"]["path"] = "/home/anna/corpora/release.tar.gz"
    raw["runs"]["demo_ru"]["publish"] = {"repo": "anna/model"}
    made = reproduced(raw, "demo_ru")
    assert made["datasets"]["demo_ru"]["path"] == "release.tar.gz"
    assert "anna" not in json.dumps(made)
