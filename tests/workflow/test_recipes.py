"""The recipes, on small corpora in the layout that each recipe reads."""

import json
import re
import shutil
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
import torch
import yaml
from transformers import Wav2Vec2Config, Wav2Vec2ForPreTraining
from working_copy import WorkingCopy, working_copy

from hub_server import Hub, Repository, served
from material import RELEASE, audio_file, noise, tar, tsv

pytestmark = pytest.mark.slow

# Source: the configuration and feature extractor of facebook/wav2vec2-xls-r-1b; values that are not the defaults.
XLS_R_1B = {
    "model_type": "wav2vec2", "hidden_size": 1280, "num_hidden_layers": 48, "num_attention_heads": 16,
    "intermediate_size": 5120, "feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True,
}  # fmt: skip
EXTRACTOR = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "return_attention_mask": True}
# A small version, at least as wide as the longest feature masks of the recipes.
SMALL = {
    "hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128, "conv_dim": [32] * 7,
    "codevector_dim": 16, "proj_codevector_dim": 16, "num_codevectors_per_group": 8,
}  # fmt: skip


def small_base(folder: Path) -> dict[str, bytes]:
    """Return the files of a small pretrained XLS-R with random weights."""
    torch.manual_seed(0)
    Wav2Vec2ForPreTraining(Wav2Vec2Config(**XLS_R_1B | SMALL)).save_pretrained(folder)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    return files | {"preprocessor_config.json": json.dumps(EXTRACTOR).encode()}


def run_recipe(copy: WorkingCopy, recipe: str, base: dict[str, bytes], *arguments: str) -> None:
    """Run snakemake on the recipe, with a local Hub that has the base model but not the Robust Speech Event sets."""
    model = Repository({"c" * 40: base}, {"main": "c" * 40})
    with served(Hub({"facebook/wav2vec2-xls-r-1b": model})) as hub:
        copy.snakemake(
            None, *arguments, "--configfile", f"config/recipes/{recipe}.yaml",
            HF_ENDPOINT=hub.url, HF_HOME=str(copy.folder / "hub"), HF_HUB_DISABLE_XET="1", NO_PROXY="127.0.0.1",
        )  # fmt: skip


def plan(copy: WorkingCopy, recipe: str, dataset: str, corpus: Path, *audits: str) -> None:
    """Run the recipe on a corpus as far as the plan, with the configuration of the real base model, without weights."""
    base = {"config.json": json.dumps(XLS_R_1B).encode(), "preprocessor_config.json": json.dumps(EXTRACTOR).encode()}
    # No plan reads the weights.
    base["model.safetensors"] = b""
    run_recipe(
        copy, recipe, base, f"results/runs/{recipe}/plan.json", *(f"results/data/{name}/audit.json" for name in audits),
        "--config", f"datasets={{{dataset}: {{path: {corpus}}}}}",
    )  # fmt: skip


def finish(planned: WorkingCopy, recipe: str, dataset: str, folder: Path) -> WorkingCopy:
    """Run the recipe to its card in a copy of `planned`, with a small base model and few steps."""
    copy = planned.copy(folder / "copy")
    shutil.rmtree(copy.folder / "results" / "models")
    shutil.rmtree(copy.folder / "hub")
    # The corpus has been ingested and is not needed any more. Accelerate refuses fp16 on the CPU.
    changes: dict[str, Any] = {
        "device": "cpu",
        "plan": {"epochs": 1, "save_steps": 1000},
        "finetune": {"precision": "fp32"},
        "evaluation": {"lm": {"lm_weight": [1.0], "word_score": [0.0]}},
    }
    run_recipe(
        copy, recipe, small_base(folder / "base"), f"results/runs/{recipe}/model/README.md",
        "--config", f"runs={json.dumps({recipe: changes})}", f"datasets={{{dataset}: {{path: elsewhere}}}}",
    )  # fmt: skip
    return copy


# Source: the cards of the two published models, and the arguments of the Korean one.
PUBLISHED = {
    "ru_common_voice_8": {
        "learning_rate": 5e-5, "train_batch_size": 32, "gradient_accumulation_steps": 1,
        "lr_scheduler_warmup_steps": 500,
    },
    "ko_zeroth": {
        "learning_rate": 7.5e-5, "train_batch_size": 8, "gradient_accumulation_steps": 4,
        "lr_scheduler_warmup_steps": 2000,
    },
}  # fmt: skip
BOTH = {
    "seed": 42, "total_train_batch_size": 32, "lr_scheduler_type": "linear",
    "optimizer": "AdamW with betas=(0.9,0.999), epsilon=1e-08 and weight_decay=0.0",
}  # fmt: skip
MASKS_AND_DROPOUTS = {
    "activation_dropout": 0.1, "feat_proj_dropout": 0.0, "layerdrop": 0.0, "mask_time_prob": 0.75,
    "mask_time_length": 10, "mask_feature_prob": 0.25, "mask_feature_length": 64,
}  # fmt: skip


def check_finished(copy: WorkingCopy, recipe: str, own: set[str], absent: set[str]) -> None:
    """Check that all hyper-parameters are those of the recipe, that every set is scored, and that there is a card."""
    run = f"results/runs/{recipe}"
    training = copy.read_json(f"{run}/training.json")
    assert training["hyper_parameters"].items() >= (PUBLISHED[recipe] | BOTH).items()
    section = yaml.safe_load((copy.folder / f"config/recipes/{recipe}.yaml").read_text())["runs"][recipe]
    trained = training["settings"]
    assert trained["finetune"].items() >= (section["finetune"] | {"precision": "fp32"}).items()
    assert trained["plan"]["batch"].items() >= section["plan"]["batch"].items()
    config = copy.read_json(f"{run}/model/config.json")
    assert config.items() >= (MASKS_AND_DROPOUTS | section["model"]["config"]).items()
    planned = copy.read_json(f"{run}/plan.json")
    summary = pd.read_parquet(copy.folder / run / "evaluation/summary.parquet")
    assert {*zip(summary["step"], summary["set"], strict=True)} == {*product(planned["checkpoints"], own | absent)}
    assert {*summary["set"][summary["wer"].notna()]} == own
    assert "### Training results" in (copy.folder / run / "model/README.md").read_text()


def mp3(seed: int) -> bytes:
    return audio_file(noise(1 + seed % 5 / 10, rate=48_000, seed=seed), 48_000, "MP3", "MPEG_LAYER_III")


# Words that remain different after everything except Cyrillic letters is removed.
WORDS = {"train": "раз", "dev": "два", "test": "три", "other": "четыре", "invalidated": "пять"}


@pytest.fixture(scope="module")
def russian(tmp_path_factory: pytest.TempPathFactory) -> WorkingCopy:
    """The Russian recipe, planned on a release of Common Voice in which `other` collides with test."""
    folder = tmp_path_factory.mktemp("russian")
    clips: dict[str, bytes] = {}

    def row(split: str, i: int, **changes: str) -> dict[str, str]:
        name = f"common_voice_ru_{split}_{i}.mp3"
        clips[name] = mp3(1000 * len(split) + i)
        return {
            "client_id": f"{split}{i}",
            "path": name,
            "sentence": f"Фраза {WORDS[split]} {i}, кто-то ёж.",
            "locale": "ru",
        } | changes

    tables = {
        split: [row(split, i) for i in range(n)] for split, n in (("train", 6), ("dev", 40), ("test", 6), ("other", 4))
    }
    test = tables["test"]
    tables["other"] += [
        row("other", 10, client_id=test[0]["client_id"]),
        row("other", 11, sentence=test[1]["sentence"].upper().replace(".", "!")),
        row("other", 12),
        row("other", 13),
        # With the Latin letter o instead of the Cyrillic one.
        row("other", 14, sentence=test[4]["sentence"].replace("о", "o")),
    ]
    clips[tables["other"][6]["path"]] = clips[test[2]["path"]]
    # A tag at the end changes the file, not the recording. Source: ID3v1, 128 bytes.
    clips[tables["other"][7]["path"]] = clips[test[3]["path"]] + b"TAG" + bytes(125)
    tables |= {"validated": tables["train"] + tables["dev"] + test, "invalidated": [row("invalidated", 0)]}
    members = [(f"{RELEASE}/ru/clips/{name}", content) for name, content in clips.items()]
    members += [(f"{RELEASE}/ru/{split}.tsv", tsv(rows)) for split, rows in tables.items()]
    archive = tar(folder / "cv-corpus-8.0-2022-01-19-ru.tar.gz", members)
    copy = working_copy(folder / "copy")
    plan(copy, "ru_common_voice_8", "cv8_ru", archive, "cv8_ru")
    return copy


RU = "results/runs/ru_common_voice_8"


def test_russian_recipe_plans_from_common_voice(russian: WorkingCopy) -> None:
    planned = russian.read_json(f"{RU}/plan.json")
    held = russian.read_json(f"{RU}/clips/cv8_ru-held.json")["clips"]
    assert held > 0
    assert planned["clips"] + planned["excluded"]["leakage"] == 6 + 40 + 9 - held
    # Source: the size of the published model, about 962 million parameters.
    assert planned["parameters"] == pytest.approx(962e6, rel=0.01)
    vocab = russian.read_json(f"{RU}/vocab/vocab.json")
    assert {"ё", "ж", "|"} < set(vocab)
    assert not {"o", ".", "-", "1"} & set(vocab)


def test_collisions_with_test_are_removed_and_counted(russian: WorkingCopy) -> None:
    found = russian.read_json(f"{RU}/clips/leakage.json")["cv8_ru-test"]
    counts = {kind: sorted(each["id"] for each in found[kind]["examples"]) for kind in ("speaker", "sentence", "audio")}
    assert counts == {
        "speaker": ["common_voice_ru_other_10.mp3"],
        "sentence": ["common_voice_ru_other_11.mp3", "common_voice_ru_other_14.mp3"],
        "audio": ["common_voice_ru_other_12.mp3", "common_voice_ru_other_13.mp3"],
    }
    assert found["removed"] == 5
    excluded = pd.read_parquet(russian.folder / RU / "clips/excluded.parquet").set_index("id")
    assert {name: excluded.loc[f"common_voice_ru_other_{i}.mp3", "detail"] for i, name in enumerate("abcde", 10)} == {
        "a": "speaker of cv8_ru-test",
        "b": "sentence of cv8_ru-test",
        "c": "audio of cv8_ru-test",
        "d": "audio of cv8_ru-test",
        "e": "sentence of cv8_ru-test",
    }
    assert "cv8_ru-test: training clips collide with it" in (russian.folder / RU / "plan.txt").read_text()


def test_audit_shows_overlaps_of_other_and_test(russian: WorkingCopy) -> None:
    (pair,) = (
        each
        for each in russian.read_json("results/data/cv8_ru/audit.json")["overlaps"]
        if {*each["splits"]} == {"test", "other"}
    )
    # The recording with another tag is the same by its samples, not as a file.
    assert {kind: pair[kind]["common"] for kind in ("speakers", "sentences", "files", "recordings")} == {
        "speakers": 1, "sentences": 1, "files": 1, "recordings": 2,
    }  # fmt: skip


def test_unavailable_sets_are_named_in_the_plan(russian: WorkingCopy) -> None:
    plan_text = (russian.folder / RU / "plan.txt").read_text()
    for name in ("robust_dev_ru", "robust_test_ru"):
        assert re.search(rf"UNAVAILABLE +{name}: ", plan_text)


def test_deviation_from_expected_counts_is_named(russian: WorkingCopy) -> None:
    assert "train has 6 clips, but 21,712 were expected" in (russian.folder / RU / "plan.txt").read_text()


def test_russian_recipe_runs_to_its_card(russian: WorkingCopy, tmp_path: Path) -> None:
    finished = finish(russian, "ru_common_voice_8", "cv8_ru", tmp_path)
    absent = {"robust_dev_ru-validation", "robust_test_ru-test"}
    check_finished(finished, "ru_common_voice_8", {"cv8_ru-held", "cv8_ru-test"}, absent)


@pytest.fixture(scope="module")
def korean(tmp_path_factory: pytest.TempPathFactory) -> WorkingCopy:
    """The Korean recipe, planned on an archive in the layout of Zeroth-Korean."""
    folder = tmp_path_factory.mktemp("korean")
    members = [("AUDIO_INFO", b"SPEAKERID|NAME|SEX|SCRIPTID|DATASET\n")]
    members += [("zeroth.lm.tg.arpa.gz", b"a language model")]
    for split, script, speakers in (("train", "003", range(101, 161)), ("test", "004", range(201, 204))):
        for speaker in speakers:
            top = f"{split}_data_01/{script}/{speaker}/{speaker}_{script}"
            # Several speakers read the same sentences, as in the corpus: one sentence is read by all, others by two.
            numbers = (0, speaker // 2)
            lines = [f"{speaker}_{script}_{i:04d} {split} 한국어 문장 {n} 번" for i, n in enumerate(numbers)]
            members.append((f"{top}.trans.txt", "\n".join(lines).encode() + b"\n"))
            members += [
                (f"{top}_{i:04d}.flac", audio_file(noise(1.5, seed=10 * speaker + i), kind="FLAC")) for i in range(2)
            ]
    copy = working_copy(folder / "copy")
    plan(copy, "ko_zeroth", "zeroth", tar(folder / "zeroth_korean.tar.gz", members))
    return copy


def test_korean_recipe_plans_from_zeroth(korean: WorkingCopy) -> None:
    run = "results/runs/ko_zeroth"
    train = pd.read_parquet(korean.folder / run / "clips/train.parquet")
    dev = pd.read_parquet(korean.folder / run / "clips/zeroth-dev.parquet")
    assert korean.read_json(f"{run}/plan.json")["clips"] == len(train) == 120 - len(dev)
    assert len(dev) > 0
    assert not set(train["speaker_id"]) & set(dev["speaker_id"])
    assert {"train 한국어 문장 영 번", "train 한국어 문장 칠십 번"} < set(train["text"])
    assert {"한", "국", "|"} < set(korean.read_json(f"{run}/vocab/vocab.json"))
    # The corpus repeats its sentences, so that those of dev are in training; they are reported, not removed.
    shared = train["text"].isin(set(dev["text"])).sum()
    assert len(train) > shared >= len(train) / 2
    assert korean.read_json(f"{run}/clips/leakage.json")["zeroth-dev"]["sentence"] | {"examples": []} == {
        "clips": shared, "action": "report", "examples": [],
    }  # fmt: skip


def test_korean_recipe_runs_to_its_card(korean: WorkingCopy, tmp_path: Path) -> None:
    finished = finish(korean, "ko_zeroth", "zeroth", tmp_path)
    absent = {"robust_dev_ko-validation", "robust_test_ko-test"}
    check_finished(finished, "ko_zeroth", {"zeroth-dev", "zeroth-test"}, absent)


def test_fsdd_recipe_plans_from_recordings(tmp_path: Path) -> None:
    recordings = tmp_path / "recordings"
    recordings.mkdir()
    generator = np.random.default_rng(0)
    for digit, speaker, take in product(range(10), ("george", "theo"), (5, 39, 40, 44, 45, 49)):
        sf.write(recordings / f"{digit}_{speaker}_{take}.wav", generator.normal(0, 0.1, 4000), 8000)
    copy = working_copy(tmp_path / "copy")
    target, location = "results/runs/fsdd/plan.json", f"datasets={{fsdd: {{path: {recordings}}}}}"
    # So few clips give fewer steps than the recipe has between two checkpoints, and it averages three.
    few = "runs={fsdd: {plan: {save_steps: 10}}}"
    copy.snakemake(None, target, "--configfile", "config/recipes/fsdd.yaml", "--config", location, few)
    assert copy.read_json(target)["clips"] == 40
    clips = pd.read_parquet(copy.folder / "results/runs/fsdd/clips/train.parquet").set_index("id")
    assert clips.loc["7_theo_39.wav", "text"] == "seven"
    assert clips.loc["7_theo_39.wav", "speaker_id"] == "theo"
    assert clips.loc["7_theo_39.wav", "num_samples"] == 8000
    assert set(clips.index.str.extract(r"_(\d+)\.")[0]) == {"5", "39"}
