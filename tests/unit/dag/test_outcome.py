from pathlib import Path
from typing import Any

import pytest

from speechmill.core.files import write_json
from speechmill.dag.outcome import outcome
from speechmill.scoring.summary import summarise


def metrics(run: Path, step: int, name: str, folder: str | None = None, **changes: Any) -> Path:
    """Write the scores of a set, and return their path."""
    path = run / "evaluation" / (folder or str(step)) / name / "greedy" / "metrics.json"
    scores = {
        "run": run.name, "step": step, "set": name, "decoder": "greedy", "protocol": "plain", "protocols": {},
        "wer": 1.0, "wer_ci95": [1.0, 1.0], "cer": 1 / 13, "cer_ci95": [0.0, 1.0], "loss": None, "no_interval": None,
        "substitutions": 1, "deletions": 0, "insertions": 0, "reference_words": 1, "clips_without_loss": 0,
        "clips_expected": 6, "clips_scored": 6, "characters_outside_vocabulary": {}, "unavailable": None,
        "audio_seconds": 1.0, "wall_seconds": 1.0, "forward_seconds": 1.0, "decoding_seconds": 0.0, "device": "cpu",
        "checkpoint_sha256": "", "eval_set_sha256": "",
    }  # fmt: skip
    write_json(scores | changes, path)
    return path


def finish(run: Path, *scores: Path, metric: str = "wer") -> None:
    summarise(list(scores)).to_parquet(run / "evaluation" / "summary.parquet")
    write_json({"step": 80}, run / "selection.json")
    write_json({"metric": metric}, run / "evaluation" / "breakdown.json")


@pytest.mark.parametrize(("metric", "shown"), [("wer", "WER 100.00%"), ("cer", "CER 7.69%")])
def test_terminal_shows_the_error_rate_that_decides(tmp_path: Path, metric: str, shown: str) -> None:
    finish(tmp_path, metrics(tmp_path, 80, "thai-dev"), metric=metric)
    assert f"step 80: thai-dev {shown} (greedy, 6 of 6 clips)" in outcome(tmp_path)


def test_sets_that_were_removed_from_the_configuration_are_not_listed(tmp_path: Path) -> None:
    metrics(tmp_path, 80, "thai-removed")
    metrics(tmp_path, 80, "thai-test", folder="selected")
    finish(
        tmp_path,
        metrics(tmp_path, 40, "thai-dev"),
        metrics(tmp_path, 80, "thai-dev"),
        metrics(tmp_path, 80, "thai-test", wer=None, wer_ci95=[None, None]),
        metrics(tmp_path, 80, "thai-other", wer=None, wer_ci95=[None, None], unavailable="the Hub says no"),
        metrics(tmp_path, 80, "thai-dev-noise"),
    )
    assert outcome(tmp_path).splitlines()[-1].partition("step 80: ")[2] == (
        "thai-dev WER 100.00% (greedy, 6 of 6 clips), thai-other not scored: unavailable,"
        " thai-test WER undefined (greedy, 6 of 6 clips)"
    )
