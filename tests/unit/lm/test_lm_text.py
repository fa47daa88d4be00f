import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from material import as_json
from speechmill.core.command import SpeechmillError
from speechmill.core.files import file_digest, read_json
from speechmill.core.schemas import CLIPS
from speechmill.core.tables import write_table
from speechmill.lm.lm_text import HeldOutFilter, main

Run = Callable[..., tuple[list[str], dict[str, Any]]]

SETTINGS = as_json({"text": {"drop": ".,!"}})


def write_clips(path: Path, texts: list[str]) -> Path:
    empty: dict[str, Any] = dict.fromkeys(CLIPS.names)
    write_table([empty | {"id": f"{i}", "text": text} for i, text in enumerate(texts)], CLIPS, path)
    return path


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A function that runs the stage and returns the lines of the text and the counts."""

    def run(*source: object, held_out: dict[str, list[str]]) -> tuple[list[str], dict[str, Any]]:
        tables = [write_clips(tmp_path / f"{name}.parquet", texts) for name, texts in held_out.items()]
        text, digest, counts = (tmp_path / f"text.{kind}" for kind in ("txt", "sha256", "json"))
        arguments = ["--settings", SETTINGS, *source, "--held-out", *tables, "--text", text]
        arguments += ["--digest", digest, "--counts", counts]
        monkeypatch.setattr(sys, "argv", ["lm_text", *map(str, arguments)])
        main()
        assert digest.read_text() == file_digest(text) + "\n"
        return text.read_text(encoding="utf-8").splitlines(), read_json(counts)

    return run


def test_training_text_is_unique_without_held_out(tmp_path: Path, run: Run) -> None:
    clips = write_clips(tmp_path / "train.parquet", ["раз два", "три", "", "раз два", "пять шесть", "семь", "восемь"])
    text, counts = run(
        "--clips", clips, held_out={"dev": ["три"], "corpus-test": ["семь", "три"], "other-test": ["ноль"]}
    )
    assert text == ["раз два", "пять шесть", "восемь"]
    assert counts == {
        "source": "training",
        "read": 7,
        "empty": 1,
        "repeated": 1,
        "removed": 2,
        "sentences": 3,
        "words": 5,
        "removed_by_set": {"dev": 1, "corpus-test": 2, "other-test": 0},
    }


def test_text_files_are_normalised_before_filtering(tmp_path: Path, run: Run) -> None:
    (tmp_path / "a.txt").write_text("\ufeffРаз, два!\n\nТри.\n", encoding="utf-8")
    (tmp_path / "b.txt").write_text("РАЗ ДВА\nчетыре", encoding="utf-8")
    text, counts = run("--files", tmp_path / "a.txt", tmp_path / "b.txt", held_out={"corpus-test": ["три"]})
    assert text == ["раз два", "раз два", "четыре"]  # repeated lines of user text are kept
    assert (counts["source"], counts["read"], counts["empty"]) == (["a.txt", "b.txt"], 5, 1)
    assert counts["removed_by_set"] == {"corpus-test": 1}


def test_hangul_is_compared_as_syllables(tmp_path: Path, run: Run) -> None:
    jamo = ["\u1112\u1161\u11ab", "\u1103\u116e\u11af"]  # as in the clips of a run with jamo units
    clips = write_clips(tmp_path / "train.parquet", jamo)
    text, counts = run("--clips", clips, held_out={"dev": jamo[1:]})
    assert text == ["한"]
    assert counts["removed"] == 1


def test_empty_text_is_rejected(tmp_path: Path, run: Run) -> None:
    clips = write_clips(tmp_path / "train.parquet", ["раз"])
    with pytest.raises(SpeechmillError, match=r"1 occur in dev or a scored set \(1 in dev\)"):
        run("--clips", clips, held_out={"dev": ["раз"]})


def test_file_that_is_not_utf_8_is_named(tmp_path: Path, run: Run) -> None:
    (tmp_path / "old.txt").write_bytes("раз".encode("cp1251"))
    with pytest.raises(SpeechmillError, match=r"old\.txt.*UTF-8"):
        run("--files", tmp_path / "old.txt", held_out={"dev": []})
    assert not (tmp_path / "text.txt").exists()


@pytest.mark.parametrize(("unique", "kept"), [(True, ["a", "b"]), (False, ["a", "a", "b"])])
def test_counts_cover_all_sentences(unique: bool, kept: list[str]) -> None:
    held_out = HeldOutFilter({"dev": ["c"]})
    assert list(held_out.filter(["a", "a", "", "b", "c"], unique=unique)) == kept
    counts = held_out.counts
    total = counts["sentences"] + counts["empty"] + counts["repeated"] + counts["removed"]
    assert counts["read"] == total == 5
