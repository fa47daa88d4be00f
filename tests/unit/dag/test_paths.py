from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from material import ROOT
from speechmill.config.root import Config, load
from speechmill.core.command import SpeechmillError
from speechmill.core.files import write_json
from speechmill.dag import hardware, paths

RUN = "results/runs/demo_ru"
NOISY = {"sets": ["demo_ru-test"], "effects": {"noisy": {"noise_snr_db": 5}}}


def demo_config(**changes: Any) -> Config:
    demo = yaml.safe_load((ROOT / "config/config.yaml").read_text(encoding="utf-8"))
    demo["runs"]["demo_ru"] |= changes
    return load(demo)


def evaluated(*sets: Any, **changes: Any) -> Config:
    return demo_config(evaluation={"sets": ["demo_ru-dev", *sets]} | changes)


def test_steps_are_those_planned_or_those_kept(tmp_path: Path) -> None:
    write_json({"checkpoints": [100, 200]}, tmp_path / "plan.json")
    write_json({"kept": [200]}, tmp_path / "training.json")
    assert paths.steps(str(tmp_path / "plan.json")) == [100, 200]
    assert paths.steps(str(tmp_path / "plan.json"), str(tmp_path / "training.json")) == [200]


def test_corrupt_plan_is_named(tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    write_json({"checkpoints": [100, 200], "parameters": 5}, plan)
    plan.write_text(plan.read_text().replace("100", "180"))
    with pytest.raises(SpeechmillError, match=rf"{plan} has changed since it was written"):
        paths.steps(str(plan))
    with pytest.raises(SpeechmillError, match=rf"{plan} has changed since it was written"):
        hardware.finetune_mb(demo_config(), "demo_ru", SimpleNamespace(plan=str(plan)))


def test_each_step_is_scored_on_every_set_by_every_decoder() -> None:
    config = evaluated("demo_ru-test", decoders=["greedy", "lm"])
    every = [
        f"{RUN}/evaluation/{step}/demo_ru-{split}/{decoder}"
        for step in (100, 200)
        for split in ("dev", "test")
        for decoder in ("greedy", "lm")
    ]
    assert paths.step_scores(config, "demo_ru", [100, 200]) == every
    assert paths.all_scores(config, "demo_ru", [100, 200]) == every
    assert paths.dev_scores(config, "demo_ru", [100]) == [f"{RUN}/evaluation/100/demo_ru-dev/greedy"]


def test_some_sets_are_scored_at_the_selected_checkpoint_only() -> None:
    config = evaluated({"set": "demo_ru-test", "checkpoints": "selected"}, robustness=NOISY)
    dev = f"{RUN}/evaluation/7/demo_ru-dev/greedy"
    assert paths.step_scores(config, "demo_ru", [7]) == [dev]
    selected = [f"{RUN}/evaluation/selected/{name}/greedy" for name in ("demo_ru-test", "demo_ru-test-noisy")]
    assert paths.all_scores(config, "demo_ru", [7]) == [dev, *selected]


def test_worst_clips_come_from_every_score_of_the_set() -> None:
    config = evaluated("demo_ru-test", decoders=["greedy", "lm"], robustness=NOISY)
    scores = [f"{RUN}/evaluation/{step}/demo_ru-test/greedy" for step in (7, 8)]
    assert paths.set_scores(config, "demo_ru", "demo_ru-test", [7, 8]) == scores


def test_perturbed_copy_has_one_shard() -> None:
    config = evaluated("demo_ru-test", robustness=NOISY)
    copy = f"{RUN}/perturbed/noisy/demo_ru/test/shard-00000.parquet"
    assert paths.set_shards(config, "demo_ru", "demo_ru-test-noisy") == [copy]
    # A clip of test may be stored under train or dev, which are listed before.
    splits = [file.split("/")[3] for file in paths.set_shards(config, "demo_ru", "demo_ru-test")]
    assert splits == ["train"] * 4 + ["dev", "test"]


@pytest.mark.parametrize(
    ("step", "record"),
    [("300", []), ("tuning", [f"{RUN}/lm/tuning_checkpoint.json"]), ("selected", [f"{RUN}/selection.json"])],
)
def test_named_step_has_a_record(step: str, record: list[str]) -> None:
    assert paths.step_record(demo_config(), "demo_ru", step) == record


@pytest.mark.parametrize(
    ("decoders", "step", "name", "outputs", "needed"),
    [
        (["greedy"], "300", "demo_ru-dev", "ctc_outputs", False),
        (["greedy"], "selected", "demo_ru-test-noisy", "ctc_outputs", False),
        (["greedy", "lm"], "selected", "demo_ru-test-noisy", "ctc_outputs", True),
        # The greedy scores of dev precede tuning; beam search reads those of a second forward pass.
        (["greedy", "lm"], "300", "demo_ru-dev", "ctc_outputs", False),
        (["greedy", "lm"], "300", "demo_ru-dev", "log_probs", True),
        (["greedy", "lm"], "300", "demo_ru-test", "ctc_outputs", True),
        (["greedy", "lm"], "tuning", "demo_ru-dev", "ctc_outputs", True),
        (["greedy", "lm"], "selected", "demo_ru-dev", "ctc_outputs", True),
    ],
)
def test_log_probs_are_kept_for_beam_search_only(
    decoders: list[str], step: str, name: str, outputs: str, needed: bool
) -> None:
    config = evaluated("demo_ru-test", decoders=decoders, robustness=NOISY)
    assert paths.keeps_log_probs(config, "demo_ru", step, name, outputs) == needed
    # Without the weights, beam search could not follow at once.
    weights = paths.weights_before_log_probs(config, "demo_ru", step, name, outputs)
    assert weights == ([f"{RUN}/lm/weights.json"] if needed and step != "tuning" else [])


@pytest.mark.parametrize("name", ["demo_ru-dev", "demo_ru-test"])
def test_log_probs_of_the_selected_checkpoint_are_kept_for_confidence(name: str) -> None:
    config = evaluated("demo_ru-test")
    assert paths.keeps_log_probs(config, "demo_ru", "selected", name, "ctc_outputs")
    # There is no language model to wait for.
    assert paths.weights_before_log_probs(config, "demo_ru", "selected", name, "ctc_outputs") == []


def test_confidence_comes_from_all_decoders_and_every_score_of_a_set() -> None:
    config = evaluated("demo_ru-test", decoders=["greedy", "lm"], robustness=NOISY)
    scores = [f"{RUN}/evaluation/{step}/demo_ru-test/{decoder}" for step in (7, 8) for decoder in ("greedy", "lm")]
    assert paths.confidence_scores(config, "demo_ru", "demo_ru-test", [7, 8]) == scores
    # Dev is not scored where another set selects the checkpoint.
    evaluation = {"sets": ["demo_ru-test"], "decoders": ["greedy", "lm"]}
    config = demo_config(evaluation=evaluation, select={"set": "demo_ru-test"})
    dev = [f"{RUN}/evaluation/selected/demo_ru-dev/{decoder}" for decoder in ("greedy", "lm")]
    assert paths.confidence_scores(config, "demo_ru", "demo_ru-dev", [7, 8]) == dev


def test_scored_base_is_tuned_on_dev_before_other_sets() -> None:
    demo = yaml.safe_load((ROOT / "config/config.yaml").read_text(encoding="utf-8"))
    evaluation = demo["runs"]["demo_ru"]["evaluation"] | {"sets": ["demo_ru-dev", "demo_ru-test"]}
    evaluation["lm"] = {"text": "files", "files": ["sentences.txt"]}
    run = {"language": "ru", "training": "none", "model": {"base": "./base"}, "dev": "demo_ru-dev"}
    demo["runs"]["scored"] = run | {"evaluation": evaluation}
    config = load(demo)
    dev, test = (
        paths.weights_before_log_probs(config, "scored", "0", f"demo_ru-{name}", "ctc_outputs")
        for name in ("dev", "test")
    )
    assert dev == []
    assert test == ["results/runs/scored/lm/weights.json"]


@pytest.mark.parametrize(
    ("step", "name", "decoder", "outputs"),
    [
        ("300", "demo_ru-dev", "greedy", "ctc_outputs"),
        ("300", "demo_ru-dev", "lm", "log_probs"),
        ("300", "demo_ru-test", "lm", "ctc_outputs"),
        ("selected", "demo_ru-dev", "lm", "ctc_outputs"),
    ],
)
def test_only_dev_has_a_second_forward_pass(step: str, name: str, decoder: str, outputs: str) -> None:
    expected = f"{RUN}/evaluation/{step}/{name}/{outputs}.parquet"
    assert paths.ctc_outputs(demo_config(), "demo_ru", step, name, decoder) == expected


def test_run_without_training_scores_its_base_as_step_0() -> None:
    demo = yaml.safe_load((ROOT / "config/config.yaml").read_text(encoding="utf-8"))
    evaluation = {"sets": ["demo_ru-test"], "robustness": NOISY}
    demo["runs"]["scored"] = {
        "language": "ru", "training": "none", "model": {"base": "./base"}, "evaluation": evaluation,
    }  # fmt: skip
    config = load(demo)
    name = config.runs["scored"].model.base_name
    folder = f"results/models/{name}"
    assert paths.scored_base(config, "scored") == [{"model": name}]
    assert paths.scored_base(config, "demo_ru") == []
    assert paths.scored_bases(config) == [name]
    assert paths.folder_of(config, "scored", paths.selected_model(config, "scored")) == folder
    assert paths.folder_of(config, "demo_ru", paths.selected_model(config, "demo_ru")) == f"{RUN}/model"
    scores = [score.split("/")[3:6] for score in paths.all_scores(config, "scored", [0])]
    assert scores == [["evaluation", "0", each] for each in ("demo_ru-test", "demo_ru-test-noisy")]
    assert config.runs["scored"].datasets == ["demo_ru"]
    assert not any("/model/" in file for file in paths.results(config, "scored"))


def test_results_are_card_breakdown_and_worst_clips() -> None:
    targets = paths.results(evaluated("demo_ru-test", decoders=["greedy", "lm"]), "demo_ru")
    assert {f"{RUN}/model/README.md", f"{RUN}/worst/demo_ru-test.html"} < set(targets)
    assert paths.results(evaluated(worst_clips=0), "demo_ru") == [
        f"{RUN}/model/README.md",
        f"{RUN}/evaluation/breakdown.json",
    ]


def test_dev_decides_only_where_the_best_checkpoints_are_kept() -> None:
    assert not paths.keeps_best(demo_config().runs["demo_ru"])
    assert paths.keeps_best(demo_config(checkpoints={"best": 2}).runs["demo_ru"])


def test_another_split_as_dev_keeps_the_list_of_shards() -> None:
    changed = demo_config(dev="demo_ru-test", select={"set": "demo_ru-test"})
    assert paths.dev_shards(changed, "demo_ru") == paths.dev_shards(demo_config(), "demo_ru")
    assert paths.role_splits(changed, "demo_ru", "dev") != paths.role_splits(demo_config(), "demo_ru", "dev")


def cut_from_the_demo() -> Config:
    """Return the demo with a dataset that is cut from another one, which is cut from the demo's."""
    demo = yaml.safe_load((ROOT / "config/config.yaml").read_text(encoding="utf-8"))
    model = {"base": "someone/model", "revision": "0" * 40}
    for name, of, splits in (("aligned", "demo_ru", ["train", "dev"]), ("again", "aligned", ["train"])):
        demo["datasets"][name] = {"source": "segment", "of": of, "model": model, "splits": splits}
    demo["runs"]["demo_ru"]["train"] = ["demo_ru-train", "again-train"]
    return load(demo)


def test_recordings_are_those_that_clips_of_a_run_were_cut_from() -> None:
    config = cut_from_the_demo()
    assert config.cut_from(config.runs["demo_ru"].datasets) == {"again": "aligned", "aligned": "demo_ru"}
    assert paths.recording_splits(config, "demo_ru") == [
        {"dataset": "aligned", "split": "train"},
        {"dataset": "demo_ru", "split": "train"},
        {"dataset": "demo_ru", "split": "dev"},
    ]
    assert paths.recording_splits(demo_config(), "demo_ru") == []


def test_only_datasets_that_are_cut_from_others_have_pieces() -> None:
    config = cut_from_the_demo()
    assert {shard["split"] for shard in paths.piece_shards(config, "again")} == {"train"}
    assert paths.piece_shards(config, "demo_ru") == []
