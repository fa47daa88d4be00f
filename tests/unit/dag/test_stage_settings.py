"""A stage runs again when its settings change: what they contain, and what they must not."""

import copy
import hashlib
import json
from typing import Any

import pytest
import yaml

from material import ROOT
from speechmill.config.root import load
from speechmill.core.command import SpeechmillError
from speechmill.dag import paths, stage_settings
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
        ({"augment": {"noise": {"probability": 0.5, "snr_db": [0, 5]}}}, {"plan", "finetune"}),
        ({"augment": {"speed": [0.9, 1.0]}}, {"plan", "finetune"}),
        ({"finetune": {"precision": "bf16"}}, {"plan", "finetune"}),
        ({"finetune": {"lora": {"rank": 8}}}, {"plan", "finetune"}),
        ({"device": "gpu", "finetune": {"optimizer": "adamw_8bit"}}, {"plan", "finetune"}),
        ({"finetune": {"head_learning_rate": 0.5}}, {"finetune"}),
        ({"finetune": {"head_only_steps": 5}}, {"finetune"}),
        ({"finetune": {"gradient_checkpointing": True}}, {"plan", "finetune_runtime"}),
        ({"plan": {"pool_clips": 99}}, {"plan", "finetune"}),
        ({"plan": {"max_steps": 99}}, {"plan", "finetune"}),
        ({"mixing": {"temperature": 2}}, {"plan", "finetune"}),
        ({"gpus": 2}, {"plan", "finetune"}),
        ({"checkpoints": {"best": 2}}, {"plan", "finetune", "finetune_runtime"}),
        ({"gpu_memory_gib": 24}, {"plan"}),
        ({"select": {"average": 2}}, {"plan"}),
        ({"vocab": {"sentencepiece": {"size": 50}}}, set()),
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


def test_settings_of_training_stay_as_they_were() -> None:
    # Otherwise every model would be trained again: they are those of existing runs, byte for byte.
    raw = {
        "datasets": {
            "cv": {"source": "common_voice", "path": "cv.tar.gz", "language": "ru", "name": "n", "licence": "l",
                   "splits": ["train", "dev"], "shards": 2},
        },
        "runs": {
            "demo": {"language": "ru", "train": ["cv-train"], "dev": "cv-dev",
                     "model": {"init": {"model_type": "wav2vec2"}},
                     "plan": {"epochs": 1, "batch": {"seconds": 10}, "save_steps": 5},
                     "finetune": {"learning_rate": 0.001}, "evaluation": {"sets": ["cv-dev"]},
                     "card": {"title": "t", "description": "d", "uses": "u"}},
        },
    }  # fmt: skip
    config = load(raw)
    digests = {
        stage: hashlib.sha256(stage(config, "demo").encode()).hexdigest()
        for stage in (stage_settings.plan, stage_settings.finetune)
    }
    assert digests == {
        stage_settings.plan: "fb0ca6a4bbf02743858d23d7926b196c9f39c3b8ee8cc79d669dcf37f279e0f9",
        stage_settings.finetune: "438f019ac40270979fb886d9165f675c12b161d9d04563bea6d508b2cc212b7f",
    }


def test_only_a_kept_vocabulary_is_a_setting_of_training() -> None:
    model = {"base": "./base", "init": None}
    before, after = changed(model=model), changed(model=model, vocab="keep")
    assert {stage for stage in before if before[stage] != after[stage]} == {"plan", "finetune"}
    # The settings of other runs are those of earlier releases: these would train again otherwise.
    for stage in ("plan", "finetune"):
        assert "vocab" not in json.loads(before[stage])
        assert json.loads(after[stage]) == json.loads(before[stage]) | {"vocab": "keep"}
    assert stage_settings.vocab(load(DEMO), "demo_ru") == json.dumps(
        {"clusters": [], "init": DEMO["runs"]["demo_ru"]["model"]["init"]}, sort_keys=True
    )


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


# Recorded before there was a key that is left out while it is unused: such a key is no reason to train again.
@pytest.mark.parametrize(
    ("stage", "digest"),
    [
        ("plan", "65b4e3187a160253"),
        ("finetune", "791b761df407eacc"),
    ],
)
def test_unused_keys_of_training_leave_settings_the_same(stage: str, digest: str) -> None:
    assert hashlib.sha256(changed()[stage].encode()).hexdigest()[:16] == digest


def test_without_mixing_its_key_is_absent() -> None:
    assert not any("mixing" in json.loads(settings) for settings in changed().values())


@pytest.mark.parametrize(
    ("by", "groups"),
    [
        ("dataset", {"demo_ru": "demo_ru"}),
        ("language", {"demo_ru": "ru"}),
        ("speaker", {"demo_ru": "common_voice"}),
    ],
)
def test_mixing_knows_the_group_of_each_dataset(by: str, groups: dict[str, str]) -> None:
    assert json.loads(changed(mixing={"by": by, "temperature": 2})["finetune"])["mixing"]["groups"] == groups


def test_plan_reads_all_its_settings() -> None:
    sections = {"mixing": {"temperature": 2}, "model": {"base": "./base", "init": None}, "select": {"average": 2}}
    made = changed(**sections, vocab="keep")["plan"]
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
    names = ("evaluate", "lm_text", "lm", "lm_weights", "robustness", "card", "confidence", "calibration")
    return {name: getattr(stage_settings, name)(config, "demo_ru") for name in names} | {
        "log_probs": stage_settings.log_probs(config, "demo_ru", "demo_ru-test"),
        "perturb": stage_settings.perturb(config, "demo_ru", "noisy"),
        "worst": stage_settings.worst(config, "demo_ru", "demo_ru-test"),
    }


@pytest.mark.parametrize(
    ("change", "stages"),
    [
        ({"sets": [*EVALUATION["sets"], "demo_ru-train"]}, {"card", "calibration"}),
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
    from speechmill.inference.confidence import ConfidenceSettings
    from speechmill.inference.evaluate import EvaluateSettings
    from speechmill.inference.log_probs import LogProbsSettings
    from speechmill.lm.lm import LmSettings
    from speechmill.lm.lm_text import LmTextSettings
    from speechmill.lm.lm_weights import LmWeightsSettings
    from speechmill.report.calibration import CalibrationSettings
    from speechmill.report.card_settings import CardSettings
    from speechmill.report.robustness import RobustnessSettings
    from speechmill.report.worst import WorstSettings

    classes = {
        "evaluate": EvaluateSettings, "log_probs": LogProbsSettings, "lm": LmSettings, "lm_text": LmTextSettings,
        "lm_weights": LmWeightsSettings, "card": CardSettings, "robustness": RobustnessSettings, "worst": WorstSettings,
        "confidence": ConfidenceSettings, "calibration": CalibrationSettings,
    }  # fmt: skip
    settings = scored()
    for stage, kind in classes.items():
        # Only a run without training has those of log_probs. Those of the card depend on the run: whether it is one of
        # a sweep, has a base, or has `compare`.
        exclude = {
            "log_probs": {"language", "generation"},
            "card": {"sweep", "base_training", "compared"},
        }.get(stage)
        read = kind.model_validate_json(settings[stage]).model_dump(mode="json", exclude=exclude)
        assert read.keys() == json.loads(settings[stage]).keys(), stage


def test_corrections_and_label_errors_change_no_settings() -> None:
    raw = copy.deepcopy(DEMO)
    run = raw["runs"]["demo_ru"]
    run["clips"] = {**run["clips"], "corrections": "/home/me/corrected.csv"}
    run["label_errors"] = {"clips": 7}
    # The content of the file is a reason to run again, not its path.
    for stage in ("clips_train", "plan", "finetune", "card"):
        settings = getattr(stage_settings, stage)
        assert settings(load(raw), "demo_ru") == settings(load(DEMO), "demo_ru"), stage
    assert json.loads(stage_settings.suspicious(load(raw), "demo_ru"))["clips"] == 7
    reproduced = json.loads(stage_settings.reproduction(load(raw), "demo_ru"))["runs"]["demo_ru"]
    assert reproduced["clips"]["corrections"] == "corrected.csv"


@pytest.mark.parametrize(("redistribute", "shown"), [(None, False), (True, True), (False, False)])
def test_audio_is_shown_only_if_redistributable(redistribute: bool | None, shown: bool) -> None:
    raw = copy.deepcopy(DEMO)
    raw["datasets"]["demo_ru"]["redistribute"] = redistribute
    assert json.loads(stage_settings.worst(load(raw), "demo_ru", "demo_ru-test"))["redistribute"] is shown


@pytest.mark.parametrize(("redistribute", "shown"), [(None, True), (True, True), (False, False)])
def test_words_are_published_unless_forbidden(redistribute: bool | None, shown: bool) -> None:
    raw = copy.deepcopy(DEMO)
    raw["datasets"]["demo_ru"]["redistribute"] = redistribute
    assert json.loads(stage_settings.card(load(raw), "demo_ru"))["datasets"]["demo_ru"]["text_redistributable"] is shown


def test_text_ends_no_script_of_the_report() -> None:
    raw, text = copy.deepcopy(DEMO), "</script><!-- a < b </SCRIPT >"
    raw["datasets"]["demo_ru"]["name"] = raw["runs"]["demo_ru"]["card"]["title"] = text
    config = load(raw)
    card, reproduction = stage_settings.card(config, "demo_ru"), stage_settings.reproduction(config, "demo_ru")
    audit, table = stage_settings.audit(config, "demo_ru"), stage_settings.runs_table(config)
    assert not [each for each in (card, reproduction, audit, table) if "</" in each or "<!--" in each]
    for settings in (json.loads(card), json.loads(reproduction)["runs"]["demo_ru"]):
        assert settings["card"]["title"] == text


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


def test_reproduction_has_the_runs_of_the_comparison() -> None:
    raw = copy.deepcopy(DEMO)
    raw["runs"]["other"] = copy.deepcopy(raw["runs"]["demo_ru"])
    raw["runs"]["third"] = copy.deepcopy(raw["runs"]["demo_ru"])
    raw["runs"]["demo_ru"]["evaluation"] = EVALUATION | {"compare": ["other"]}
    raw["runs"]["other"]["evaluation"] = EVALUATION | {"compare": ["demo_ru", "third"]}
    made = load(reproduced(raw, "demo_ru"))
    assert {name: run.evaluation.compare for name, run in made.runs.items()} == {"demo_ru": ["other"], "other": []}


def test_card_knows_what_compared_runs_are() -> None:
    raw = copy.deepcopy(DEMO)
    assert "compared" not in json.loads(stage_settings.card(load(raw), "demo_ru"))
    raw["runs"]["whisper"] = {
        "training": "none", "language": "ru", "model": {"base": "openai/whisper-large-v3", "revision": "main"},
        "text": raw["runs"]["demo_ru"].get("text", {}), "evaluation": {"sets": ["demo_ru-test"]},
    }  # fmt: skip
    raw["runs"]["other"] = copy.deepcopy(raw["runs"]["demo_ru"])
    raw["runs"]["demo_ru"]["evaluation"] = EVALUATION | {"compare": ["whisper", "other"]}
    assert json.loads(stage_settings.card(load(raw), "demo_ru"))["compared"] == {
        "whisper": "openai/whisper-large-v3, not trained",
        "other": "trained from random weights",
    }


def test_texts_of_a_language_model_are_known_to_card_and_reproduction() -> None:
    raw = copy.deepcopy(DEMO)
    about = {"name": "Own text", "licence": "CC0-1.0"}
    raw["texts"] = {"own": about | {"path": "/home/anna/text.gz"}, "unused": about | {"path": "other"}}
    raw["runs"]["demo_ru"]["evaluation"] = EVALUATION | {"lm": {"text": ["training", "texts"], "texts": ["own"]}}
    assert json.loads(stage_settings.card(load(raw), "demo_ru"))["texts"] == {"own": about | {"date": None}}
    assert reproduced(raw, "demo_ru")["texts"] == {"own": about | {"path": "text.gz"}}
    raw["texts"] = {}
    with pytest.raises(SpeechmillError, match=r"demo_ru\.evaluation\.lm\.texts: there is no text own; .* are none"):
        load(raw)


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
        ("tr", {}, "tr"), ("aze", {}, "az"), ("lit", {}, "lt"),
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


def with_model(model: dict[str, Any]) -> dict[str, Any]:
    """The demo with another base, and a run that starts from the demo's model."""
    raw = copy.deepcopy(DEMO)
    raw["runs"]["demo_ru"]["model"] = model
    raw["runs"]["tuned"] = raw["runs"]["demo_ru"] | {"model": {"run": "demo_ru"}}
    raw["runs"]["again"] = raw["runs"]["demo_ru"] | {"model": {"run": "tuned"}}
    return raw


HUB_BASE = {"base": "facebook/mms-1b-all", "revision": "main"}


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (HUB_BASE, "facebook/mms-1b-all"),
        ({"base": "/home/anna/models/base"}, None),
        ({"base": "./base"}, None),
        ({"init": {"model_type": "wav2vec2"}}, None),
    ],
)
def test_card_has_the_hub_id_of_the_first_base(model: dict[str, Any], expected: str | None) -> None:
    config = load(with_model(model))
    cards = [json.loads(stage_settings.card(config, run)) for run in ("demo_ru", "tuned", "again")]
    assert [card["base_model"] for card in cards] == [expected] * 3


@pytest.mark.parametrize("base", ["/home/anna/models/base", "../anna/base", "~/anna/base/", "./anna/x/../base"])
def test_folder_of_a_base_reveals_only_its_name(base: str) -> None:
    raw = with_model({"base": base})
    config = load(raw)
    made = [
        stage_settings.card(config, "demo_ru"),
        stage_settings.runs_table(config),
        json.dumps(reproduced(raw, "again")),
        stage_settings.finetune(config, "demo_ru"),  # part of the record of the training
    ]
    assert not any("anna" in text for text in made)
    assert json.loads(made[0])["base"] == "base"
    assert load(json.loads(made[2])).runs["demo_ru"].model.base == "./base"


def test_base_has_to_fit_all_runs_that_are_trained_from_it() -> None:
    raw = with_model(HUB_BASE)
    raw["runs"]["tuned"]["augment"] = {"speed": [0.9]}
    config = load(raw)
    trainings = json.loads(stage_settings.ingest_model_trainings(config, config.runs["demo_ru"].model.base_name))
    assert {name: each["augment"]["speed"] for name, each in trainings.items()} == {
        "demo_ru": [],
        "tuned": [0.9],
        "again": [],
    }
    assert stage_settings.ingest_model_trainings(config, "run-tuned") == "{}"


def test_keys_that_need_a_ctc_model_or_generation_are_listed() -> None:
    raw = copy.deepcopy(DEMO)
    run = {key: raw["runs"]["demo_ru"][key] for key in ("language", "text")}
    sets = {"sets": [{"set": "demo_ru-test", "chunk_seconds": 20}], "generation": {"task": "transcribe"}}
    raw["runs"]["peer"] = run | {"training": "none", "model": {"base": "./peer"}, "evaluation": sets}
    config = load(raw)
    uses = json.loads(stage_settings.ingest_model_uses(config, config.runs["peer"].model.base_name))
    assert uses == {
        "ctc": ["runs.peer.evaluation.sets, chunk_seconds"],
        "generation": ["runs.peer.evaluation.generation"],
    }


def test_runs_that_export_are_listed_for_their_base() -> None:
    raw = with_model(HUB_BASE)
    raw["runs"]["tuned"]["export"] = ["int8"]
    config = load(raw)
    uses = json.loads(stage_settings.ingest_model_uses(config, config.runs["demo_ru"].model.base_name))
    assert uses["exports"] == ["tuned"]


def test_exports_change_the_settings_of_no_other_stage() -> None:
    raw = copy.deepcopy(DEMO)
    raw["runs"]["demo_ru"]["export"] = ["fp32", "int8"]
    plain, exporting = load(DEMO), load(raw)
    for stage in (stage_settings.plan, stage_settings.finetune, stage_settings.select, stage_settings.card):
        assert stage(plain, "demo_ru") == stage(exporting, "demo_ru")
    assert json.loads(stage_settings.export(exporting, "demo_ru"))["precisions"] == ["fp32", "int8"]
    (first, *_), others = (paths.exported_sets(config, "demo_ru") for config in (exporting, plain))
    assert first == {"set_name": "demo_ru-dev"}
    assert others == []


def test_language_decides_only_what_is_stored_of_a_base() -> None:
    without, chosen = (load(with_model(HUB_BASE | each)) for each in ({}, {"target_lang": "rus"}))
    for stage in (stage_settings.plan, stage_settings.finetune):
        assert stage(without, "demo_ru") == stage(chosen, "demo_ru")
    names = [config.runs["demo_ru"].model.base_name for config in (without, chosen)]
    assert names[0] != names[1]
    stored = [
        json.loads(stage_settings.ingest_model(config, name))
        for config, name in zip((without, chosen), names, strict=True)
    ]
    assert [each["target_lang"] for each in stored] == [None, "rus"]
    assert json.loads(stage_settings.ingest_model_runs(chosen, names[1])) == {
        "demo_ru": {"language": "ru", "trains": True}
    }


def test_training_data_of_a_base_trains_nothing_again() -> None:
    base = {"base": "a/base", "revision": "main"}
    known = {"trained_on": [{"name": "Common Voice", "version": "6.1", "labels": False}], "released": "2021-11-18"}
    before, after = load(with_model(base)), load(with_model(base | known))
    for stage in (stage_settings.plan, stage_settings.finetune, stage_settings.finetune_runtime, stage_settings.vocab):
        assert stage(after, "demo_ru") == stage(before, "demo_ru")
    model = before.runs["demo_ru"].model.base_name
    for stage in (stage_settings.ingest_model, stage_settings.base_card):
        assert stage(after, model) == stage(before, model)
    card = json.loads(stage_settings.card(after, "demo_ru"))["base_training"]
    assert (card["trained_on"], card["released"]) == (
        [{"name": "Common Voice", "version": "6.1", "splits": [], "labels": False}], "2021-11-18"
    )  # fmt: skip
    assert card["sets"]["demo_ru-test"] == {
        "dataset": "demo_ru", "split": "test", "drawn_from": None, "version": "demo-1.0",
        "names": ["Spoken Russian digits", "common_voice"],
    }  # fmt: skip


def test_runs_that_a_run_starts_from_are_training_data_of_its_base() -> None:
    raw = copy.deepcopy(DEMO)
    raw["runs"]["second"] = copy.deepcopy(raw["runs"]["demo_ru"]) | {"model": {"run": "demo_ru"}}
    known = json.loads(stage_settings.card(load(raw), "second"))["base_training"]
    assert known["base"] is None
    ((run, (corpus,)),) = known["runs"].items()
    assert (run, corpus["dataset"], corpus["splits"]) == ("demo_ru", "demo_ru", ["train"])
    assert "base_training" not in json.loads(stage_settings.card(load(raw), "demo_ru"))
