from pathlib import Path

import pytest

from material import ROOT, run_stage

RECIPES = ROOT / "config" / "recipes"


@pytest.mark.parametrize(
    ("recipe", "parts"),
    [
        (
            "ru_common_voice_8",
            # 46,329 clips less a tenth of dev, ten times in batches of 32: 14,184 steps, a checkpoint each 500.
            [
                "about 45,388 clips",
                "14,184 steps, 29 checkpoints",
                "optional     robust_dev_ru",
                "111.7 GB of checkpoints",
            ],
        ),
        (
            "ko_zeroth",
            ["10.3 GB", "about 21,150 clips", "drawn: 5% of the speakers of train", "test         457 clips, 1.2 h"],
        ),
    ],
)
def test_recipe_is_estimated_without_fetching(recipe: str, parts: list[str], tmp_path: Path) -> None:
    done = run_stage("dag.forecast", RECIPES / f"{recipe}.yaml")
    assert done.returncode == 0, done.stderr
    for part in parts:
        assert part in done.stdout


def test_recipe_without_expected_sizes() -> None:
    done = run_stage("dag.forecast", RECIPES / "fsdd.yaml")
    assert "not specified, so not counted here" in done.stdout


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "cannot be read as YAML"),
        ("- a", "is not a configuration"),
        ("datasets: {}", "runs: this key is required"),
    ],
)
def test_invalid_configuration_is_an_error(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text(text)
    done = run_stage("dag.forecast", file)
    assert done.returncode == 1
    assert message in done.stderr


def test_shares_of_drawn_splits_agree_everywhere(tmp_path: Path) -> None:
    text = (RECIPES / "ko_zeroth.yaml").read_text(encoding="utf-8")
    file = tmp_path / "drawn.yaml"
    drawn = "drawn: {dev: {of: train, share: 0.125}, more: {of: train, share: 0.375}}"
    file.write_text(text.replace("drawn: {dev: {of: train, share: 0.05}}", drawn), encoding="utf-8")
    done = run_stage("dag.forecast", file)
    assert "  dev          drawn: 12.5% of the speakers of train\n" in done.stdout
    assert "  more         drawn: 37.5% of the speakers of train\n" in done.stdout
    # Half of 22,263 clips.
    assert "about 11,132 clips" in done.stdout


def test_gpus_share_steps_and_best_checkpoints_save_disk(tmp_path: Path) -> None:
    text = (RECIPES / "ru_common_voice_8.yaml").read_text(encoding="utf-8")
    file = tmp_path / "changed.yaml"
    file.write_text(
        text.replace(
            "    language: ru\n    train:", "    language: ru\n    gpus: 2\n    checkpoints: {best: 3}\n    train:"
        )
    )
    done = run_stage("dag.forecast", file)
    assert done.returncode == 0, done.stderr
    # Half of 14,184 steps. Three checkpoints of 3.85 GB and one more during training.
    for part in ("7,092 steps, 15 checkpoints, of which 3 are kept", "15.4 GB of checkpoints", "of the peak of 2 H100"):
        assert part in done.stdout


def test_weights_of_mixing_count(tmp_path: Path) -> None:
    text = (RECIPES / "ko_zeroth.yaml").read_text(encoding="utf-8")
    file = tmp_path / "mixed.yaml"
    mixing = "    language: ko\n    mixing: {by: language, weights: {ko: 2}}\n    train:"
    file.write_text(text.replace("    language: ko\n    train:", mixing), encoding="utf-8")
    # Twice 21,150 clips.
    assert "about 42,300 clips" in run_stage("dag.forecast", file).stdout
