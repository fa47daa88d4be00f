import base64
import html.parser
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Wav2Vec2Processor

from material import as_json, recording, store
from speechmill.core.flac import decode_flac
from speechmill.core.tables import CLIPS, HYPOTHESES, read_table, write_json, write_table
from speechmill.model.models import load_checkpoint
from speechmill.report import worst as stage
from speechmill.report.worst import Word, WorstSettings, columns, page, shown, timed, tokens_of, word_spans, worst
from speechmill.scoring.alignment import aligned_words
from speechmill.scoring.error_rates import count
from speechmill.scoring.systems import System

SECONDS = [2.0, 1.0, 1.5, 3.0]
TEXTS = ["ab cd e", "ab", "cd", "e a"]
HYPOTHESES_OF = ["ab d", "ab", "dc <b>", ""]
SETTINGS = WorstSettings(
    title="A corpus & test", language="ru", redistribute=True, units="characters", worst_clips=20, batch_seconds=60
)
ABOUT = {"run": "demo", "system": System("corpus-train", 5, "greedy"), "scored": 4, "wrong": 3}


def row(name: str, reference: str, hypothesis: str, seconds: float = 1.0) -> dict[str, Any]:
    (counts,) = count([reference], [hypothesis])
    return {
        "dataset": "corpus", "split": "train", "id": name, "speaker_id": None, "seconds": seconds, "loss": None,
        "sentence": reference, "hypothesis": hypothesis, "scored_reference": reference,
        "scored_hypothesis": hypothesis, **counts._asdict(),
    }  # fmt: skip


def test_the_worst_clips_have_the_most_errors_then_the_highest_wer() -> None:
    rows = [row("a", "a b c d", "x y c d"), row("b", "a b", "x y"), row("c", "a", "a"), row("d", "a b c", "")]
    assert [(each["id"], each["errors"], each["wer"]) for each in worst(rows, 20)] == [
        ("d", 3, 1.0), ("b", 2, 1.0), ("a", 2, 0.5),
    ]  # fmt: skip
    assert [each["id"] for each in worst(rows, 1)] == ["d"]


def test_clips_without_errors_or_without_words_are_no_trouble() -> None:
    assert worst([row("a", "", ""), row("b", "a", "a")], 20) == []
    (said,) = worst([row("a", "", "a b")], 20)
    assert said["wer"] == float("inf")


def peaks(ids: Sequence[int], vocabulary: int = 5) -> torch.Tensor:
    """Log-probabilities of a model that is sure of each of these, one a frame."""
    return torch.log_softmax(20.0 * torch.nn.functional.one_hot(torch.tensor(ids), vocabulary).float(), -1)


def test_words_are_where_the_model_is_sure_of_them() -> None:
    # 0 is the blank, 1 stands between words.
    frames = peaks([0, 2, 2, 0, 3, 0, 1, 0, 0, 4, 0])
    assert word_spans(frames, [[2, 3], [4]], space=1, blank=0) == [(1, 5), (9, 10)]


def test_the_blank_may_be_any_token_and_the_space_may_be_none() -> None:
    assert word_spans(peaks([4, 0, 4, 1, 4]), [[0], [1]], space=None, blank=4) == [(1, 2), (3, 4)]


def test_a_word_that_the_model_cannot_write_has_no_time_and_hides_none() -> None:
    assert word_spans(peaks([0, 2, 0, 1, 3, 0]), [[], [2], [], [3], []], space=1, blank=0) == [
        None, (1, 2), None, (4, 5), None,
    ]  # fmt: skip


@pytest.mark.parametrize("words", [[[2, 2, 3]], [[2, 3, 4, 2]], [], [[], []]])
def test_words_that_do_not_fit_into_the_frames_have_no_times(words: list[list[int]]) -> None:
    # A letter twice needs a blank between: four frames for the first.
    assert word_spans(peaks([2, 2, 3]), words, space=1, blank=0) == [None] * len(words)
    assert word_spans(torch.zeros((0, 5)), words, space=1, blank=0) == [None] * len(words)


def test_characters_outside_the_vocabulary_are_left_out_of_the_alignment(letters: Wav2Vec2Processor) -> None:
    vocab = letters.tokenizer.get_vocab()
    assert tokens_of("aqb", letters, "characters", len(vocab)) == [vocab["a"], vocab["b"]]
    assert tokens_of("ж", letters, "characters", len(vocab)) == []
    assert tokens_of("ab", letters, "characters", vocab["a"] + 1) == [vocab["a"]]


def test_times_are_seconds_of_the_clip(checkpoints: Path) -> None:
    model, processor = load_checkpoint(checkpoints / "checkpoint-0")
    vocab = processor.tokenizer.get_vocab()
    frames = peaks([0, vocab["a"], 0, vocab["|"], vocab["b"], vocab["b"], 0, 0], model.config.vocab_size)
    assert timed(["a", "q", "b"], frames, 4.0, model, processor, "characters") == [
        Word("a", 0.5, 1.0), Word("q"), Word("b", 2.0, 3.0),
    ]  # fmt: skip


def test_listening_begins_a_little_before_the_word_and_never_before_the_clip() -> None:
    assert Word("a", 1.0, 2.0).play_from == pytest.approx(0.9)
    assert Word("a", 0.04, 2.0).play_from == 0.0
    assert Word("a").play_from is None


def test_columns_say_what_stands_against_what() -> None:
    (pairs,) = aligned_words(["a b c"], ["a x c d"])
    found = columns([*pairs, ("e", None)], [Word(each) for each in "abce"], [Word(each) for each in "axcd"])
    sides = [(each["kind"], each["reference"], each["hypothesis"]) for each in found]
    assert [(kind, one and one.text, other and other.text) for kind, one, other in sides] == [
        ("hit", "a", "a"), ("substitution", "b", "x"), ("hit", "c", "c"), ("insertion", None, "d"),
        ("deletion", "e", None),
    ]  # fmt: skip


def made(folder: Path, **changed: Any) -> tuple[list[dict[str, Any]], Any, list[Path]]:
    """The rows of hypotheses, the table of clips and the shards."""
    recordings = [recording(seconds, seed=i) for i, seconds in enumerate(SECONDS)]
    clips, shards = store(folder, recordings, TEXTS)
    write_table(clips, CLIPS, folder / "clips.parquet")
    rows = [
        row(clip["id"], text, hypothesis, seconds) | changed
        for clip, text, hypothesis, seconds in zip(clips, TEXTS, HYPOTHESES_OF, SECONDS, strict=True)
    ]
    return rows, read_table(folder / "clips.parquet"), shards


class Reader(html.parser.HTMLParser):
    """The elements of a page with their attributes, in order; each opened one must be closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "br", "img"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for each, attributes in self.found if each == tag]


@pytest.fixture
def written(tmp_path: Path, checkpoints: Path) -> tuple[list[dict[str, Any]], str]:
    rows, clips, shards = made(tmp_path)
    found = shown(worst(rows, 20), clips, shards, checkpoints / "checkpoint-0", SETTINGS)
    return found, page(found, ABOUT, SETTINGS)


def test_the_page_has_the_recordings_as_they_are_stored(written: tuple[list[dict[str, Any]], str]) -> None:
    audio = Reader(written[1]).all("audio")
    assert len(audio) == 3
    kind, _, encoded = str(audio[0]["src"]).partition(",")
    assert kind == "data:audio/flac;base64"
    assert list(decode_flac(base64.b64decode(encoded))) == list(recording(1.5, seed=2))  # the clip with the highest WER


def test_a_word_plays_from_its_time_and_is_reached_by_the_keyboard(written: tuple[list[dict[str, Any]], str]) -> None:
    found, text = written
    sides = [column[side] for clip in found for column in clip["columns"] for side in ("reference", "hypothesis")]
    words = [word for word in sides if word is not None and word.start is not None]
    starts = [word.play_from for word in words]
    buttons = Reader(text).all("button")
    assert [float(str(button["data-from"])) for button in buttons] == pytest.approx(starts, abs=0.005)
    assert all(button["type"] == "button" for button in buttons)
    assert starts
    assert all(0 <= word.start < word.end <= 3.0 for word in words)


def test_the_page_can_be_read_without_colours_and_aloud(written: tuple[list[dict[str, Any]], str]) -> None:
    text = written[1]
    read = Reader(text)
    assert read.all("html") == [{"lang": "en"}]
    assert all(words["lang"] == "ru" and words["aria-label"] for words in read.all("ol"))
    assert all(audio["aria-label"] and "controls" in audio for audio in read.all("audio"))
    for kind, sign in (("substitution", "≠"), ("deletion", "−"), ("insertion", "+")):
        assert re.search(rf'<li class="{kind}">.*{re.escape(sign)}.*{kind}</span>', text), kind


def test_texts_stand_on_the_page_as_texts(written: tuple[list[dict[str, Any]], str]) -> None:
    assert "&lt;b&gt;" in written[1]
    assert "<b>" not in written[1]
    assert "A corpus &amp; test" in written[1]
    assert "http" not in re.sub('base64,[^"]*', "", written[1])  # so it is whole in itself


def test_where_audio_may_not_be_passed_on_there_is_none_and_the_page_says_so(tmp_path: Path, checkpoints: Path) -> None:
    rows, clips, shards = made(tmp_path)
    settings = SETTINGS.model_copy(update={"redistribute": False})
    found = shown(worst(rows, 20), clips, shards, checkpoints / "checkpoint-0", settings)
    text = page(found, ABOUT, settings)
    assert Reader(text).all("audio") == Reader(text).all("button") == []
    assert "base64" not in text
    assert "the terms of the corpus forbid" in text
    assert re.search(r'title="reference, \d', text)  # the times stay


def test_a_clip_of_hours_is_shown_without_audio_and_nothing_is_loaded_for_it(tmp_path: Path) -> None:
    rows, clips, shards = made(tmp_path, seconds=7200.0)
    found = shown(worst(rows, 20), clips, shards, tmp_path / "no model", SETTINGS)
    assert [clip["audio"] for clip in found] == [None] * 3
    assert found[1]["columns"][0]["reference"] == Word("e")
    assert "Longer than 120 s" in page(found, ABOUT, SETTINGS)


def program(folder: Path, monkeypatch: pytest.MonkeyPatch, rows: list[dict[str, Any]], model: Path) -> str:
    _, _, shards = made(folder)
    hypotheses = []
    for step, decoder_rows in (("5", []), ("7", rows)):
        hypotheses.append(folder / step / "corpus-train" / "greedy" / "hypotheses.parquet")
        write_table(decoder_rows, HYPOTHESES, hypotheses[-1])
    write_json({"step": 7}, folder / "selection.json")
    arguments = ["--run", "demo", "--settings", as_json(SETTINGS.model_dump()), "--threads", 1, "--set", "corpus-train",
                 "--decoder", "greedy", "--selection", folder / "selection.json", "--hypotheses", *hypotheses,
                 "--model", model, "--clips", folder / "clips.parquet", "--shards", *shards,
                 "--page", folder / "page.html"]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["worst", *map(str, arguments)])
    stage.main()
    return (folder / "page.html").read_text()


def test_the_program_shows_the_selected_step(
    tmp_path: Path, checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, _, _ = made(tmp_path)
    text = program(tmp_path, monkeypatch, rows, checkpoints / "checkpoint-0")
    assert "step 7, greedy decoding" in text
    assert "3 of 4 clips have errors; all of them are here" in " ".join(text.split())
    assert len(Reader(text).all("article")) == 3


@pytest.mark.parametrize(
    ("rows", "said"),
    [([], "No clip of the set was scored."), ([row("a", "a", "a")], "None of 1 clips has an error.")],
)
def test_a_set_without_clips_or_without_errors_has_a_page_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: list[dict[str, Any]], said: str
) -> None:
    assert said in program(tmp_path, monkeypatch, rows, tmp_path / "no model")
