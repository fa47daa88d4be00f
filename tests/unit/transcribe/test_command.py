import os
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from material import largest_file
from speechmill.core.command import run_command
from speechmill.core.flac import Int16Samples
from speechmill.transcribe import Transcriber, __main__

Spoken = Callable[[Sequence[str | float]], Int16Samples]
Write = Callable[[str, Int16Samples], Path]


def status(*arguments: object) -> int:
    """Run the command in this process, and return its exit status."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["speechmill.transcribe", *map(str, arguments)])
        try:
            run_command(__main__.main)
        except SystemExit as stopped:
            return int(stopped.code or 0)
    return 0


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def talks(model: Path, spoken: Spoken, write: Write) -> Path:
    """A folder with two recordings, of which one is in a subfolder, and other files."""
    write("talks/first.wav", spoken([0.5, "abc de", 0.5]))
    write("talks/more/second.wav", spoken([0.5, "bad", 0.5]))
    folder = model.parent / "talks"
    (folder / "notes.md").write_text("no recording")
    (folder / "more" / "._second.wav").write_text("of a file system without attributes")
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def test_folder_is_transcribed_into_a_folder(model: Path, talks: Path, out: Path, capsys: Any) -> None:
    assert status(model, talks, "--to", "txt", "json", "srt", "--output", out) == 0
    assert files(out) == {f"{stem}.{ending}" for stem in ("first", "more/second") for ending in ("txt", "json", "srt")}
    assert (out / "first.txt").read_text() == "abc de\n"
    assert (out / "more" / "second.txt").read_text() == "bad\n"
    assert capsys.readouterr().out == "transcribed 2 (0.00 h)\n"


def test_transcripts_are_beside_their_recordings_by_default(model: Path, talks: Path) -> None:
    assert status(model, talks / "first.wav", talks / "more") == 0
    assert (talks / "first.txt").read_text() == "abc de\n"
    assert (talks / "more" / "second.txt").read_text() == "bad\n"


def test_patterns_stand_for_files(model: Path, talks: Path, out: Path) -> None:
    assert status(model, f"{talks}/**/sec*.wav", "--output", out) == 0
    assert files(out) == {"second.txt"}


def test_existing_files_are_kept_and_counted(model: Path, talks: Path, out: Path, capsys: Any) -> None:
    assert status(model, talks, "--output", out) == 0
    (out / "first.txt").write_text("corrected")
    capsys.readouterr()
    assert status(model, talks, "--output", out) == 0
    assert capsys.readouterr().out == (
        "transcribed 0 (0.00 h)\nskipped 2, whose files exist; --overwrite writes them again\n"
    )
    # Only the format that is missing is written.
    assert status(model, talks, "--output", out, "--to", "txt", "json") == 0
    assert (out / "first.txt").read_text() == "corrected"
    assert (out / "first.json").is_file()
    assert status(model, talks, "--output", out, "--overwrite") == 0
    assert (out / "first.txt").read_text() == "abc de\n"


def test_failures_are_listed_and_the_others_are_transcribed(model: Path, talks: Path, out: Path, capsys: Any) -> None:
    (talks / "empty.mp3").write_bytes(b"")
    (talks / "letter.flac").write_text("Dear reader")
    assert status(model, talks, "--output", out) == 1
    printed = capsys.readouterr().out
    assert printed.startswith("transcribed 2 (0.00 h)\nfailed 2:\n")
    assert f"  {talks}/empty.mp3 cannot be transcribed: the file is empty\n" in printed
    assert f"  {talks}/letter.flac cannot be transcribed: libsndfile: " in printed
    assert files(out) == {"first.txt", "more/second.txt"}


def test_recordings_without_speech_are_counted(model: Path, spoken: Spoken, write: Write, capsys: Any) -> None:
    recording = write("quiet.wav", spoken([2.0]))
    assert status(model, recording, "--to", "txt", "eaf", "TextGrid", "vtt") == 0
    assert capsys.readouterr().out == "transcribed 1 (0.00 h, of which 1 without speech)\n"
    assert recording.with_suffix(".txt").read_text() == ""


@pytest.mark.parametrize("second", ["more/first.wav", "first.flac"])
def test_same_name_is_not_written_twice(
    model: Path, talks: Path, out: Path, spoken: Spoken, write: Write, capsys: Any, second: str
) -> None:
    other = write(f"talks/{second}", spoken([0.5, "bad", 0.5]))
    assert status(model, talks / "first.wav", other, talks / "first.wav", "--output", out) == 1
    assert f"{other}: its transcript would be the same file as that of {talks}/first.wav; " in capsys.readouterr().out
    assert files(out) == {"first.txt"}
    assert (out / "first.txt").read_text() == "abc de\n"
    # With the folder of both, as the message says.
    if "/" in second:
        assert status(model, talks, "--output", out) == 0
        assert (out / "more" / "first.txt").read_text() == "bad\n"


def test_missing_recordings_are_named(model: Path, talks: Path, tmp_path: Path, capsys: Any) -> None:
    assert status(model, talks / "third.wav") == 1
    assert f"error: {talks}/third.wav: there is no such file or folder" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert status(model, tmp_path / "empty") == 1
    assert f"error: {tmp_path}/empty: no recording is below this folder" in capsys.readouterr().err


def test_unusable_model_is_reported_first(tmp_path: Path, talks: Path, capsys: Any) -> None:
    assert status(tmp_path / "nowhere", talks) == 1
    assert "nowhere is no folder; give the folder of a model" in capsys.readouterr().err
    assert not files(talks) & {"first.txt", "more/second.txt"}


def test_interruption_leaves_complete_files_and_is_continued(
    model: Path, talks: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    original = Transcriber.transcribe

    def interrupted(self: Transcriber, recording: Path, *rest: Any) -> Any:
        if recording.stem == "second":
            raise KeyboardInterrupt
        return original(self, recording, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Transcriber, "transcribe", interrupted)
        assert status(model, talks, "--output", out) == 130
    assert capsys.readouterr().out.endswith("interrupted: 1 left; the same command continues\n")
    assert files(out) == {"first.txt"}
    assert status(model, talks, "--output", out) == 0
    assert files(out) == {"first.txt", "more/second.txt"}


def test_full_disk_is_reported_and_leaves_no_file(model: Path, talks: Path, out: Path, capsys: Any) -> None:
    with largest_file(1000):
        assert status(model, talks, "--output", out) == 1
    printed = capsys.readouterr().out
    assert printed.count("the disk is full (") == 2
    assert "TMPDIR" in printed
    assert files(out) == set()


def test_disk_that_is_full_when_the_transcript_is_written(
    model: Path, talks: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    original = Transcriber.transcribe

    def with_limit(self: Transcriber, recording: Path, *rest: Any) -> Any:
        transcript = original(self, recording, *rest)
        stack.enter_context(largest_file(100))
        return transcript

    monkeypatch.setattr(Transcriber, "transcribe", with_limit)
    with ExitStack() as stack:
        assert status(model, talks / "first.wav", "--output", out, "--to", "txt", "json") == 1
    assert f"{talks}/first.wav: the disk is full" in capsys.readouterr().out
    assert files(out) == {"first.txt"}


def test_missing_permission_is_reported(model: Path, talks: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def refused(text: str, path: Path) -> None:
        raise PermissionError(13, os.strerror(13), str(path))

    monkeypatch.setattr(__main__, "write_text", refused)
    assert status(model, talks / "first.wav") == 1
    assert f"{talks}/first.wav: [Errno 13] Permission denied: '{talks}/first.txt'" in capsys.readouterr().out


def test_progress_is_shown_up_to_its_end(model: Path, talks: Path, out: Path, capsys: Any) -> None:
    assert status(model, talks, "--output", out) == 0
    assert "transcribe: 100%" in capsys.readouterr().err
