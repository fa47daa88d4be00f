import sys
from pathlib import Path

import pytest

from speechmill.core.files import read_json, write_json
from speechmill.lm import select_tuning_checkpoint
from speechmill.scoring.summary import COLUMNS


def test_earliest_of_lowest_wer_is_selected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [tmp_path / f"{step}.json" for step in (1, 2, 3, 4)]
    for step, wer in ((1, 0.9), (2, 0.3), (3, 0.3), (4, None)):
        metrics = dict.fromkeys(COLUMNS) | {"step": step, "set": "c-dev", "decoder": "greedy", "wer": wer}
        intervals = {"wer_ci95": [None, None], "cer_ci95": [None, None]}
        write_json(metrics | intervals | {"protocols": {}, "characters_outside_vocabulary": {}}, files[step - 1])
    output = tmp_path / "tuning_checkpoint.json"
    arguments = ["select_tuning_checkpoint", "--metrics", *files, "--tuning-checkpoint", output]
    monkeypatch.setattr(sys, "argv", [*map(str, arguments)])
    select_tuning_checkpoint.main()
    assert read_json(output) == {"step": 2, "set": "c-dev"}
