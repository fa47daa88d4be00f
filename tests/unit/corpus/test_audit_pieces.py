import base64
import html
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from material import as_json, run_stage
from speechmill.core.files import read_json, write_json
from speechmill.core.flac import encode_flac
from speechmill.core.schemas import INDEX, PIECES, REJECTED, SAMPLE_RATE
from speechmill.core.tables import write_in_row_groups, write_table
from speechmill.corpus.audit import audit_pieces, embed_audio
from speechmill.corpus.ingest_pieces import BELOW, KEPT, count_parts, format_parts

MIN_SCORE = -1.5


def piece(name: str, start: float, end: float, sentence: str = "раз два", **values: Any) -> dict[str, Any]:
    row = {"id": name, "recording": "interview", "splits": ["train"], "start": start, "end": end, "sentence": sentence}
    audio = encode_flac(np.full(round((end - start) * 100), 0.25, np.float32))
    return row | {"score": -0.5, "encoded": None if values.get("reason") else audio} | values


PARTS = [
    piece("a", 0, 4),
    piece("b", 4, 10, "שלום עולם", score=-1.5),
    piece("c", 10, 12, score=-1.65),
    piece("d", 12, 13, "три", score=-9.0),
    piece("e", 13, 33, "", score=None, reason="no_text", detail="no text"),
    piece("f", 33, 33, "совсем другой текст", score=None, reason="no_audio", detail="text"),
]


@pytest.fixture
def tables(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "train" / f"shard-{number:05d}.parquet" for number in (0, 1)]
    for path, rows in zip(paths, (PARTS[:4], PARTS[4:]), strict=True):
        write_in_row_groups(rows, PIECES, path, 2)
    return paths


def about(tables: list[Path], **values: Any) -> dict[str, Any]:
    parts = count_parts(tables, MIN_SCORE)
    return {"of": "interviews", "stage": "segment", "model": "x", "min_score": MIN_SCORE, "parts": parts} | values


def test_all_seconds_and_words_are_accounted_for(tables: list[Path]) -> None:
    parts = count_parts(tables, MIN_SCORE)
    assert parts == {
        KEPT: {"parts": 2, "seconds": 10.0, "words": 4},
        BELOW: {"parts": 2, "seconds": 3.0, "words": 3},
        "no_audio": {"parts": 1, "seconds": 0.0, "words": 3},
        "no_text": {"parts": 1, "seconds": 20.0, "words": 0},
    }
    assert list(parts) == [KEPT, BELOW, "no_audio", "no_text"]


def test_each_part_is_a_sentence(tables: list[Path]) -> None:
    assert format_parts(about(tables)) == [
        "33.0 s of recordings in interviews were cut into clips",
        "Clips: 2 parts, 10.0 s (30.3%), 4 words",
        "Score below -1.5: 2 parts, 3.0 s (9.1%), 3 words",
        "Text that is not in the audio: 1 part, 3 words",
        "Audio without text in the transcript: 1 part, 20.0 s (60.6%)",
    ]


def test_reason_without_a_heading_is_shown_by_its_name(tables: list[Path]) -> None:
    parts = {"new_reason": {"parts": 1, "seconds": 7200.0, "words": 0}}
    assert format_parts(about(tables, parts=parts))[1] == "new_reason: 1 part, 2.0 h (100.0%)"


def test_scores_are_counted_on_both_sides_of_the_threshold(tables: list[Path]) -> None:
    scores = audit_pieces(tables, about(tables))["scores"]
    edges = scores["edges"]
    counted = {
        name: {edges[i]: number for i, number in enumerate(scores[name]) if number} for name in ("kept", "below")
    }
    assert counted == {"kept": {-1.5: 1, -0.5: 1}, "below": {-8.0: 1, -1.7: 1}}
    assert (scores["quantiles"]["min"], scores["quantiles"]["max"]) == (-9.0, -0.5)


def test_pieces_around_the_threshold_are_examples(tables: list[Path]) -> None:
    found = audit_pieces(tables, about(tables))
    assert [each["id"] for each in found["worst"]] == ["b", "a"]
    assert [each["id"] for each in found["below"]] == ["c", "d"]
    assert {key: found["worst"][0][key] for key in ("recording", "start", "end", "sentence", "score")} == {
        "recording": "interview",
        "start": 4.0,
        "end": 10.0,
        "sentence": "שלום עולם",
        "score": -1.5,
    }


def test_examples_have_their_own_audio(tables: list[Path]) -> None:
    found = audit_pieces(tables, about(tables))
    examples = [*found["worst"], *found["below"]]
    embed_audio(examples, tables)
    expected = {each["id"]: each["encoded"] for each in PARTS}
    for each in examples:
        assert base64.b64decode(each["audio"].removeprefix("data:audio/flac;base64,")) == expected[each["id"]]


def test_long_pieces_are_examples_without_audio(tmp_path: Path) -> None:
    path = tmp_path / "shard-00000.parquet"
    write_table([piece("a", 0, 61)], PIECES, path)
    found = audit_pieces([path], about([path]))
    embed_audio(found["worst"], [path])
    assert found["worst"][0]["audio"] is None


def test_no_piece_at_all_has_empty_statistics(tmp_path: Path) -> None:
    path = tmp_path / "shard-00000.parquet"
    write_table(PARTS[4:], PIECES, path)
    found = audit_pieces([path], about([path]))
    assert (found["worst"], found["below"], sum(found["scores"]["kept"])) == ([], [], 0)


def write_inputs(folder: Path, tables: list[Path]) -> None:
    of_clip = {"splits": ["train"], "num_samples": SAMPLE_RATE, "encoded_bytes": 1, "silence": 0.0, "clipping": 0.0}
    kept = [of_clip | {"id": name, "sentence": name, "sha256": name, "audio_sha256": name} for name in "ab"]
    write_table(kept, INDEX, folder / "data" / "train" / "index.parquet")
    left_out = [{"id": name, "split": "train", "reason": "score", "detail": "its score is -2"} for name in "cd"]
    write_table(left_out, REJECTED, folder / "rejected.parquet")
    rejections = {"train": {"score": {"clips": 2, "example": "its score is -2"}}}
    counts = {"listed": {"train": 4}, "rejected": {"train": 2}, "sets": {"train": 4}, "rejections": rejections}
    status = {"dataset": "aligned", "available": True, "why": None, "about": about(tables), **counts}
    write_json(status, folder / "status.json")


@pytest.mark.parametrize("redistribute", [True, False])
def test_page_has_the_account_and_audio_only_where_terms_allow_it(
    tables: list[Path], tmp_path: Path, redistribute: bool
) -> None:
    write_inputs(tmp_path, tables)
    settings = {"dataset": "aligned", "title": "Interviews", "splits": ["train"], "redistribute": redistribute}
    outputs = {
        name: tmp_path / f"audit.{ending}" for name, ending in (("audit", "json"), ("page", "html"), ("plot", "png"))
    }
    inputs = {"rejected": tmp_path / "rejected.parquet", "status": tmp_path / "status.json"}
    paths = [each for name, path in (inputs | outputs).items() for each in (f"--{name}", path)]
    index = tmp_path / "data" / "train" / "index.parquet"
    done = run_stage("corpus.audit", "--settings", as_json(settings), "--indexes", index, "--pieces", *tables, *paths)
    assert done.returncode == 0, done.stderr
    page = html.unescape((tmp_path / "audit.html").read_text(encoding="utf-8"))
    assert "Clips: 2 parts, 10.0 s (30.3%), 4 words." in page
    assert "2 of 4 listed clips have a score below the threshold, or could not be read." in page
    assert '<bdi class="sentence">שלום עולם</bdi>' in page
    assert "0:00:04.00" in page
    assert len(re.findall("<audio", page)) == (4 if redistribute else 0)
    assert ("do not allow it" in page) is not redistribute
    # Audio would make the file large.
    assert "audio" not in read_json(tmp_path / "audit.json")["pieces"]["worst"][0]
