import sys
from pathlib import Path

import pytest

from material import as_json
from speechmill.core.files import read_json, write_json
from speechmill.lm import select_tuning_checkpoint
from speechmill.scoring.summary import COLUMNS


@pytest.mark.parametrize(("metric", "selected"), [("wer", 3), ("cer", 1), ("loss", 2)])
def test_metric_selects_and_cer_decides_ties(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metric: str, selected: int
) -> None:
    files = [tmp_path / f"{step}.json" for step in (1, 2, 3, 4)]
    for step, wer, cer, loss in ((1, 0.9, 0.1, 2), (2, 0.3, 0.3, 1), (3, 0.3, 0.2, 2), (4, None, 0.4, None)):
        metrics = dict.fromkeys(COLUMNS) | {"step": step, "set": "c-dev", "decoder": "greedy"}
        metrics |= {"wer": wer, "cer": cer, "loss": loss}
        intervals = {"wer_ci95": [None, None], "cer_ci95": [None, None]}
        write_json(metrics | intervals | {"protocols": {}, "characters_outside_vocabulary": {}}, files[step - 1])
    output = tmp_path / "tuning_checkpoint.json"
    settings = as_json({"metric": metric})
    arguments = ["select_tuning_checkpoint", "--settings", settings, "--metrics", *files, "--tuning-checkpoint", output]
    monkeypatch.setattr(sys, "argv", [*map(str, arguments)])
    select_tuning_checkpoint.main()
    assert read_json(output) == {"step": selected, "set": "c-dev"}
