import sys
from pathlib import Path

import pandas as pd
import pytest

from material import as_json
from speechmill.core.command import SpeechmillError
from speechmill.core.files import file_digest, read_json
from speechmill.scoring import select
from speechmill.scoring.select import best_step, mean_is_better


def summary(**changes: object) -> pd.DataFrame:
    rows = [
        {"step": step, "set": name, "decoder": "greedy", "wer": wer, "cer": cer, "loss": loss}
        for step, name, wer, cer, loss in [
            (100, "c-dev", 0.9, 0.30, 1.0),
            (200, "c-dev", 0.5, 0.40, 2.0),
            (300, "c-dev", 0.5, 0.20, None),
            (100, "c-test", 0.1, 0.10, 0.1),
        ]
    ]
    return pd.DataFrame(rows).assign(**changes)


@pytest.mark.parametrize(("metric", "step"), [("wer", 300), ("cer", 300), ("loss", 100)])
def test_smallest_metric_wins_and_cer_decides_ties(metric: str, step: int) -> None:
    assert best_step(summary(), "c-dev", "greedy", metric) == step
    assert best_step(summary().iloc[::-1], "c-dev", "greedy", metric) == step


@pytest.mark.parametrize(
    ("scores", "step"),
    [
        # As in the first steps of training, and as long as each sentence without spaces has an error.
        ({"wer": 1.0, "cer": [1.0, 0.1, 0.2, 0.0]}, 200),
        ({"wer": 1.0, "cer": 0.5, "loss": [3.0, 1.0, 2.0, 0.0]}, 200),
        ({"wer": 1.0, "cer": 0.5, "loss": [3.0, 2.0, None, 0.0]}, 200),
        ({"wer": 1.0, "cer": 0.5, "loss": 1.0}, 300),
        ({"wer": 1.0, "cer": None, "loss": None}, 300),
    ],
)
def test_ties_fall_to_cer_then_loss_then_later_step(scores: dict[str, object], step: int) -> None:
    assert best_step(summary(**scores), "c-dev", "greedy", "wer") == step
    assert best_step(summary(**scores).iloc[::-1], "c-dev", "greedy", "wer") == step


def test_loss_falls_to_cer() -> None:
    assert best_step(summary(loss=1.0), "c-dev", "greedy", "loss") == 300


def test_only_named_set_counts() -> None:
    assert best_step(summary(), "c-test", "greedy", "wer") == 100


def test_only_named_decoder_counts() -> None:
    both = pd.concat([summary(), summary(decoder="lm", wer=[0.1, 0.2, 0.3, 0.4])])
    assert best_step(both, "c-dev", "lm", "wer") == 100
    assert best_step(both, "c-dev", "greedy", "wer") == 300


@pytest.mark.parametrize(
    ("name", "decoder", "scores"), [("c-other", "greedy", {}), ("c-dev", "lm", {}), ("c-dev", "greedy", {"wer": None})]
)
def test_missing_metric_is_reported(name: str, decoder: str, scores: dict[str, object]) -> None:
    with pytest.raises(SpeechmillError, match=f"no checkpoint has a wer on {name} with the decoder {decoder}"):
        best_step(summary(**scores), name, decoder, "wer")


@pytest.mark.parametrize(
    ("mean", "better"),
    [
        ({"wer": 0.4}, True),
        ({"wer": 0.6, "cer": 0.0}, False),
        ({"cer": 0.1}, True),
        ({"loss": 0.5}, True),
        ({"loss": None}, False),
        ({}, False),
    ],
)
def test_mean_is_selected_only_if_it_is_better(mean: dict[str, object], better: bool) -> None:
    single = {"wer": 0.5, "cer": 0.2, "loss": 1.0}
    assert mean_is_better(single | mean, single, "wer") is better


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["select", *map(str, arguments)])
    select.main()


def test_selected_checkpoint_is_copied_to_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    summary().to_parquet(tmp_path / "summary.parquet")
    for step in (100, 200, 300):
        folder = tmp_path / "checkpoints" / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        for name in ("config.json", "vocab.json", "other.txt"):
            (folder / name).write_text(f"{name} of {step}")
    model = [tmp_path / "model" / name for name in ("config.json", "vocab.json")]
    run(
        monkeypatch, "--settings", as_json({"set": "c-dev", "decoder": "greedy", "metric": "wer"}),
        "--summary", tmp_path / "summary.parquet", "--checkpoints", tmp_path / "checkpoints",
        "--model", *model, "--selection", tmp_path / "selection.json",
    )  # fmt: skip
    assert [path.read_text() for path in model] == ["config.json of 300", "vocab.json of 300"]
    assert sorted(model[0].parent.iterdir()) == model
    assert read_json(tmp_path / "selection.json") == {
        "step": 300,
        "set": "c-dev",
        "decoder": "greedy",
        "metric": "wer",
        "sha256": {file.name: file_digest(file) for file in model},
    }


def test_evaluation_only_run_selects_step_0(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = as_json({"set": None, "decoder": "greedy", "metric": "wer"})
    run(monkeypatch, "--settings", settings, "--selection", tmp_path / "selection.json")
    assert read_json(tmp_path / "selection.json") == {
        "step": 0, "set": None, "decoder": "greedy", "metric": "wer", "sha256": {},
    }  # fmt: skip
