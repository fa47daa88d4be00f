"""The Korean demo in miniature: a run that starts from another's model, writes jamo, and is scored on a drawn dev."""

import json
import unicodedata
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from working_copy import REPOSITORY, SPOKEN, WorkingCopy, tiny_config, working_copy

pytestmark = pytest.mark.slow

RUN = "results/runs/demo_ko"


def korean_config() -> dict[str, Any]:
    """The recipe with small models and corpora, and an evaluation set that cannot be had."""
    config = yaml.safe_load((REPOSITORY / "config/recipes/demo_ko.yaml").read_text(encoding="utf-8"))
    russian = tiny_config(SPOKEN)
    config["speak"]["demo_ru"] = russian["speak"]["demo_ru"]
    config["speak"]["demo_ko"]["splits"] = {"train": {"voices": 8, "clips": 48}, "test": {"voices": 2, "clips": 6}}
    config["datasets"]["demo_ru"] = russian["datasets"]["demo_ru"]
    config["datasets"]["demo_ko"] |= {"shards": 1, "drawn": {"dev": {"of": "train", "share": 0.3}}}
    config["datasets"]["long_ko"] = {
        "source": "folder", "path": "not/here", "language": "ko", "name": "Long recordings", "licence": "CC0-1.0",
        "pattern": "{split}/{sentence}.wav", "splits": ["test"], "shards": 1, "optional": True,
    }  # fmt: skip
    config["runs"]["demo_ru"] = russian["runs"]["demo_ru"]
    # One checkpoint each.
    plan = {"epochs": 1, "batch": {"seconds": 30}, "save_steps": 1000}
    config["runs"]["demo_ru"] |= {"plan": plan, "evaluation": {"sets": ["demo_ru-dev"]}}
    run = config["runs"]["demo_ko"]
    run |= {"device": "cpu", "plan": plan}
    run["finetune"] |= {"warmup_steps": 1, "logging_steps": 1, "threads": 1}
    run["evaluation"]["sets"].append("long_ko-test")
    return config


@pytest.fixture(scope="module")
def korean(tmp_path_factory: pytest.TempPathFactory, spoken_archive: Path) -> WorkingCopy:
    """A working copy in which the Korean run is finished."""
    copy = working_copy(tmp_path_factory.mktemp("korean"))
    (copy.folder / SPOKEN).parent.mkdir(parents=True)
    (copy.folder / SPOKEN).symlink_to(spoken_archive)
    copy.snakemake(korean_config(), f"{RUN}/model/README.md")
    return copy


def read(copy: WorkingCopy, file: str) -> Any:
    return json.loads((copy.folder / file).read_text(encoding="utf-8"))


def evaluated(copy: WorkingCopy, name: str) -> Path:
    """The folder of the last checkpoint's scores on a set."""
    last = read(copy, f"{RUN}/plan.json")["total_steps"]
    return copy.folder / RUN / "evaluation" / str(last) / name / "greedy"


def test_the_base_is_the_model_of_the_other_run(korean: WorkingCopy) -> None:
    source = read(korean, "results/models/run-demo_ru.json")
    selection = read(korean, "results/runs/demo_ru/selection.json")
    assert source == {"run": "demo_ru", "step": selection["step"], "sha256": selection["sha256"]}


def test_the_head_is_new_and_the_rest_is_the_base_s(korean: WorkingCopy) -> None:
    vocab = read(korean, f"{RUN}/vocab/vocab.json")
    assert read(korean, f"{RUN}/model/config.json")["vocab_size"] == len(vocab)
    assert all(
        unicodedata.name(c).startswith("HANGUL") and not "가" <= c <= "힣" for c in vocab if len(c) == 1 and c != "|"
    )


def test_what_is_learned_is_jamo_and_what_is_scored_is_syllables(korean: WorkingCopy) -> None:
    texts = pd.read_parquet(korean.folder / RUN / "clips/train.parquet")["text"]
    assert all(unicodedata.normalize("NFD", text) == text for text in texts)
    references = pd.read_parquet(evaluated(korean, "demo_ko-test") / "hypotheses.parquet")["scored_reference"]
    assert all(unicodedata.normalize("NFC", text) == text for text in references)
    assert set("".join(references)) <= set("하나둘셋넷다섯여섯일곱여덟아홉열 ")


def test_dev_is_drawn_by_speaker_and_scored_whole(korean: WorkingCopy) -> None:
    train, dev = (pd.read_parquet(korean.folder / RUN / f"clips/{name}.parquet") for name in ("train", "demo_ko-dev"))
    assert not set(train["speaker_id"]) & set(dev["speaker_id"])
    assert len(train) + len(dev) == 48
    scored = json.loads((evaluated(korean, "demo_ko-dev") / "metrics.json").read_text())
    assert scored["clips_scored"] == scored["clips_expected"] == len(dev)


def test_a_set_that_cannot_be_had_has_null_for_its_scores_and_is_named_in_plan_and_card(korean: WorkingCopy) -> None:
    scored = json.loads((evaluated(korean, "long_ko-test") / "metrics.json").read_text())
    assert (scored["wer"], scored["cer"], scored["loss"], scored["clips_scored"]) == (None, None, None, 0)
    assert "not/here does not exist" in scored["unavailable"]
    assert (
        "Long recordings test: not/here does not exist" in (korean.folder / RUN / "model/README.md").read_text()
    )
    assert "long_ko: not/here does not exist" in (korean.folder / RUN / "plan.txt").read_text()


def test_the_card_says_where_it_starts_from_and_what_was_drawn(korean: WorkingCopy) -> None:
    card = (korean.folder / RUN / "model/README.md").read_text()
    assert "a fine-tuned version of the model of the run `demo_ru` (step " in card
    assert "demo-1.0 dev: 30% of the speakers of train" in card
    assert 'unicodedata.normalize("NFC", transcriber("recording.wav")["text"])' in card


def test_the_recipe_s_russian_part_is_the_demo_s() -> None:
    recipe, demo = (
        yaml.safe_load((REPOSITORY / file).read_text(encoding="utf-8"))
        for file in ("config/recipes/demo_ko.yaml", "config/config.yaml")
    )
    assert {key: recipe[key]["demo_ru"] for key in demo} == {key: demo[key]["demo_ru"] for key in demo}
