import json
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import pytest

from speechmill.corpus.pieces import Piece
from speechmill.corpus.sources.annotations.annotation import Annotation
from speechmill.corpus.sources.annotations.elan import read_elan
from speechmill.corpus.sources.annotations.nist import read_ctm
from speechmill.corpus.sources.annotations.subtitles import read_srt, read_vtt
from speechmill.corpus.sources.annotations.textgrid import read_textgrid
from speechmill.transcribe import Transcript, Word
from speechmill.transcribe.formats import FORMATS
from speechmill.transcribe.utterances import utterances

READERS: dict[str, Callable[[Path], list[Annotation]]] = {
    "eaf": read_elan, "TextGrid": read_textgrid, "ctm": read_ctm, "srt": read_srt, "vtt": read_vtt,
}  # fmt: skip


def transcript(*sentences: str, separator: str = " ") -> Transcript:
    """Sentences of words of 0.4 s, with pauses of 2 s between the sentences."""
    words, time = [], 1.0
    for sentence in sentences:
        for word in sentence.split() if separator else sentence:
            words.append(Word(word, round(time, 3), round(time + 0.4, 3), 0.9))
            time += 0.4
        time += 2
    return Transcript(" ".join(sentences), words, time)


TEXTS = {
    "Latin": ("seven three", "nine"),
    "markup": ("<b> & \"five\" 'it'", "]]> -->", "five"),
    "Arabic": ("سبعة ثلاثة", "تسعة"),
    "Hebrew with Latin": ("שלום abc 5", "אחד"),
    "digits": ("1", "2"),
}


def written(tmp_path: Path, ending: str, found: Transcript) -> Path:
    recording, file = tmp_path / "my talk.wav", tmp_path / f"my talk.{ending}"
    file.write_text(FORMATS[ending](found, recording, file), encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("ending", "text"),
    # SubRip has no way to write what looks like a tag.
    [(ending, text) for ending in READERS for text in TEXTS if (ending, text) != ("srt", "markup")],
)
def test_text_and_times_can_be_read_again(tmp_path: Path, ending: str, text: str) -> None:
    found = transcript(*TEXTS[text])
    read = [each for each in READERS[ending](written(tmp_path, ending, found)) if each.text and each.tier != "words"]
    assert [each.text for each in read] == [*TEXTS[text]]
    margin = 0.15 if ending in ("eaf", "TextGrid") else 0.0
    first = len(TEXTS[text][0].split())
    assert read[0].piece.start == pytest.approx(1.0 - margin)
    if ending not in ("srt", "vtt"):
        assert read[0].piece.end == pytest.approx(1.0 + first * 0.4 + margin)


@pytest.mark.parametrize("ending", FORMATS)
def test_transcript_without_words_can_be_read(tmp_path: Path, ending: str) -> None:
    file = written(tmp_path, ending, Transcript("", [], 5.0))
    if ending in READERS:
        assert [each for each in READERS[ending](file) if each.text] == []


def test_json_has_all_fields(tmp_path: Path) -> None:
    found = transcript("seven three")
    assert json.loads(written(tmp_path, "json", found).read_text()) == {
        "recording": "my talk.wav",
        "text": "seven three",
        "words": [
            {"text": "seven", "start": 1.0, "end": 1.4, "confidence": 0.9},
            {"text": "three", "start": 1.4, "end": 1.8, "confidence": 0.9},
        ],
        "seconds": found.seconds,
        "missing_seconds": 0.0,
        "calibrated": False,
    }


def test_text_has_a_line_for_each_utterance(tmp_path: Path) -> None:
    assert written(tmp_path, "txt", transcript("seven three", "nine")).read_text() == "seven three\nnine\n"


def test_elan_finds_the_recording(tmp_path: Path) -> None:
    recording, file = tmp_path / "audio" / "my talk.wav", tmp_path / "text" / "my talk.eaf"
    tree = ElementTree.fromstring(FORMATS["eaf"](transcript("one"), recording, file))
    media = tree.find("HEADER/MEDIA_DESCRIPTOR")
    assert media is not None
    assert unquote(media.attrib["MEDIA_URL"]) == f"file://{recording}"
    assert media.attrib["RELATIVE_MEDIA_URL"] == "../audio/my talk.wav"
    assert tree.findtext("HEADER/PROPERTY") == "1"


def test_textgrid_has_the_words(tmp_path: Path) -> None:
    words = [each for each in read_textgrid(written(tmp_path, "TextGrid", transcript("a b"))) if each.tier == "words"]
    assert [(each.text, each.piece) for each in words if each.text] == [
        ("a", Piece(1.0, 1.4)),
        ("b", Piece(1.4, 1.8)),
    ]


def test_word_without_a_duration_is_not_lost(tmp_path: Path) -> None:
    found = Transcript("a b c", [Word("a", 1.0, 1.4, 1), Word("b", 1.4, 1.4, 0), Word("c", 1.4, 1.8, 1)], 2.0)
    words = [each.text for each in read_textgrid(written(tmp_path, "TextGrid", found)) if each.tier == "words"]
    assert [text for text in words if text] == ["a b", "c"]


def test_long_speech_is_divided_at_its_longest_pause() -> None:
    # 30 s without a pause of half a second; the pause after the word 40 is the longest.
    words = [Word(f"w{i}", i * 0.4 + 0.3 * (i > 40), i * 0.4 + 0.3 * (i > 40) + 0.4, 1.0) for i in range(75)]
    found = utterances(Transcript(" ".join(word.text for word in words), words, 40.0))
    assert [each.text.split()[-1] for each in found] == ["w40", "w74"]
    assert all(each.end - each.start <= 20.3 for each in found)
    assert found[0].end <= found[1].start


def test_words_without_spaces_keep_those_of_the_text() -> None:
    found = Transcript("你好 世界", [Word(each, i * 0.3, i * 0.3 + 0.3, 1.0) for i, each in enumerate("你好世界")], 2.0)
    assert [each.text for each in utterances(found)] == ["你好 世界"]
