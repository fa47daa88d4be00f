import html
import subprocess
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechmill.transcribe import Transcript, Word
from speechmill.transcribe.subtitles import cues, srt, vtt, width


def spoken(words: list[tuple[str, float, float]], separator: str = " ") -> Transcript:
    """Return a transcript of words with the pause before and the duration of each."""
    found, time = [], 0.0
    for text, pause, seconds in words:
        found.append(Word(text, round(time + pause, 3), round(time + pause + seconds, 3), 1.0))
        time = found[-1].end
    return Transcript(separator.join(word.text for word in found), found, time + 1.5)


WORDS = st.tuples(
    st.text("abcdefghij", min_size=1, max_size=12),
    st.sampled_from([0.0, 0.0, 0.05, 0.2, 0.6, 1.5]),
    st.floats(0.1, 1.2) | st.floats(0.1, 9.0),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(WORDS, min_size=1, max_size=60))
def test_limits_hold_for_any_words(words: list[tuple[str, float, float]]) -> None:
    transcript = spoken(words)
    found = cues(transcript)
    assert " ".join(line for cue in found for line in cue.lines) == transcript.text
    for cue in found:
        assert len(cue.lines) <= 2
        assert all(len(line) <= 42 for line in cue.lines)
        assert 0 <= cue.start < cue.end <= transcript.seconds
        assert cue.end - cue.start <= 7.001
    for first, second in pairwise(found):
        assert first.end <= second.start
    # A subtitle is shorter than a second only where its neighbours leave no more time.
    ends = [0.0, *(cue.end for cue in found)]
    starts = [*(cue.start for cue in found[1:]), transcript.seconds]
    for cue, before, after in zip(found, ends, starts, strict=False):
        assert cue.end - cue.start >= 0.999 or after - before < 1.002


def test_subtitle_ends_at_a_pause() -> None:
    found = cues(spoken([("one", 0, 0.5), ("two", 0, 0.5), ("three", 1.0, 0.5)]))
    assert [cue.lines for cue in found] == [["one two"], ["three"]]
    # One second, into the pause.
    assert (found[1].start, found[1].end) == (2.0, 3.0)


def test_lines_are_of_similar_width() -> None:
    (cue,) = cues(spoken([("abcdefghi", 0, 0.5)] * 6))
    assert cue.lines == ["abcdefghi abcdefghi abcdefghi"] * 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [("abc", 3), ("กิ", 1), ("你好", 2 * 42 / 16), ("한국", 2 * 42 / 16), ("سلام", 4), ("e\u0301", 1)],
)
def test_width_counts_wide_characters_and_no_marks(text: str, expected: float) -> None:
    assert width(text) == pytest.approx(expected)


def test_wide_characters_have_16_in_a_line() -> None:
    found = cues(spoken([(character, 0, 0.2) for character in "你好世界" * 16], ""))
    assert "".join(line for cue in found for line in cue.lines) == "你好世界" * 16
    assert all(len(line) <= 16 for cue in found for line in cue.lines)
    assert all(len(cue.lines) <= 2 for cue in found)


def test_word_longer_than_a_line_is_divided() -> None:
    word = "กิน" * 100
    found = cues(spoken([(word, 0, 30.0)]))
    assert "".join(line for cue in found for line in cue.lines) == word
    assert all(width(line) <= 42 for cue in found for line in cue.lines)
    # A vowel sign stays with its consonant.
    assert not any(line.startswith("ิ") for cue in found for line in cue.lines)
    assert all(cue.end - cue.start <= 7 for cue in found)


@pytest.mark.parametrize(("name", "write", "second"), [("srt", srt, "two"), ("webvtt", vtt, "<two>")])
def test_file_is_read_by_ffmpeg(tmp_path: Path, name: str, write: Callable[[Transcript], str], second: str) -> None:
    transcript = spoken([("one", 3599.5, 0.9), (second, 0, 0.5), ("&", 1.0, 0.5), ("שלום", 0, 0.4)])
    (tmp_path / "subtitles").write_text(write(transcript), encoding="utf-8")
    command = ["ffmpeg", "-loglevel", "warning", "-f", name, "-i", tmp_path / "subtitles", "-f", "webvtt", "-"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    expected = [
        "WEBVTT",
        "",
        "59:59.500 --> 01:00:00.900",
        f"one {second}",
        "",
        "01:00:01.900 --> 01:00:02.900",
        "& שלום",
    ]
    assert html.unescape(done.stdout).split("\n")[:7] == expected
