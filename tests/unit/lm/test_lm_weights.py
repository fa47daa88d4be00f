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
from speechmill.core.tables import CLIPS, read_json, write_json, write_table
from speechmill.lm.lm import LmSettings, lm_weights, make_model
from speechmill.lm.lm_weights import Point, best, search
from speechmill.text.lexicon import ABOUT, LEXICON, MODEL, TOKENS, Tokens

LETTERS = ["[PAD]", "[UNK]", "|", *"abco"]
# What is heard as `cob` was `cab` after `a`, as the language model knows.
TEXTS = ["a cab", "b cob", "a cab", "c", "b cob"]
GREEDY = ["a cob", "b cob", "a cob", "c", "b cob"]
SETTINGS: dict[str, Any] = {
    "dev": "corpus-dev",
    "text": {},
    "lm_weight": [0.0, 6.0],
    "word_score": [0.0],
    "vocabulary": "closed",
    "beam": BeamConfig().model_dump(),
    "tuning_clips": 1000,
}


def bowl(point: Point) -> float:
    return (point[0] - 1.4) ** 2 + (point[1] + 0.6) ** 2


def test_the_search_tries_the_grid_and_then_what_lies_around_its_best() -> None:
    surface = search(bowl, [3.0, 0.0, 1.0, 2.0], [-1.0, 0.0])
    assert list(surface)[:8] == [(weight, score) for weight in (3.0, 0.0, 1.0, 2.0) for score in (-1.0, 0.0)]
    assert set(list(surface)[8:]) == {
        (1.0, -0.5),
        *((weight, score) for weight in (0.5, 1.5) for score in (-1.0, -0.5)),
    }
    assert best(surface) == (1.5, -0.5)


def test_a_grid_of_one_point_is_its_own_best() -> None:
    assert search(bowl, [2.0], [0.0]) == {(2.0, 0.0): bowl((2.0, 0.0))}


def test_among_equals_the_language_model_is_trusted_least() -> None:
    assert best({(2.0, 0.0): 0.1, (1.0, -1.0): 0.1, (1.0, 0.5): 0.1, (0.5, 0.0): 0.2}) == (1.0, 0.5)


def run_folder(folder: Path) -> Path:
    """A run of which nothing is there but what is of dev: its clips, its frames, and the language model."""
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
        # What the first word is can be heard well, and so decides on the second.
        probabilities[0] **= 3
        clips.append(np.log(probabilities).astype("<f2"))
    frames = pa.table(
        {
            "id": [f"clip-{i}" for i in range(len(clips))],
            "frames": pa.array([len(clip) for clip in clips], pa.int32()),
            "hypothesis": GREEDY,
            "log_probs": pa.array([clip.tobytes() for clip in clips], pa.binary()),
        }
    )
    pq.write_table(frames, folder / "ctc_outputs.parquet", row_group_size=2)
    lm = folder / "lm"
    lm.mkdir()
    (folder / "text").write_text("a cab\na cab\nb cob\nb cob\nc\n")
    make_model(folder / "text", lm / MODEL, LmSettings(order=2, prune=[], format="trie", max_words=9), 100)
    tokens = Tokens(LETTERS, "[PAD]", "|")
    (lm / LEXICON).write_text("".join(str(tokens.entry(word)) for word in ("a", "b", "c", "cab", "cob")))
    (lm / TOKENS).write_text("\n".join(LETTERS) + "\n")
    write_json({"blank": "[PAD]", "separator": "|"}, lm / ABOUT)
    write_json({"step": 40, "set": "corpus-dev", "decoder": "greedy"}, folder / "best.json")
    return folder


def run(folder: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> dict[str, Any]:
    paths = {name: folder / f"{name}.parquet" for name in ("clips", "frames")}
    paths |= {"best": folder / "best.json", "lm": folder / "lm"}
    paths |= {"weights": folder / "weights.json", "surface": folder / "surface.png"}
    arguments = [str(each) for name, path in paths.items() for each in (f"--{name}", path)]
    given = ["--settings", as_json(SETTINGS | settings), "--threads", "2", *arguments]
    monkeypatch.setattr(sys, "argv", ["lm_weights", *given])
    lm_weights.main()
    weights: dict[str, Any] = read_json(folder / "weights.json")
    return weights


def test_weights_are_tuned_on_dev_with_nothing_else_at_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tuned = run(run_folder(tmp_path), monkeypatch)
    assert (tuned["step"], tuned["set"], tuned["clips"]) == (40, "corpus-dev", 5)
    assert (tuned["greedy_wer"], tuned["wer"]) == (pytest.approx(2 / 9), 0.0)
    # Half the greater weight of the grid does as well.
    assert tuned["surface"] == [[0.0, 0.0, pytest.approx(2 / 9)], [3.0, 0.0, 0.0], [6.0, 0.0, 0.0]]
    assert (tuned["lm_weight"], tuned["word_score"]) == (3.0, 0.0)
    assert (tuned["vocabulary"], tuned["beam"]) == ("closed", BeamConfig().model_dump())
    assert (tmp_path / "surface.png").read_bytes().startswith(b"\x89PNG")
    assert "WER 0.00 %, greedy 22.22 %" in capsys.readouterr().out


def test_a_large_dev_set_is_thinned_out_evenly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tuned = run(run_folder(tmp_path), monkeypatch, tuning_clips=2)
    # Every third: `a cab` and `c`, of which greedy decoding has one word of three wrong.
    assert (tuned["clips"], tuned["greedy_wer"], tuned["wer"]) == (2, pytest.approx(1 / 3), 0.0)


def test_weights_at_the_end_of_their_grid_are_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(run_folder(tmp_path), monkeypatch, lm_weight=[0.0, 0.01])
    assert "the best lm_weight, 0, is at the end of those tried" in capsys.readouterr().out


def test_a_choice_that_was_made_on_another_set_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_json({"step": 40, "set": "corpus-test"}, run_folder(tmp_path) / "best.json")
    with pytest.raises(SpeechmillError, match="best on corpus-test; weights are tuned on corpus-dev alone"):
        run(tmp_path, monkeypatch)


def test_frames_of_other_clips_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = run_folder(tmp_path)
    clips = pq.read_table(folder / "clips.parquet")
    pq.write_table(clips.slice(1), folder / "clips.parquet")
    with pytest.raises(SpeechmillError, match=r"frames\.parquet is not of the clips of dev"):
        run(folder, monkeypatch)
