import base64
import html.parser
import re
import sys
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from material import as_json, recording, store
from speechmill.core.direction import isolate
from speechmill.core.files import write_json
from speechmill.core.flac import decode_flac
from speechmill.core.schemas import CLIPS, HYPOTHESES
from speechmill.core.tables import read_table, write_table
from speechmill.model.word_times import Word
from speechmill.report import worst
from speechmill.report.worst import (
    WorstSettings,
    much_longer_hypotheses,
    playback_start,
    prepare_clips,
    render_page,
    select_worst,
    word_columns,
)
from speechmill.scoring.alignment import align_words
from speechmill.scoring.error_rates import count
from speechmill.scoring.systems import System

SECONDS = [2.0, 1.0, 1.5, 3.0]
TEXTS = ["ab cd e", "ab", "cd", "e a"]
HYPOTHESES_OF = ["ab d", "ab", "dc <b>", ""]
SETTINGS = WorstSettings(
    title="A corpus & test",
    language="ru",
    redistribute=True,
    units="characters",
    metric="wer",
    worst_clips=20,
    batch_seconds=60,
)
SUMMARY = {
    "run": "demo",
    "system": System("corpus-train", 5, "greedy"),
    "scored": 4,
    "with_errors": 3,
    "much_longer": [],
}


def row(name: str, reference: str, hypothesis: str, seconds: float = 1.0) -> dict[str, Any]:
    (counts,) = count([reference], [hypothesis])
    return {
        "dataset": "corpus", "split": "train", "id": name, "speaker_id": None, "seconds": seconds, "loss": None,
        "sentence": reference, "hypothesis": hypothesis, "scored_reference": reference,
        "scored_hypothesis": hypothesis, **counts._asdict(),
    }  # fmt: skip


def test_worst_clips_are_sorted_by_errors_then_wer() -> None:
    rows = [row("a", "a b c d", "x y c d"), row("b", "a b", "x y"), row("c", "a", "a"), row("d", "a b c", "")]
    assert [(each["id"], each["errors"], each["wer"]) for each in select_worst(rows, 20)] == [
        ("d", 3, 1.0), ("b", 2, 1.0), ("a", 2, 0.5),
    ]  # fmt: skip
    assert [each["id"] for each in select_worst(rows, 1)] == ["d"]


def test_equal_word_errors_fall_to_character_errors() -> None:
    # As sentences without spaces, digits or commands are: each is a word, right or wrong.
    rows = [row("a", "กขคง", "กขคจ"), row("b", "กขคง", ""), row("c", "กขคง", "กขคง"), row("d", "กขคง", "กจจง")]
    assert [each["id"] for each in select_worst(rows, 20)] == ["b", "d", "a"]


def test_worst_clips_follow_the_error_rate() -> None:
    rows = [row("a", "a b", "b a c"), row("b", "abcdefgh", "xyzwvuts"), row("c", "a", "a")]
    assert [each["id"] for each in select_worst(rows, 20, "wer")] == ["a", "b"]
    assert [each["id"] for each in select_worst(rows, 20, "cer")] == ["b", "a"]


def test_texts_much_longer_than_the_reference_are_named() -> None:
    rows = [row("a", "", "thank you"), row("b", "ab", "abcd"), row("c", "ab", "abcde"), row("d", "", "")]
    much_longer = much_longer_hypotheses(rows)
    assert [each["id"] for each in much_longer] == ["a", "c"]
    page = render_page([], SUMMARY | {"much_longer": much_longer}, SETTINGS)
    assert "In 2 clips the hypothesis has more than twice as many characters" in page
    assert "empty in 1 of them" in page
    assert "<code><bdi>a</bdi></code>, <code><bdi>c</bdi></code>." in page


def test_clips_without_errors_or_words() -> None:
    assert select_worst([row("a", "", ""), row("b", "a", "a")], 20) == []
    (selected,) = select_worst([row("a", "", "a b")], 20)
    assert selected["wer"] == float("inf")


def test_playback_starts_shortly_before_the_word() -> None:
    assert playback_start(Word("a", 1.0, 2.0)) == pytest.approx(0.9)
    assert playback_start(Word("a", 0.04, 2.0)) == 0.0
    assert playback_start(Word("a")) is None


def test_word_columns_pair_reference_and_hypothesis() -> None:
    (pairs,) = align_words(["a b c"], ["a x c d"])
    found = word_columns([*pairs, ("e", None)], [Word(each) for each in "abce"], [Word(each) for each in "axcd"])
    sides = [(each["kind"], each["reference"], each["hypothesis"]) for each in found]
    assert [(kind, one and one.text, other and other.text) for kind, one, other in sides] == [
        ("hit", "a", "a"), ("substitution", "b", "x"), ("hit", "c", "c"), ("insertion", None, "d"),
        ("deletion", "e", None),
    ]  # fmt: skip


def write_clips(folder: Path, **changed: Any) -> tuple[list[dict[str, Any]], Any, list[Path]]:
    """Write clips and shards; return rows of hypotheses, the table of clips, and the shards."""
    recordings = [recording(seconds, seed=i) for i, seconds in enumerate(SECONDS)]
    clips, shards = store(folder, recordings, TEXTS)
    write_table(clips, CLIPS, folder / "clips.parquet")
    rows = [
        row(clip["id"], text, hypothesis, seconds) | changed
        for clip, text, hypothesis, seconds in zip(clips, TEXTS, HYPOTHESES_OF, SECONDS, strict=True)
    ]
    return rows, read_table(folder / "clips.parquet"), shards


class Reader(html.parser.HTMLParser):
    """Parser that collects the elements of a page with their attributes, and checks that each one is closed."""

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
def page(tmp_path: Path, checkpoints: Path) -> tuple[list[dict[str, Any]], str]:
    rows, clips, shards = write_clips(tmp_path)
    found = prepare_clips(select_worst(rows, 20), clips, shards, checkpoints / "checkpoint-0", SETTINGS)
    return found, render_page(found, SUMMARY, SETTINGS)


def test_page_embeds_the_stored_audio(page: tuple[list[dict[str, Any]], str]) -> None:
    audio = Reader(page[1]).all("audio")
    assert len(audio) == 3
    kind, _, encoded = str(audio[0]["src"]).partition(",")
    assert kind == "data:audio/flac;base64"
    assert list(decode_flac(base64.b64decode(encoded))) == list(recording(1.5, seed=2))  # the clip with the highest WER


def test_words_are_buttons_that_play_from_their_time(page: tuple[list[dict[str, Any]], str]) -> None:
    found, text = page
    sides = [column[side] for clip in found for column in clip["columns"] for side in ("reference", "hypothesis")]
    words = [word for word in sides if word is not None and word.start is not None]
    starts = [playback_start(word) for word in words]
    buttons = Reader(text).all("button")
    assert [float(str(button["data-from"])) for button in buttons] == pytest.approx(starts, abs=0.005)
    assert all(button["type"] == "button" for button in buttons)
    assert starts
    assert all(0 <= word.start < word.end <= 3.0 for word in words)


def test_page_is_accessible(page: tuple[list[dict[str, Any]], str]) -> None:
    text = page[1]
    read = Reader(text)
    assert read.all("html") == [{"lang": "en"}]
    assert all(words["lang"] == "ru" and words["aria-label"] for words in read.all("ol"))
    assert all(audio["aria-label"] and "controls" in audio for audio in read.all("audio"))
    for kind, sign in (("substitution", "≠"), ("deletion", "−"), ("insertion", "+")):
        assert re.search(rf'<li class="{kind}">.*{re.escape(sign)}.*{kind}</span>', text), kind


def test_page_escapes_texts_and_is_self_contained(page: tuple[list[dict[str, Any]], str]) -> None:
    assert "&lt;b&gt;" in page[1]
    assert "<b>" not in page[1]
    assert "A corpus &amp; test" in page[1]
    assert "://" not in re.sub('base64,[^"]*', "", page[1])  # the page is self-contained


def test_boxes_run_as_the_sentence_does() -> None:
    title, clip = isolate("كتاب") + " dev", row("مقطع", "12 كيف حالك C++", "12 كيف \u064b")
    found = clip | {"sentence": "كيف حالك!", "hypothesis": "كيف", "words": 4, "errors": 2, "wer": 0.5, "cer": 0.5}
    (pairs,) = align_words([clip["scored_reference"]], [clip["scored_hypothesis"]])
    columns = word_columns(
        pairs,
        [Word(word) for word in clip["scored_reference"].split()],
        [Word(word) for word in clip["scored_hypothesis"].split()],
    )
    settings = SETTINGS.model_copy(update={"title": title, "language": "ar"})
    text = render_page([found | {"columns": columns, "audio": None}], SUMMARY, settings)
    read = Reader(text)
    assert read.all("ol")[0]["dir"] == "auto"
    # HTML, "the auto directionality": elements with `dir`, and `bdi`, do not count for that of the list.
    (items,) = re.findall(r"<ol .*?>(.*?)</ol>", text, re.DOTALL)
    counted = re.sub(r'<span class="mark" dir="ltr".*?</li>', "", items, flags=re.DOTALL)
    first = next(each for each in re.sub("<.*?>", "", counted) if unicodedata.bidirectional(each) in ("L", "R", "AL"))
    assert first == "ك"
    assert not re.search("<bdi|dir=", counted)
    assert [each["dir"] for each in read.all("bdi") if "lang" in each] == ["auto", "auto"]
    assert "◌\u064b" in items
    assert f"<h1>{title}: the worst clips</h1>" in text


def test_page_without_redistribution_has_no_audio(tmp_path: Path, checkpoints: Path) -> None:
    rows, clips, shards = write_clips(tmp_path)
    settings = SETTINGS.model_copy(update={"redistribute": False})
    found = prepare_clips(select_worst(rows, 20), clips, shards, checkpoints / "checkpoint-0", settings)
    text = render_page(found, SUMMARY, settings)
    assert Reader(text).all("audio") == Reader(text).all("button") == []
    assert "base64" not in text
    assert "the terms of the corpus do not allow" in text
    assert re.search(r'title="reference, \d', text)  # word times are shown nevertheless


def test_long_clip_is_shown_without_audio_or_model(tmp_path: Path) -> None:
    rows, clips, shards = write_clips(tmp_path, seconds=7200.0)
    found = prepare_clips(select_worst(rows, 20), clips, shards, tmp_path / "no model", SETTINGS)
    assert [clip["audio"] for clip in found] == [None] * 3
    assert found[1]["columns"][0]["reference"] == Word("e")
    assert "Clips longer than 120 s" in render_page(found, SUMMARY, SETTINGS)


def run_main(folder: Path, monkeypatch: pytest.MonkeyPatch, rows: list[dict[str, Any]], model: Path) -> str:
    _, _, shards = write_clips(folder)
    hypotheses = []
    for step, decoder_rows in (("5", []), ("7", rows)):
        hypotheses.append(folder / step / "corpus-train" / "greedy" / "hypotheses.parquet")
        write_table(decoder_rows, HYPOTHESES, hypotheses[-1])
    write_json({"step": 7, "sha256": {}}, folder / "selection.json")
    arguments = ["--run", "demo", "--settings", as_json(SETTINGS.model_dump()), "--threads", 1, "--set", "corpus-train",
                 "--decoder", "greedy", "--selection", folder / "selection.json", "--hypotheses", *hypotheses,
                 "--model", model, "--clips", folder / "clips.parquet", "--shards", *shards,
                 "--page", folder / "page.html"]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["worst", *map(str, arguments)])
    worst.main()
    return (folder / "page.html").read_text()


def test_main_shows_the_selected_step(tmp_path: Path, checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, _, _ = write_clips(tmp_path)
    text = run_main(tmp_path, monkeypatch, rows, checkpoints / "checkpoint-0")
    assert "step 7, greedy decoding" in text
    assert "3 of 4 clips have errors. This page shows all of them" in " ".join(text.split())
    assert len(Reader(text).all("article")) == 3


@pytest.mark.parametrize(
    ("rows", "message"),
    [([], "No clip of the set was scored."), ([row("a", "a", "a")], "No errors in 1 scored clip.")],
)
def test_page_without_clips_or_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: list[dict[str, Any]], message: str
) -> None:
    assert message in run_main(tmp_path, monkeypatch, rows, tmp_path / "no model")


def test_characters_are_aligned_where_they_decide(tmp_path: Path) -> None:
    rows = [row("a", "กข ค", "กคค", seconds=1000.0)]
    settings = SETTINGS.model_copy(update={"metric": "cer"})
    (found,) = prepare_clips(select_worst(rows, 20, "cer"), CLIPS.empty_table(), [], tmp_path, settings)
    assert [(each["kind"], each["reference"] and each["reference"].text) for each in found["columns"]] == [
        ("hit", "ก"), ("substitution", "ข"), ("deletion", " "), ("hit", "ค"),
    ]  # fmt: skip
    page = render_page([found], SUMMARY, settings)
    assert "2 errors in 4 characters, CER 50%, WER 100%" in page
    assert ">␣</" in page
