"""The comparison with another run in the evidence of a model, which `verify` repeats."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from speechmill.core.schemas import HYPOTHESES
from speechmill.core.tables import read_table, write_arrow_table, write_table
from speechmill.report import evidence
from speechmill.report.breakdown import ComparedRun, compare_run, load_clips, load_speaker_metadata
from speechmill.report.verify_folder import _check_comparisons
from speechmill.scoring.error_rates import count
from speechmill.scoring.systems import System

SYSTEM = System("cv-dev", 200, "greedy")


def write_hypotheses(folder: Path, system: System, hypotheses: list[str]) -> Path:
    """Write the hypotheses for the word `раз`, of two clips by each speaker and one clip of an unknown speaker."""
    rows: list[dict[str, Any]] = []
    for i, hypothesis in enumerate(hypotheses):
        (counts,) = count(["раз"], [hypothesis])
        speaker = None if i == len(hypotheses) - 1 else f"speaker {i // 2}"
        rows.append(
            dict.fromkeys(HYPOTHESES.names)
            | {"dataset": "cv", "split": "dev", "id": f"clip {i}", "speaker_id": speaker, "seconds": 1.0}
            | {"scored_reference": "раз", "scored_hypothesis": hypothesis, **counts._asdict()}
        )
    path = folder / str(system.step) / system.set / system.decoder / "hypotheses.parquet"
    write_table(rows, HYPOTHESES, path)
    return path


@pytest.fixture
def found(tmp_path: Path) -> Any:
    """The breakdown of a model in `tmp_path / "model"`, whose evidence has the comparison with another run."""
    ours = write_hypotheses(tmp_path / "ours", SYSTEM, ["раз", "раз", "рас", "раз", "раз", "рас", "раз"])
    theirs = write_hypotheses(
        tmp_path / "theirs", SYSTEM._replace(step=0), ["рас", "рас", "рас", "раз", "", "рас", "раз"]
    )
    summary = pd.DataFrame(
        [
            {"step": 0, "set": "cv-dev", "decoder": "greedy", "protocol": "plain", "unavailable": None,
             "eval_set_sha256": "c11p5", "wer": 5 / 7, "cer": 7 / 21}
        ]
    )  # fmt: skip
    other = ComparedRun("whisper", summary, {SYSTEM._replace(step=0): theirs})
    own_clips = {SYSTEM: load_clips(ours, load_speaker_metadata([]))}
    rows, _ = compare_run(other, own_clips, summary.assign(step=200))
    breakdown = {"metric": "wer", "comparisons": rows}
    evidence.write_compared(tmp_path / "model", breakdown, [other])
    counts = read_table(ours, ["hits", "substitutions", "deletions", "insertions", "character_errors", "characters"])
    write_arrow_table(counts, evidence.scored_file(tmp_path / "model", "cv-dev", "greedy"))
    return SimpleNamespace(breakdown=breakdown, compared={"whisper": summary})


def test_comparison_is_repeated_from_the_evidence(found: Any, tmp_path: Path) -> None:
    assert found.breakdown["comparisons"][0]["interval"] is not None
    assert _check_comparisons(tmp_path / "model", found) == []


def test_evidence_of_other_runs_has_no_speakers_clips_or_words(found: Any, tmp_path: Path) -> None:
    table = read_table(evidence.compared_file(tmp_path / "model", "whisper", "cv-dev", "greedy"))
    assert not [field for field in table.schema if pa.types.is_string(field.type)]
    assert table["speaker"].to_pylist() == [0, 0, 1, 1, 2, 2, 3]


@pytest.mark.parametrize(
    ("key", "value"), [("difference", -0.5), ("p_value", 0.01), ("interval", [-0.9, -0.1]), ("rates", [0.7, 0.3])]
)
def test_changed_comparison_is_named(key: str, value: Any, found: Any, tmp_path: Path) -> None:
    found.breakdown["comparisons"][0][key] = value
    (line,) = _check_comparisons(tmp_path / "model", found)
    assert line.startswith(
        f"evidence/breakdown.json: {key} of cv-dev by greedy against the run whisper is {value}, but"
    )


def test_changed_score_of_the_other_run_is_named(found: Any, tmp_path: Path) -> None:
    found.compared["whisper"] = found.compared["whisper"].assign(wer=0.6)
    (line,) = _check_comparisons(tmp_path / "model", found)
    assert line.startswith("evidence/compared/whisper/summary.parquet: wer of cv-dev by greedy is 0.6, but")
