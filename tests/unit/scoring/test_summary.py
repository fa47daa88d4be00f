from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from material import run_stage
from speechmill.core.tables import read_json, write_json
from speechmill.scoring.summary import COLUMNS, summarise

TOTALS = {
    "wer": 0.5, "cer": 0.25, "wer_ci95": [0.4, 0.6], "cer_ci95": [0.2, 0.3], "substitutions": 3, "deletions": 1,
    "insertions": 1, "reference_words": 10,
}  # fmt: skip
EVENT = TOTALS | {"wer": 0.75, "cer": 0.375}
NOTHING = dict.fromkeys(TOTALS) | {"wer_ci95": [None, None], "cer_ci95": [None, None]}


def scores(folder: Path, step: int, name: str, decoder: str = "greedy", **changes: Any) -> Path:
    """The `metrics.json` of a checkpoint on a set."""
    value = {
        "run": "r", "step": step, "set": name, "decoder": decoder, "protocol": "plain", **TOTALS,
        "protocols": {"plain": TOTALS}, "loss": 1.5, "clips_without_loss": 0, "clips_expected": 2, "clips_scored": 2,
        "unavailable": None, "characters_outside_vocabulary": {"ё": 2, "ж": 1}, "audio_seconds": 3.0,
        "wall_seconds": 1.0, "device": "cpu", "checkpoint_sha256": "c", "eval_set_sha256": "e",
    }  # fmt: skip
    path = folder / str(step) / name / decoder / "metrics.json"
    write_json(value | changes, path)
    return path


def test_each_file_is_a_row_by_set_decoder_and_step(tmp_path: Path) -> None:
    files = [scores(tmp_path, s, n, d) for s in (20, 3) for n in ("c-test", "c-dev") for d in ("lm", "greedy")]
    table = summarise(files)
    assert list(table.columns) == COLUMNS
    assert [*zip(table["set"], table["decoder"], table["step"], strict=True)] == [
        (name, decoder, step) for name in ("c-dev", "c-test") for decoder in ("greedy", "lm") for step in (3, 20)
    ]
    assert table.loc[0, ["wer_low", "wer_high", "cer_low", "cer_high", "outside_vocabulary"]].tolist() == [
        0.4, 0.6, 0.2, 0.3, "ё ж",
    ]  # fmt: skip


def test_figures_by_several_protocols_stand_side_by_side(tmp_path: Path) -> None:
    both = scores(tmp_path, 1, "c-test", protocols={"plain": TOTALS, "robust_speech_event": EVENT})
    (event, plain) = (
        summarise([both, scores(tmp_path, 1, "c-dev")]).sort_values("set", ascending=False).to_dict("records")
    )
    assert (event["wer"], event["wer_plain"], event["wer_robust_speech_event"]) == (0.5, 0.5, 0.75)
    assert (event["cer"], event["cer_robust_speech_event"]) == (0.25, 0.375)
    assert np.isnan(plain["wer_robust_speech_event"])


def test_a_set_that_could_not_be_had_has_a_row_without_figures(tmp_path: Path) -> None:
    absent = scores(
        tmp_path, 1, "c-test", **NOTHING, protocols={"plain": NOTHING}, loss=None, clips_scored=0, unavailable="gone",
        characters_outside_vocabulary={},
    )  # fmt: skip
    row = summarise([absent]).iloc[0]
    assert row[["wer", "wer_low", "cer", "loss", "wer_plain"]].isna().all()
    assert (row["unavailable"], row["outside_vocabulary"]) == ("gone", "")


def test_the_program_writes_the_table(tmp_path: Path) -> None:
    files = [scores(tmp_path, step, "c-dev") for step in (1, 2)]
    done = run_stage("scoring.summary", "--metrics", *files, "--summary", tmp_path / "summary.parquet")
    assert done.returncode == 0, done.stderr
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "summary.parquet"), summarise(files))


def test_the_checkpoint_that_is_best_greedily_is_the_earliest_of_the_lowest_wer(tmp_path: Path) -> None:
    files = [scores(tmp_path, step, "c-dev", wer=wer) for step, wer in ((1, 0.9), (2, 0.3), (3, 0.3), (4, None))]
    done = run_stage("lm.select_tuning_checkpoint", "--metrics", *files, "--best", tmp_path / "best.json")
    assert done.returncode == 0, done.stderr
    assert read_json(tmp_path / "best.json") == {"step": 2, "set": "c-dev"}
