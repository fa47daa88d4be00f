from pathlib import Path

import pytest

from speechmill.core.files import write_json
from speechmill.dag.outcome import outcome


@pytest.mark.parametrize(("metric", "shown"), [("wer", "WER 100.00%"), ("cer", "CER 7.69%")])
def test_terminal_shows_the_error_rate_that_decides(tmp_path: Path, metric: str, shown: str) -> None:
    folder = tmp_path / "evaluation" / "80" / "thai-dev" / "greedy"
    folder.mkdir(parents=True)
    scores = {"set": "thai-dev", "decoder": "greedy", "wer": 1.0, "cer": 1 / 13}
    write_json(scores | {"clips_scored": 6, "clips_expected": 6}, folder / "metrics.json")
    write_json({"step": 80}, tmp_path / "selection.json")
    write_json({"metric": metric}, tmp_path / "evaluation" / "breakdown.json")
    assert f"step 80: thai-dev {shown} (greedy, 6 of 6 clips)" in outcome(tmp_path)
