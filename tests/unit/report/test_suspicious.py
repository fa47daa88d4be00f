import csv
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from material import recording, store
from speechmill.core.schemas import CLIPS
from speechmill.corpus.corrections import Corrections
from speechmill.report.suspicious import SuspiciousSettings, format_csv, most_suspicious, prepare_clips, render_page

SETTINGS = SuspiciousSettings(clips=2, metric="wer", languages={"corpus": "ru"}, redistribute=["corpus"])


def row(name: str, score: float | None, sentence: str = "раз", hypothesis: str = "два") -> dict[str, Any]:
    return {
        "dataset": "corpus", "split": "train", "id": name, "seconds": 1.0, "sentence": sentence, "reference": sentence,
        "hypothesis": hypothesis, "score": score, "reason": None if score is not None else "too short",
    }  # fmt: skip


ROWS = [row("a", -0.1), row("b", None), row("c", -3.0), row("d", -0.2), row("e", 0.0)]


def test_lowest_scores_come_first() -> None:
    assert [each["id"] for each in most_suspicious(ROWS, 2)] == ["c", "d"]
    assert [each["id"] for each in most_suspicious(ROWS, 9)] == ["c", "d", "a", "e"]


def test_file_of_ids_is_a_file_of_corrections(tmp_path: Path) -> None:
    path = tmp_path / "suspicious.csv"
    sentence = 'Раз, "два"\nтри'
    path.write_text(format_csv([row("c", -3.0, sentence)]), encoding="utf-8")
    (listed,) = csv.DictReader(path.read_text(encoding="utf-8").splitlines(keepends=True))
    assert listed == {
        "dataset": "corpus", "split": "train", "id": "c", "score": "-3.0000", "sentence": sentence,
        "hypothesis": "два", "correction": "", "exclude": "",
    }  # fmt: skip
    # As it is, it changes nothing.
    corrections = Corrections(path)
    assert (corrections.sentence(("corpus", "c")), corrections.exclusion(("corpus", "c"))) == (None, None)


@pytest.mark.parametrize("redistribute", [True, False])
def test_page_has_audio_only_if_it_may(tmp_path: Path, redistribute: bool) -> None:
    clips, shards = store(tmp_path, [recording(1.0, seed=i) for i in range(2)], ["раз два", "три"])
    rows = [row(clip["id"], -1.0, clip["text"], "раз <три>") for clip in clips]
    settings = SETTINGS.model_copy(update={"redistribute": ["corpus"] if redistribute else []})
    page = render_page("demo", prepare_clips(rows, pa.Table.from_pylist(clips, CLIPS), shards, settings), ROWS, "wer")
    assert page.count("data:audio/flac") == (2 if redistribute else 0)
    assert "раз <del>два</del>" in page
    assert "раз <ins>&lt;три&gt;</ins>" in page
    assert "1 clip has no score: too short." in page
