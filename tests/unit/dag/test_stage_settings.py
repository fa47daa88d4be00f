"""A stage runs again when its settings change: what they contain, and what they must not."""

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
    """Return the settings of the training stages, for the demo with sections of its run changed."""
    raw = copy.deepcopy(DEMO)
    run = raw["runs"]["demo_ru"]
    for name, value in sections.items():
        run[name] = run.get(name, {}) | value if isinstance(value, dict) else value
    config = load(raw)
    stages = (stage_settings.plan, stage_settings.finetune, stage_settings.finetune_runtime)
    return {stage.__name__: stage(config, "demo_ru") for stage in stages}


@pytest.mark.parametrize(
    ("change", "stages"),
    [
        ({"finetune": {"learning_rate": 0.5}}, {"finetune"}),
        ({"finetune": {"threads": 7}}, {"finetune"}),
        ({"augment": {"noise": {"probability": 0.5, "snr_db": [0, 5]}}}, {"finetune"}),
        ({"augment": {"speed": [0.9, 1.0]}}, {"plan", "finetune"}),
        ({"finetune": {"precision": "bf16"}}, {"plan", "finetune"}),
        ({"finetune": {"gradient_checkpointing": True}}, {"plan", "finetune_runtime"}),
        ({"plan": {"pool_clips": 99}}, {"plan", "finetune"}),
        ({"gpus": 2}, {"plan", "finetune"}),
        ({"checkpoints": {"best": 2}}, {"plan", "finetune", "finetune_runtime"}),
        ({"gpu_memory_gib": 24}, {"plan"}),
        ({"finetune": {"workers": 3}}, {"finetune_runtime"}),
        ({"finetune": {"logging_steps": 3}}, {"finetune_runtime"}),
        ({"finetune": {"resume_minutes": 3}}, {"finetune_runtime"}),
        ({"checkpoints": {"dev_clips": 3}}, {"finetune_runtime"}),
        ({"text": {"case": "keep"}}, {"finetune_runtime"}),
        ({"evaluation": {"batch_seconds": 3}}, {"finetune_runtime"}),
        ({"card": {"title": "another"}}, set()),
    ],
)
def test_setting_reaches_the_stages_that_read_it(change: dict[str, Any], stages: set[str]) -> None:
    before, after = changed(), changed(**change)
    assert {stage for stage in before if before[stage] != after[stage]} == stages


def test_dev_scoring_counts_where_the_best_are_kept() -> None:
    best = {"checkpoints": {"best": 2}}
    before, after = changed(**best), changed(**best, text={"case": "keep"})
    assert {stage for stage in before if before[stage] != after[stage]} == {"finetune"}


def test_runtime_settings_complement_those_of_finetune() -> None:
    config, made = load(DEMO), changed()
    weights, runtime = json.loads(made["finetune"]), json.loads(made["finetune_runtime"])
    section = config.runs["demo_ru"].model_dump(mode="json")
    for name in ("finetune", "checkpoints"):
        assert not weights[name].keys() & runtime[name].keys()
        assert weights[name] | runtime[name] == section[name]


def test_plan_reads_all_its_settings() -> None:
    made = changed()["plan"]
    assert PlanSettings.model_validate_json(made).model_dump(mode="json").keys() == json.loads(made).keys()


EVALUATION = {
    "sets": ["demo_ru-dev", {"set": "demo_ru-test", "chunk_seconds": 6}],
    "decoders": ["greedy", "lm"],
    "robustness": {"sets": ["demo_ru-test"], "effects": {"noisy": {"noise_snr_db": 5}}},
}


def scored(**evaluation: Any) -> dict[str, str]:
    """Return the settings of the scoring stages, for the demo with its evaluation changed."""
    raw = copy.deepcopy(DEMO)
    raw["runs"]["demo_ru"]["evaluation"] = EVALUATION | evaluation
    config = load(raw)
    names = ("evaluate", "lm_text", "lm", "lm_weights", "robustness", "card")
    return {name: getattr(stage_settings, name)(config, "demo_ru") for name in names} | {
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
def test_evaluation_setting_reaches_its_stages(change: dict[str, Any], stages: set[str]) -> None:
    before, after = scored(), scored(**change)
    assert {stage for stage in before if before[stage] != after[stage]} == stages


def test_default_stride_is_a_sixth_of_the_chunk() -> None:
    config = load(DEMO | {"runs": {"demo_ru": DEMO["runs"]["demo_ru"] | {"evaluation": EVALUATION}}})
    for name, chunk, stride in (("dev", None, 0), ("test", 6, 1), ("test-noisy", 6, 1)):
        made = json.loads(stage_settings.log_probs(config, "demo_ru", f"demo_ru-{name}"))
        assert (made["chunk_seconds"], made["stride_seconds"]) == (chunk, stride)


def test_scoring_stages_read_all_their_settings() -> None:
    from speechmill.inference.evaluate import EvaluateSettings
    from speechmill.inference.log_probs import LogProbsSettings
    from speechmill.lm.lm import LmSettings
    from speechmill.lm.lm_text import LmTextSettings
    from speechmill.lm.lm_weights import LmWeightsSettings
    from speechmill.report.card_settings import CardSettings
    from speechmill.report.robustness import RobustnessSettings
    from speechmill.report.worst import WorstSettings

    classes = {
        "evaluate": EvaluateSettings, "log_probs": LogProbsSettings, "lm": LmSettings, "lm_text": LmTextSettings,
        "lm_weights": LmWeightsSettings, "card": CardSettings, "robustness": RobustnessSettings, "worst": WorstSettings,
    }  # fmt: skip
    settings = scored()
    for stage, kind in classes.items():
        read = kind.model_validate_json(settings[stage]).model_dump(mode="json")
        assert read.keys() == json.loads(settings[stage]).keys(), stage


@pytest.mark.parametrize(("redistribute", "shown"), [(None, False), (True, True), (False, False)])
def test_audio_is_shown_only_if_redistributable(redistribute: bool | None, shown: bool) -> None:
    raw = copy.deepcopy(DEMO)
    raw["datasets"]["demo_ru"]["redistribute"] = redistribute
    assert json.loads(stage_settings.worst(load(raw), "demo_ru", "demo_ru-test"))["redistribute"] is shown


def reproduced(raw: dict[str, Any], run: str) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(stage_settings.reproduction(load(raw), run))
    return made


def test_reproduction_is_an_equal_configuration() -> None:
    raw = copy.deepcopy(DEMO)
    raw["runs"]["other"] = raw["runs"]["demo_ru"]
    made = reproduced(raw, "demo_ru")
    assert list(made["runs"]) == ["demo_ru"]
    again, before = load(made), load(DEMO)
    assert again.runs["demo_ru"] == before.runs["demo_ru"]
    assert (again.datasets, again.speak) == (before.datasets, before.speak)


def test_reproduction_has_the_runs_it_starts_from() -> None:
    raw = copy.deepcopy(DEMO)
    raw["runs"]["tuned"] = raw["runs"]["demo_ru"] | {"model": {"run": "demo_ru"}}
    made = reproduced(raw, "tuned")
    assert list(made["runs"]) == ["demo_ru", "tuned"]
    assert load(made)


def test_reproduction_reveals_no_location() -> None:
    raw = copy.deepcopy(DEMO)
    del raw["speak"]
    raw["datasets"]["demo_ru"]["path"] = "/home/anna/corpora/release.tar.gz"
    raw["runs"]["demo_ru"]["publish"] = {"repo": "anna/model"}
    made = reproduced(raw, "demo_ru")
    assert made["datasets"]["demo_ru"]["path"] == "release.tar.gz"
    assert "anna" not in json.dumps(made)


@pytest.mark.parametrize(
    ("language", "text", "casing"),
    [
        ("tr", {}, "tr"), ("tr-TR", {}, "tr"), ("aze", {}, "az"), ("az_Latn", {}, "az"), ("lit", {}, "lt"),
        ("ru", {}, None), ("trv", {}, None), ("ru", {"language": "tr"}, "tr"), ("tr", {"language": "lt"}, "lt"),
    ],
)  # fmt: skip
def test_case_follows_the_language_of_the_run(language: str, text: dict[str, Any], casing: str | None) -> None:
    raw = copy.deepcopy(DEMO)
    raw["runs"]["demo_ru"] |= {"language": language, "text": text}
    config = load(raw)
    for stage in (stage_settings.clips_train, stage_settings.evaluate, stage_settings.lm_text, stage_settings.usage):
        assert json.loads(stage(config, "demo_ru"))["text"]["language"] == casing
    # The reproduced configuration gives the same rules.
    again = load(json.loads(stage_settings.reproduction(config, "demo_ru")))
    assert again.runs["demo_ru"].text == config.runs["demo_ru"].text


def test_clusters_reach_the_vocabulary_in_the_form_of_the_text() -> None:
    raw = copy.deepcopy(DEMO)
    raw["runs"]["demo_ru"]["text"] = {"clusters": ["CH", "ng"]}
    assert json.loads(stage_settings.vocab(load(raw), "demo_ru"))["clusters"] == ["ch", "ng"]
