"""The Korean demo in miniature: fine-tuned from another run's model, in jamo, scored on a drawn dev."""

import json
import unicodedata
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from working_copy import REPOSITORY, WorkingCopy, faulty_config

pytestmark = pytest.mark.slow

RUN = "results/runs/demo_ko"


def recipe() -> dict[str, Any]:
    """Return the configuration of the recipe."""
    config: dict[str, Any] = yaml.safe_load((REPOSITORY / "config/recipes/demo_ko.yaml").read_text(encoding="utf-8"))
    return config


def korean_config() -> dict[str, Any]:
    """Return the recipe with a small corpus, the Russian run of `finished`, and an unavailable evaluation set."""
    config, russian = recipe(), faulty_config()
    del config["speak"]["demo_ru"]
    config["speak"]["demo_ko"]["splits"] = {"train": {"voices": 8, "clips": 48}, "test": {"voices": 2, "clips": 6}}
    config["datasets"]["demo_ru"] = russian["datasets"]["demo_ru"]
    config["datasets"]["demo_ko"] |= {"shards": 1, "drawn": {"dev": {"of": "train", "share": 0.3}}}
    config["datasets"]["long_ko"] = {
        "source": "folder", "path": "not/here", "language": "ko", "name": "Long recordings", "licence": "CC0-1.0",
        "pattern": "{split}/{sentence}.wav", "splits": ["test"], "shards": 1, "optional": True,
    }  # fmt: skip
    config["runs"]["demo_ru"] = russian["runs"]["demo_ru"]
    run = config["runs"]["demo_ko"]
    # One checkpoint.
    run |= {"device": "cpu", "plan": {"epochs": 1, "batch": {"seconds": 30}, "save_steps": 1000}}
    run["finetune"] |= {"warmup_steps": 1, "logging_steps": 1, "threads": 1}
    run["evaluation"]["sets"].append("long_ko-test")
    return config


@pytest.fixture(scope="module")
def korean(tmp_path_factory: pytest.TempPathFactory, finished: WorkingCopy) -> WorkingCopy:
    """A copy of `finished` in which the Korean run is finished too."""
    copy = finished.copy(tmp_path_factory.mktemp("korean") / "copy")
    run = copy.snakemake(korean_config(), f"{RUN}/model/README.md")
    assert run.jobs["finetune"] == 1
    return copy


def scores_folder(copy: WorkingCopy, name: str) -> Path:
    """Return the folder with the scores of the last checkpoint on a set."""
    last = copy.read_json(f"{RUN}/plan.json")["total_steps"]
    return copy.folder / RUN / "evaluation" / str(last) / name / "greedy"


def test_base_is_the_model_of_the_other_run(korean: WorkingCopy) -> None:
    source = korean.read_json("results/models/run-demo_ru.json")
    selection = korean.read_json("results/runs/demo_ru/selection.json")
    assert source == {"run": "demo_ru", "step": selection["step"], "sha256": selection["sha256"]}


def test_model_has_a_new_head_for_jamo(korean: WorkingCopy) -> None:
    vocab = korean.read_json(f"{RUN}/vocab/vocab.json")
    assert korean.read_json(f"{RUN}/model/config.json")["vocab_size"] == len(vocab)
    assert all(
        unicodedata.name(c).startswith("HANGUL") and not "가" <= c <= "힣" for c in vocab if len(c) == 1 and c != "|"
    )


def test_model_learns_jamo_and_is_scored_in_syllables(korean: WorkingCopy) -> None:
    texts = pd.read_parquet(korean.folder / RUN / "clips/train.parquet")["text"]
    assert all(unicodedata.normalize("NFD", text) == text for text in texts)
    references = pd.read_parquet(scores_folder(korean, "demo_ko-test") / "hypotheses.parquet")["scored_reference"]
    assert all(unicodedata.normalize("NFC", text) == text for text in references)
    assert set("".join(references)) <= set("하나둘셋넷다섯여섯일곱여덟아홉열 ")


def test_dev_is_drawn_by_speaker_and_scored(korean: WorkingCopy) -> None:
    train, dev = (pd.read_parquet(korean.folder / RUN / f"clips/{name}.parquet") for name in ("train", "demo_ko-dev"))
    assert not set(train["speaker_id"]) & set(dev["speaker_id"])
    assert len(train) + len(dev) == 48
    scored = json.loads((scores_folder(korean, "demo_ko-dev") / "metrics.json").read_text())
    assert scored["clips_scored"] == scored["clips_expected"] == len(dev)


def test_unavailable_set_has_null_scores_and_is_named(korean: WorkingCopy) -> None:
    scored = json.loads((scores_folder(korean, "long_ko-test") / "metrics.json").read_text())
    assert (scored["wer"], scored["cer"], scored["loss"], scored["clips_scored"]) == (None, None, None, 0)
    assert "not/here does not exist" in scored["unavailable"]
    assert "Long recordings test: not/here does not exist" in (korean.folder / RUN / "model/README.md").read_text()
    assert "long_ko: not/here does not exist" in (korean.folder / RUN / "plan.txt").read_text()


def test_card_names_the_base_and_the_drawn_split(korean: WorkingCopy) -> None:
    card = (korean.folder / RUN / "model/README.md").read_text()
    assert "a fine-tuned version of the model of the run `demo_ru` (step " in card
    assert "demo-1.0 dev: 30% of the speakers of train" in card
    assert 'unicodedata.normalize("NFC", transcriber("recording.wav")["text"])' in card


def test_russian_part_of_the_recipe_is_the_demo() -> None:
    demo = yaml.safe_load((REPOSITORY / "config/config.yaml").read_text(encoding="utf-8"))
    assert {key: recipe()[key]["demo_ru"] for key in demo} == {key: demo[key]["demo_ru"] for key in demo}
