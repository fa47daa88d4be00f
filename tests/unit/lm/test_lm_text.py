import json
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from material import as_json
from speechmill.core.command import SpeechmillError
from speechmill.core.files import file_digest, read_json, write_json
from speechmill.core.schemas import CLIPS
from speechmill.core.tables import write_table
from speechmill.lm.lm_text import HeldOutFilter, SeenSentences, main

Run = Callable[..., tuple[list[str], dict[str, Any]]]

SETTINGS = as_json({"text": {"drop": ".,!"}})


def counts_of(**counts: int) -> dict[str, int]:
    return dict.fromkeys(("read", "empty", "removed", "not_spelled", "repeated", "sentences", "words"), 0) | counts


def write_fetched(folder: Path, lines: list[str]) -> Path:
    """Write sentences as the stage `ingest_text` does."""
    folder.mkdir()
    file = folder / "sentences.txt.zst"
    file.write_bytes(zstandard.compress("".join(f"{line}\n" for line in lines).encode()))
    write_json({"sha256": {file.name: file_digest(file)}}, folder / "source.json")
    return file


def write_tokenizer(folder: Path, tokens: list[str]) -> list[Path]:
    files = [folder / "vocab.json", folder / "tokenizer_config.json"]
    files[0].write_text(json.dumps({token: i for i, token in enumerate(tokens)}), encoding="utf-8")
    files[1].write_text(json.dumps({"pad_token": "[PAD]", "word_delimiter_token": "|"}), encoding="utf-8")
    return files


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
        "source": ["training"],
        "by_source": [counts_of(read=7, empty=1, removed=2, repeated=1, sentences=3, words=5)],
        "read": 7,
        "empty": 1,
        "repeated": 1,
        "removed": 2,
        "not_spelled": 0,
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
    assert [each["read"] for each in counts["by_source"]] == [3, 2]
    assert counts["removed_by_set"] == {"corpus-test": 1}


def test_training_and_fetched_texts_are_used_together(tmp_path: Path, run: Run) -> None:
    clips = write_clips(tmp_path / "train.parquet", ["раз", "два"])
    lines = ["Раз.", "Пять, раз!", "Пять раз", "Один x два.", "Три.", "..."]
    wiki, more = write_fetched(tmp_path / "wiki", lines), write_fetched(tmp_path / "more", ["Шесть", "Пять раз"])
    tokenizer = write_tokenizer(tmp_path, ["[PAD]", "|", *"адзиеньопртшяв"])
    text, counts = run(
        "--clips", clips, "--texts", wiki, more, "--tokenizer", *tokenizer, held_out={"dev": ["три"]}
    )  # fmt: skip
    assert text == ["раз", "два", "пять раз"]
    assert counts["source"] == ["training", "wiki", "more"]
    assert counts["by_source"] == [
        counts_of(read=2, sentences=2, words=2),
        counts_of(read=6, empty=1, removed=1, not_spelled=1, repeated=2, sentences=1, words=2),
        counts_of(read=2, not_spelled=1, repeated=1),
    ]
    assert (counts["removed"], counts["sentences"]) == (1, 3)


def test_changed_text_is_named(tmp_path: Path, run: Run) -> None:
    wiki = write_fetched(tmp_path / "wiki", ["раз"])
    wiki.write_bytes(zstandard.compress(b"x"))
    tokenizer = write_tokenizer(tmp_path, ["[PAD]", "|", "а"])
    with pytest.raises(SpeechmillError, match=r"wiki/sentences\.txt\.zst has changed since it was written"):
        run("--texts", wiki, "--tokenizer", *tokenizer, held_out={"dev": []})


def test_seen_sentences_take_few_bytes_each() -> None:
    seen, count = SeenSentences(), 300_000
    tracemalloc.start()
    assert all(seen.add(f"предложение {i}") for i in range(count))
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 24 * count
    assert not any(seen.add(f"предложение {i}") for i in range(count))


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
