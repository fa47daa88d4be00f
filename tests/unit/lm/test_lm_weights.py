import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from material import as_json
from speechmill.config.lm import BeamConfig
from speechmill.core.command import SpeechmillError
from speechmill.core.files import read_json, write_json
from speechmill.core.schemas import CLIPS
from speechmill.core.tables import write_table
from speechmill.lm.lm import LmSettings, build_model
from speechmill.lm.lm_weights import Point, Rates, best, main, search
from speechmill.text.lexicon import ABOUT, LEXICON, MODEL, TOKENS, Tokens

LETTERS = ["[PAD]", "[UNK]", "|", *"abco"]
# Greedy decoding outputs `cob` for `cab`; in the language model, `cab` follows `a`.
TEXTS = ["a cab", "b cob", "a cab", "c", "b cob"]
GREEDY = ["a cob", "b cob", "a cob", "c", "b cob"]
SETTINGS: dict[str, Any] = {
    "dev": "corpus-dev",
    "text": {},
    "metric": "wer",
    "lm_weight": [0.0, 6.0],
    "word_score": [0.0],
    "vocabulary": "closed",
    "beam": BeamConfig().model_dump(),
    "tuning_clips": 1000,
}


def bowl(point: Point) -> Rates:
    return (point[0] - 1.4) ** 2 + (point[1] + 0.6) ** 2, 0.0


def test_search_refines_around_best_grid_point() -> None:
    surface = search(bowl, [3.0, 0.0, 1.0, 2.0], [-1.0, 0.0])
    assert list(surface)[:8] == [(weight, score) for weight in (3.0, 0.0, 1.0, 2.0) for score in (-1.0, 0.0)]
    assert set(list(surface)[8:]) == {
        (1.0, -0.5),
        *((weight, score) for weight in (0.5, 1.5) for score in (-1.0, -0.5)),
    }
    assert best(surface) == (1.5, -0.5)


def test_grid_of_one_point() -> None:
    assert search(bowl, [2.0], [0.0]) == {(2.0, 0.0): bowl((2.0, 0.0))}


def test_ties_prefer_small_weights() -> None:
    same = (0.1, 0.1)
    assert best({(2.0, 0.0): same, (1.0, -1.0): same, (1.0, 0.5): same, (0.5, 0.0): (0.2, 0.0)}) == (1.0, 0.5)


def test_equal_wer_falls_to_cer() -> None:
    assert best({(1.0, 0.0): (1.0, 0.5), (4.0, 0.0): (1.0, 0.1), (2.0, 0.0): (1.0, 0.2)}) == (4.0, 0.0)


def stage_inputs(folder: Path) -> Path:
    """The files that the stage needs: the clips and CTC outputs of dev, the tuning checkpoint, the language model."""
    write_table(
        [
            dict.fromkeys(CLIPS.names) | {"id": f"clip-{i}", "text": text, "sentence": f"{text}!"}
            for i, text in enumerate(TEXTS)
        ],
        CLIPS,
        folder / "clips.parquet",
    )
    clips = []
    for text in GREEDY:
        probabilities = np.full((len(text), len(LETTERS)), 0.05)
        for frame, letter in enumerate(text.replace(" ", "|")):
            probabilities[frame, LETTERS.index(letter)] = 0.7
        # The first word is unambiguous, so that the language model decides the second.
        probabilities[0] **= 3
        clips.append(np.log(probabilities).astype("<f2"))
    outputs = pa.table(
        {
            "id": [f"clip-{i}" for i in range(len(clips))],
            "frames": pa.array([len(clip) for clip in clips], pa.int32()),
            "hypothesis": GREEDY,
            "log_probs": pa.array([clip.tobytes() for clip in clips], pa.binary()),
        }
    )
    outputs = outputs.replace_schema_metadata({"special_tokens": '["[UNK]"]'})
    pq.write_table(outputs, folder / "ctc_outputs.parquet", row_group_size=2)
    lm = folder / "lm"
    lm.mkdir()
    (folder / "text").write_text("a cab\na cab\nb cob\nb cob\nc\n")
    build_model(folder / "text", lm / MODEL, LmSettings(order=2, prune=[], format="trie", max_words=9), 100)
    tokens = Tokens(LETTERS, "[PAD]", "|")
    (lm / LEXICON).write_text("".join(str(tokens.entry(word)) for word in ("a", "b", "c", "cab", "cob")))
    (lm / TOKENS).write_text("\n".join(LETTERS) + "\n")
    write_json({"blank": "[PAD]", "separator": "|"}, lm / ABOUT)
    write_json({"step": 40, "set": "corpus-dev", "decoder": "greedy"}, folder / "tuning_checkpoint.json")
    return folder


def run(folder: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> dict[str, Any]:
    paths = {"clips": folder / "clips.parquet", "ctc-outputs": folder / "ctc_outputs.parquet"}
    paths |= {"tuning-checkpoint": folder / "tuning_checkpoint.json", "lm": folder / "lm"}
    paths |= {"weights": folder / "weights.json", "surface": folder / "surface.png"}
    arguments = [str(each) for name, path in paths.items() for each in (f"--{name}", path)]
    options = ["--settings", as_json(SETTINGS | settings), "--threads", "2", *arguments]
    monkeypatch.setattr(sys, "argv", ["lm_weights", *options])
    main()
    weights: dict[str, Any] = read_json(folder / "weights.json")
    return weights


def test_weights_are_tuned_on_dev_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tuned = run(stage_inputs(tmp_path), monkeypatch)
    assert (tuned["step"], tuned["set"], tuned["clips"]) == (40, "corpus-dev", 5)
    assert (tuned["greedy_wer"], tuned["wer"]) == (pytest.approx(2 / 9), 0.0)
    # The refinement adds the weight 3, which is as good as 6 and smaller.
    assert tuned["surface"] == [[0.0, 0.0, pytest.approx(2 / 9)], [3.0, 0.0, 0.0], [6.0, 0.0, 0.0]]
    assert (tuned["lm_weight"], tuned["word_score"]) == (3.0, 0.0)
    assert (tuned["vocabulary"], tuned["beam"]) == ("closed", BeamConfig().model_dump())
    assert (tmp_path / "surface.png").read_bytes().startswith(b"\x89PNG")
    assert "WER 0.00 %, greedy 22.22 %" in capsys.readouterr().out


def test_weights_are_tuned_by_the_error_rate_that_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tuned = run(stage_inputs(tmp_path), monkeypatch, metric="cer")
    # Two of the 21 characters of the references are wrong.
    assert (tuned["metric"], tuned["greedy_cer"], tuned["cer"]) == ("cer", pytest.approx(2 / 21), 0.0)
    assert tuned["surface"][0] == [0.0, 0.0, pytest.approx(2 / 21)]
    assert "CER 0.00 %, greedy 9.52 %" in capsys.readouterr().out


def test_large_dev_set_is_subsampled_evenly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tuned = run(stage_inputs(tmp_path), monkeypatch, tuning_clips=2)
    # Every third clip: `a cab` and `c`, where greedy decoding gets one of three words wrong.
    assert (tuned["clips"], tuned["greedy_wer"], tuned["wer"]) == (2, pytest.approx(1 / 3), 0.0)


def test_weight_at_edge_of_grid_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(stage_inputs(tmp_path), monkeypatch, lm_weight=[0.0, 0.01])
    assert "the best lm_weight, 0, is at the edge of the grid" in capsys.readouterr().out


def test_checkpoint_of_other_set_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_json({"step": 40, "set": "corpus-test"}, stage_inputs(tmp_path) / "tuning_checkpoint.json")
    with pytest.raises(SpeechmillError, match="was selected on corpus-test, but weights are tuned on corpus-dev"):
        run(tmp_path, monkeypatch)


def test_mismatched_ctc_outputs_are_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = stage_inputs(tmp_path)
    clips = pq.read_table(folder / "clips.parquet")
    pq.write_table(clips.slice(1), folder / "clips.parquet")
    with pytest.raises(SpeechmillError, match=r"ctc_outputs\.parquet does not match the clips of dev"):
        run(folder, monkeypatch)
