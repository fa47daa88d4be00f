"""Recipes that `make recipe` writes for folders of recordings: planned as they are, and trained with fewer steps."""

import json
from itertools import product
from pathlib import Path

import pytest
import yaml
from pympi.Elan import Eaf
from test_recipes import small_base
from working_copy import WorkingCopy, working_copy

from material import run_stage, write_recording

pytestmark = pytest.mark.slow

SPEAKERS = ["anna", "boris", "clara", "david", "elena"]
WORDS = ["zero", "one", "two", "three", "four"]
LAYOUTS = ["digits", "beside", "kaldi", "interview"]


def digits(folder: Path) -> None:
    """As in the Free Spoken Digit Dataset: the digit, the speaker and the take are in the names of the files."""
    for digit, speaker, take in product(range(len(WORDS)), SPEAKERS, range(2)):
        write_recording(folder / f"{digit}_{speaker}_{take}.wav", 0.8, 10 * digit + take)


def beside(folder: Path) -> None:
    """A text file beside each recording, and a folder for each speaker."""
    for speaker, number in product(SPEAKERS, range(10)):
        write_recording(folder / speaker / f"{number}.wav", 0.8, number)
        text = f"{WORDS[number % 5].capitalize()}, {WORDS[(number + number // 5) % 5]}!\n"
        (folder / speaker / f"{number}.txt").write_text(text, encoding="utf-8")


def kaldi(folder: Path) -> None:
    """A Kaldi data folder."""
    tables: dict[str, list[str]] = {"wav.scp": [], "text": [], "utt2spk": []}
    for speaker, number in product(SPEAKERS, range(10)):
        utterance = f"{speaker}-{number}"
        write_recording(folder / "wav" / f"{utterance}.wav", 0.8, number)
        for table, value in zip(tables, (f"wav/{utterance}.wav", WORDS[number % 5], speaker), strict=True):
            tables[table].append(f"{utterance} {value}\n")
    (folder / "data").mkdir()
    for table, lines in tables.items():
        (folder / "data" / table).write_text("".join(lines), encoding="utf-8")


def interview(folder: Path) -> None:
    """A recording with an ELAN file: a tier for each of two speakers, and one with translations."""
    write_recording(folder / "interview.wav", 60)
    elan = Eaf()
    elan.remove_tier("default")
    elan.add_linguistic_type("utterance")
    for speaker in SPEAKERS[:2]:
        elan.add_tier(speaker, ling="utterance", part=speaker.capitalize())
    elan.add_tier("translation")
    for number in range(60):
        text = f"{WORDS[number % 5]} {WORDS[number // 12]}"
        elan.add_annotation(SPEAKERS[number % 2], 1000 * number, 1000 * number + 900, text)
        elan.add_annotation("translation", 1000 * number, 1000 * number + 900, "not spoken")
    elan.to_file(str(folder / "interview.eaf"))


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> WorkingCopy:
    """A working copy with a recipe for each folder, and a small base model."""
    copy = working_copy(tmp_path_factory.mktemp("folders"))
    (copy.folder / "base").mkdir()
    for name, content in small_base(copy.folder / "made").items():
        (copy.folder / "base" / name).write_bytes(content)
    for layout in LAYOUTS:
        (copy.folder / layout).mkdir()
        globals()[layout](copy.folder / layout)
        done = run_stage("recipe.recipe", layout, "en", "--base", "./base", cwd=copy.folder)
        assert done.returncode == 0, done.stderr
    return copy


@pytest.mark.parametrize("layout", LAYOUTS)
def test_recipe_passes_a_dry_run_unchanged(copy: WorkingCopy, layout: str) -> None:
    assert {"finetune", "card"} <= set(copy.planned(None, "--configfile", f"config/recipes/{layout}.yaml"))


def test_recipes_train(copy: WorkingCopy) -> None:
    changes = {
        "device": "cpu",
        "plan": {"epochs": 1, "save_steps": 1000},
        "finetune": {"precision": "fp32", "warmup_steps": 1},
    }
    recipes = [f"config/recipes/{layout}.yaml" for layout in LAYOUTS]
    runs = yaml.safe_dump({"runs": dict.fromkeys(LAYOUTS, changes)})
    (copy.folder / "short.yaml").write_text(runs, encoding="utf-8")
    copy.snakemake(None, "--configfile", *recipes, "short.yaml")
    for layout in LAYOUTS:
        assert (copy.folder / f"results/runs/{layout}/model/README.md").is_file()
        counts = {
            role: json.loads((copy.folder / f"results/runs/{layout}/clips/{role}.json").read_text())["clips"]
            for role in ("train", f"{layout}-dev", f"{layout}-test")
        }
        assert all(counts.values())
