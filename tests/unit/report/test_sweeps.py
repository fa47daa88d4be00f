"""What is shown of a sweep: spread over seeds, paired tests between runs, the best model."""

import itertools
import random
from pathlib import Path

import pandas as pd
import pytest

from speechmill.core.schemas import HYPOTHESES
from speechmill.core.tables import write_table
from speechmill.report.runs_table import RunEntry, RunsTableSettings, Score, SetEntry, build_rows, render_page
from speechmill.report.sweeps import SweepEntry, compare_runs
from speechmill.scoring.systems import System

DEV = System("c-dev", 5, "greedy")
SWEEP = SweepEntry(
    name="demo",
    runs={f"demo_{base}{seed}": {"model": base} for base in ("small", "large") for seed in (1, 2)},
    compares_models=True,
)


def write_hypotheses(folder: Path, run: str, errors: list[int], reference: str = "a b c d") -> dict[System, Path]:
    """Write the hypotheses of a run, one clip for each speaker, with these numbers of substitutions."""
    rows = [
        {
            "dataset": "c", "split": "dev", "id": str(i), "speaker_id": f"s{i}", "seconds": 1.0,
            "sentence": reference, "hypothesis": "", "scored_reference": reference, "scored_hypothesis": "",
            "hits": 4 - wrong, "substitutions": wrong, "deletions": 0, "insertions": 0,
            "character_errors": wrong, "characters": 8, "loss": 1.0,
        }
        for i, wrong in enumerate(errors)
    ]  # fmt: skip
    path = folder / run / "hypotheses.parquet"
    write_table(rows, HYPOTHESES, path)
    return {DEV: path}


def test_pairs_are_tested_and_corrected_together(tmp_path: Path) -> None:
    draw = random.Random(1)
    good = [draw.choice([0, 0, 1]) for _ in range(40)]
    runs = {"good": good, "same": good, "bad": [wrong + draw.choice([1, 2]) for wrong in good]}
    files = {run: write_hypotheses(tmp_path, run, errors) for run, errors in runs.items()}
    (pairs,) = compare_runs(files, dict.fromkeys(files, "wer"))
    assert pairs.runs == ["good", "same", "bad"]
    assert list(pairs.differences) == [("same", "good"), ("bad", "good"), ("bad", "same")]
    same, bad, also_bad = pairs.differences.values()
    assert (same.difference, same.corrected) == (0, 1)
    assert bad == also_bad
    assert bad.difference == pytest.approx((sum(runs["bad"]) - sum(good)) / 160)
    assert bad.p_value is not None
    # The smallest of three p-values is multiplied by three.
    assert bad.corrected == pytest.approx(3 * bad.p_value)


def test_runs_on_other_clips_are_not_compared(tmp_path: Path) -> None:
    files = {
        "a": write_hypotheses(tmp_path, "a", [1, 0, 1]),
        "b": write_hypotheses(tmp_path, "b", [0, 0, 1]),
        "other_text": write_hypotheses(tmp_path, "other_text", [0, 0, 1], "a b c e"),
        "fewer": write_hypotheses(tmp_path, "fewer", [0, 0]),
    }
    (pairs,) = compare_runs(files, dict.fromkeys(files, "wer"))
    assert pairs.runs == ["a", "b"]


def score(wer: float, digest: str = "e") -> Score:
    return Score(wer=wer, cer=wer / 2, interval=None, scored=9, expected=10, clips_digest=digest)


def page(scores: dict[str, Score], hours: dict[str, float] | None = None) -> str:
    """Return the page of the runs of SWEEP, which each have a score on dev."""
    settings = RunsTableSettings(
        runs=[RunEntry(name=run, start="random weights", trained_on=["train"]) for run in SWEEP.runs],
        sets=[SetEntry(name="c-dev", title="A corpus dev")],
        sweeps=[SWEEP],
    )
    rows = build_rows(settings, {run: {("c-dev", "greedy", "plain"): each} for run, each in scores.items()})
    facts = {
        run: {
            "parameters": 10**6, "hours": 1.0, "epochs": 1, "steps": 200, "step": 200, "averaged": (), "device": "cpu",
            "wall_seconds": 3600 * (hours or {}).get(run, 1.0), "selected_by": each.wer,
            "selection": {"set": "c-dev", "decoder": "greedy", "metric": "wer"},
        }
        for run, each in scores.items()
    }  # fmt: skip
    return render_page(settings, facts, rows, {})


def test_page_shows_mean_and_spread_over_seeds() -> None:
    rates = dict(zip(SWEEP.runs, (0.3, 0.4, 0.1, 0.2), strict=True))
    text = page({run: score(rate) for run, rate in rates.items()})
    # The standard deviation of two values is their difference by the root of two.
    assert "35.00 ± 7.07<br><small>30.00 – 40.00</small><br><small>2 runs" in text
    assert "15.00 ± 7.07<br><small>10.00 – 20.00</small>" in text


def test_page_names_the_best_model_and_its_hours() -> None:
    rates = dict(zip(SWEEP.runs, (0.3, 0.4, 0.1, 0.2), strict=True))
    text = page({run: score(rate) for run, rate in rates.items()}, dict(zip(SWEEP.runs, (1, 1, 2, 4), strict=True)))
    comparison = text.split("Which model of demo is best")[1]
    assert "<b>large</b>" in comparison
    assert comparison.index("3.00 hours") < comparison.index("1.00 hours")


def test_equal_models_have_no_winner() -> None:
    assert "no model is better than all others" in page({run: score(0.3) for run in SWEEP.runs})


def test_seeds_on_other_clips_have_no_mean() -> None:
    text = page({run: score(0.3, digest=str(i)) for i, run in enumerate(SWEEP.runs)})
    assert "on different clips" in text
    assert "2 runs" not in text.split("The sweep demo")[1].split("</table>")[0]


def test_twenty_runs_have_a_cell_for_each_pair(tmp_path: Path) -> None:
    files = {f"run{i}": write_hypotheses(tmp_path, f"run{i}", [i % 3, 1, 0]) for i in range(20)}
    (pairs,) = compare_runs(files, dict.fromkeys(files, "cer"))
    assert set(pairs.differences) == {(b, a) for a, b in itertools.combinations(files, 2)}
    assert pairs.metric == "cer"
    assert all(pd.notna(each.corrected) for each in pairs.differences.values())
