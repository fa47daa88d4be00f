import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from speechmill.core.files import write_json
from speechmill.scoring.summary import COLUMNS, main, summarise

TOTALS = {
    "wer": 0.5, "cer": 0.25, "wer_ci95": [0.4, 0.6], "cer_ci95": [0.2, 0.3], "substitutions": 3, "deletions": 1,
    "insertions": 1, "reference_words": 10, "no_interval": None,
}  # fmt: skip
EVENT_TOTALS = TOTALS | {"wer": 0.75, "cer": 0.375}
NO_TOTALS = dict.fromkeys(TOTALS) | {"wer_ci95": [None, None], "cer_ci95": [None, None]}


def metrics(folder: Path, step: int, name: str, decoder: str = "greedy", **changes: Any) -> Path:
    """The `metrics.json` of a checkpoint on a set."""
    value = {
        "run": "r", "step": step, "set": name, "decoder": decoder, "protocol": "plain", **TOTALS,
        "protocols": {"plain": TOTALS}, "loss": 1.5, "clips_without_loss": 0, "clips_expected": 2, "clips_scored": 2,
        "unavailable": None, "characters_outside_vocabulary": {"ё": 2, "ж": 1}, "audio_seconds": 3.0,
        "wall_seconds": 1.5, "forward_seconds": 1.0, "decoding_seconds": 0.5, "device": "cpu",
        "checkpoint_sha256": "c", "eval_set_sha256": "e",
    }  # fmt: skip
    path = folder / str(step) / name / decoder / "metrics.json"
    write_json(value | changes, path)
    return path


def test_rows_are_sorted_by_set_decoder_and_step(tmp_path: Path) -> None:
    files = [metrics(tmp_path, s, n, d) for s in (20, 3) for n in ("c-test", "c-dev") for d in ("lm", "greedy")]
    table = summarise(files)
    assert list(table.columns) == COLUMNS
    assert [*zip(table["set"], table["decoder"], table["step"], strict=True)] == [
        (name, decoder, step) for name in ("c-dev", "c-test") for decoder in ("greedy", "lm") for step in (3, 20)
    ]
    columns = ["wer_low", "wer_high", "cer_low", "cer_high", "outside_vocabulary", "characters_outside"]
    assert table.loc[0, columns].tolist() == [0.4, 0.6, 0.2, 0.3, "ё ж", 3]


def test_missing_interval_is_null_with_its_reason(tmp_path: Path) -> None:
    no_interval = {"wer_ci95": [None, None], "cer_ci95": [None, None], "no_interval": "one speaker"}
    table = summarise([metrics(tmp_path, 1, "c-dev"), metrics(tmp_path, 1, "c-test", **no_interval)])
    assert table["no_interval"].tolist()[1] == "one speaker"
    assert table["no_interval"].isna().tolist() == [True, False]
    for end in ("wer_low", "wer_high", "cer_low", "cer_high"):
        assert table[end].isna().tolist() == [False, True]


def test_protocols_have_separate_columns(tmp_path: Path) -> None:
    both = metrics(tmp_path, 1, "c-test", protocols={"plain": TOTALS, "robust_speech_event": EVENT_TOTALS})
    (event, plain) = (
        summarise([both, metrics(tmp_path, 1, "c-dev")]).sort_values("set", ascending=False).to_dict("records")
    )
    assert (event["wer"], event["wer_plain"], event["wer_robust_speech_event"]) == (0.5, 0.5, 0.75)
    assert (event["cer"], event["cer_robust_speech_event"]) == (0.25, 0.375)
    assert np.isnan(plain["wer_robust_speech_event"])


def test_unavailable_set_has_row_without_scores(tmp_path: Path) -> None:
    unavailable = metrics(
        tmp_path, 1, "c-test", **NO_TOTALS, protocols={"plain": NO_TOTALS}, loss=None, clips_scored=0,
        unavailable="gone", characters_outside_vocabulary={},
    )  # fmt: skip
    row = summarise([unavailable]).iloc[0]
    assert row[["wer", "wer_low", "cer", "loss", "wer_plain"]].isna().all()
    assert (row["unavailable"], row["outside_vocabulary"]) == ("gone", "")


def test_main_writes_summary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [metrics(tmp_path, step, "c-dev") for step in (1, 2)]
    arguments = ["summary", "--metrics", *files, "--summary", tmp_path / "summary.parquet"]
    monkeypatch.setattr(sys, "argv", [*map(str, arguments)])
    main()
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "summary.parquet"), summarise(files))
