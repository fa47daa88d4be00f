import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from material import as_json
from speechmill.core.command import SpeechmillError
from speechmill.core.tables import CLIPS, file_digest, read_json, write_table
from speechmill.lm.lm_text import Sentences, main

Run = Callable[..., tuple[list[str], dict[str, Any]]]

SETTINGS = as_json({"text": {"drop": ".,!"}})


def table(path: Path, texts: list[str]) -> Path:
    empty: dict[str, Any] = dict.fromkeys(CLIPS.names)
    write_table([empty | {"id": f"{i}", "text": text} for i, text in enumerate(texts)], CLIPS, path)
    return path


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the stage; the text as lines, and the counts."""

    def run(*source: object, held_out: dict[str, list[str]]) -> tuple[list[str], dict[str, Any]]:
        tables = [table(tmp_path / f"{name}.parquet", texts) for name, texts in held_out.items()]
        text, digest, counts = (tmp_path / f"text.{kind}" for kind in ("txt", "sha256", "json"))
        arguments = ["--settings", SETTINGS, *source, "--held-out", *tables, "--text", text]
        arguments += ["--digest", digest, "--counts", counts]
        monkeypatch.setattr(sys, "argv", ["lm_text", *map(str, arguments)])
        main()
        assert digest.read_text() == file_digest(text) + "\n"
        return text.read_text(encoding="utf-8").splitlines(), read_json(counts)

    return run


def test_training_sentences_are_taken_once_without_those_of_dev_and_of_scored_sets(tmp_path: Path, run: Run) -> None:
    clips = table(tmp_path / "train.parquet", ["раз два", "три", "", "раз два", "пять шесть", "семь", "восемь"])
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


def test_lines_of_files_are_normalised_before_they_are_held_against_the_sets(tmp_path: Path, run: Run) -> None:
    (tmp_path / "a.txt").write_text("\ufeffРаз, два!\n\nТри.\n", encoding="utf-8")
    (tmp_path / "b.txt").write_text("РАЗ ДВА\nчетыре", encoding="utf-8")
    text, counts = run("--files", tmp_path / "a.txt", tmp_path / "b.txt", held_out={"corpus-test": ["три"]})
    assert text == ["раз два", "раз два", "четыре"]  # what a user writes twice counts twice
    assert (counts["source"], counts["read"], counts["empty"]) == (["a.txt", "b.txt"], 5, 1)
    assert counts["removed_by_set"] == {"corpus-test": 1}


def test_hangul_is_compared_and_written_in_syllables(tmp_path: Path, run: Run) -> None:
    jamo = ["\u1112\u1161\u11ab", "\u1103\u116e\u11af"]  # as the clips of a model that writes jamo have them
    clips = table(tmp_path / "train.parquet", jamo)
    text, counts = run("--clips", clips, held_out={"dev": jamo[1:]})
    assert text == ["한"]
    assert counts["removed"] == 1


def test_a_text_of_which_nothing_is_left_is_refused(tmp_path: Path, run: Run) -> None:
    clips = table(tmp_path / "train.parquet", ["раз"])
    with pytest.raises(SpeechmillError, match=r"1 are in a scored set \(1 of dev\)"):
        run("--clips", clips, held_out={"dev": ["раз"]})


def test_a_file_that_is_not_utf_8_is_named(tmp_path: Path, run: Run) -> None:
    (tmp_path / "old.txt").write_bytes("раз".encode("cp1251"))
    with pytest.raises(SpeechmillError, match=r"old\.txt.*UTF-8"):
        run("--files", tmp_path / "old.txt", held_out={"dev": []})
    assert not (tmp_path / "text.txt").exists()


@pytest.mark.parametrize(("once", "kept"), [(True, ["a", "b"]), (False, ["a", "a", "b"])])
def test_whatever_is_read_is_accounted_for(once: bool, kept: list[str]) -> None:
    sentences = Sentences({"dev": ["c"]})
    assert list(sentences.kept(["a", "a", "", "b", "c"], once=once)) == kept
    counts = sentences.counts
    parts = counts["sentences"] + counts["empty"] + counts["repeated"] + counts["removed"]
    assert counts["read"] == parts == 5
