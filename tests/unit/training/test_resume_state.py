import errno
import hashlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from safetensors import SafetensorError

from speechmill.core.command import SpeechmillError
from speechmill.training.resume_state import (
    UNFINISHED,
    append_log,
    commit,
    cut_log,
    empty_unfinished,
    newest_resume_state,
    read_log,
    step_of,
    writing_state,
)

FILES = {"model.safetensors": b"w" * 3_000_000, "optimizer.pt": b"m" * 5_000_000, "trainer_state.json": b"{}"}


def unfinished_state(work: Path, step: int) -> Path:
    """Write the files of a state as the Trainer does, without committing it."""
    empty_unfinished(work)
    folder = work / UNFINISHED / f"checkpoint-{step}"
    folder.mkdir()
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    return folder


def saved(work: Path, *steps: int) -> None:
    for step in steps:
        unfinished_state(work, step)
        commit(work, step)


def names(work: Path) -> set[str]:
    return {path.name for path in work.iterdir()}


def test_newest_state_has_the_highest_step(tmp_path: Path) -> None:
    assert newest_resume_state(tmp_path) is None
    saved(tmp_path, 2, 10)
    assert newest_resume_state(tmp_path) == tmp_path / "checkpoint-10"
    assert step_of(tmp_path / "checkpoint-10") == 10
    assert step_of(None) == 0


def test_two_states_are_kept(tmp_path: Path) -> None:
    saved(tmp_path, 2, 4, 6, 8, 10)
    (tmp_path / "checkpoints").mkdir()
    assert names(tmp_path) == {"checkpoint-8", "checkpoint-10", "checkpoints", UNFINISHED}


def test_uncommitted_state_is_ignored_and_deleted(tmp_path: Path) -> None:
    saved(tmp_path, 2)
    unfinished_state(tmp_path, 4)
    assert newest_resume_state(tmp_path) == tmp_path / "checkpoint-2"
    assert names(tmp_path) == {"checkpoint-2"}


def shorter(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def other_start(path: Path) -> None:
    path.write_bytes(b"?" + path.read_bytes()[1:])


def flipped_bit(path: Path) -> None:
    # In a large file, more than a megabyte from both ends.
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def zero_end(path: Path) -> None:
    # A file system may leave this if the end of a file had not reached the disk.
    content = path.read_bytes()
    path.write_bytes(content[:-4096] + bytes(min(4096, len(content))))


@pytest.mark.parametrize(
    "corrupt", [shorter, other_start, flipped_bit, zero_end, Path.unlink], ids=lambda each: each.__name__
)
@pytest.mark.parametrize("name", [*FILES, "complete"])
def test_corrupt_state_is_moved_with_a_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, corrupt: Callable[[Path], None]
) -> None:
    saved(tmp_path, 2, 4)
    corrupt(tmp_path / "checkpoint-4" / name)
    assert newest_resume_state(tmp_path) == tmp_path / "checkpoint-2"
    assert names(tmp_path) == {"checkpoint-2", "broken-4"}
    message = capsys.readouterr().err
    assert message.startswith(f"the resume state of step 4 is corrupt and was moved to {tmp_path}/broken-4: ")
    assert len(message.splitlines()) == 1
    assert newest_resume_state(tmp_path) == tmp_path / "checkpoint-2"
    assert capsys.readouterr().err == ""


def test_broken_state_is_deleted_after_the_next_commit(tmp_path: Path) -> None:
    saved(tmp_path, 2, 4)
    shorter(tmp_path / "checkpoint-4" / "optimizer.pt")
    newest_resume_state(tmp_path)
    saved(tmp_path, 4)
    assert newest_resume_state(tmp_path) == tmp_path / "checkpoint-4"
    assert "broken-4" not in names(tmp_path)


def test_state_is_renamed_after_all_syncs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = unfinished_state(tmp_path, 2)
    synced: list[str] = []

    def sync(descriptor: int) -> None:
        assert folder.is_dir()
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)

    monkeypatch.setattr("os.fsync", sync)
    append_log(tmp_path, {"step": 1})

    def renamed(self: Path, target: Path) -> Path:
        assert {*FILES, "complete", "training.jsonl", "checkpoint-2"} <= set(synced)
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "rename", renamed)
    with pytest.raises(KeyboardInterrupt):
        commit(tmp_path, 2)


DISK_ERRORS = [
    OSError(errno.ENOSPC, "No space left on device"),
    # The messages of torch 2.11 and safetensors.
    RuntimeError("[enforce fail at inline_container.cc:862] . PytorchStreamWriter failed writing file data/0"),
    RuntimeError("basic_ios::clear: iostream error"),
    SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
]


@pytest.mark.parametrize("error", DISK_ERRORS, ids=str)
def test_full_disk_is_reported_and_newest_state_kept(tmp_path: Path, error: Exception) -> None:
    saved(tmp_path, 2)
    unfinished_state(tmp_path, 4)
    with pytest.raises(SpeechmillError) as caught, writing_state(tmp_path, 4, 12_000_000_000):
        raise error
    message = str(caught.value)
    assert f"the resume state of step 4 could not be saved in {tmp_path} (" in message
    assert "It needs about 12.00 GB" in message
    assert "the state of step 2 is kept" in message
    assert names(tmp_path) == {"checkpoint-2"}


OTHER_ERRORS = [
    OSError(errno.EIO, "Input/output error"),
    FileNotFoundError(errno.ENOENT, "No such file or directory", "work/unfinished"),
    SafetensorError("Error while serializing: I/O error: Input/output error (os error 5)"),
]


@pytest.mark.parametrize("error", OTHER_ERRORS, ids=str)
def test_other_errors_are_not_called_a_full_disk(tmp_path: Path, error: Exception) -> None:
    saved(tmp_path, 2)
    with pytest.raises(SpeechmillError) as caught, writing_state(tmp_path, 4, 12_000_000_000):
        raise error
    message = str(caught.value)
    assert f"could not be saved in {tmp_path} ({error}); the state of step 2 is kept." in message
    assert "space" not in message


def test_unrelated_errors_pass_unchanged(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="CUDA error"), writing_state(tmp_path, 4):
        raise RuntimeError("CUDA error: device-side assert triggered")


def test_log_is_cut_back_to_a_step(tmp_path: Path) -> None:
    for row in ({"step": 2, "loss": 1.0}, {"step": 4, "loss": 1.0}, {"step": 4, "train_loss": 9.0}, {"step": 6}):
        append_log(tmp_path, row)
    cut_log(tmp_path, 4)
    assert read_log(tmp_path) == [{"step": 2, "loss": 1.0}, {"step": 4, "loss": 1.0}]
    cut_log(tmp_path, 0)
    assert read_log(tmp_path) == []


def test_incomplete_last_log_line_is_dropped(tmp_path: Path) -> None:
    (tmp_path / "training.jsonl").write_text(json.dumps({"step": 1}) + '\n{"step": 2, "lo')
    cut_log(tmp_path, 9)
    assert read_log(tmp_path) == [{"step": 1}]


@pytest.mark.parametrize("read", [read_log, partial(cut_log, step=2)])
def test_corrupt_log_line_is_named(tmp_path: Path, read: Callable[[Path], object]) -> None:
    (tmp_path / "training.jsonl").write_bytes(b'{"step": 1}\n{"step"\xba 2}\n{"step": 3}\n')
    with pytest.raises(SpeechmillError, match=rf"line 2 of {tmp_path}/training.jsonl is corrupt .*delete that line"):
        read(tmp_path)


def test_state_of_release_0_1_0_is_read(tmp_path: Path) -> None:
    saved(tmp_path, 2)
    stamps = {}
    for name, content in FILES.items():
        # Of both ends of a file, a megabyte each.
        ends = content if len(content) < 1 << 20 else content[: 1 << 20] + content[-(1 << 20) :]
        stamps[name] = {"bytes": len(content), "sha256": hashlib.sha256(ends).hexdigest()}
    (tmp_path / "checkpoint-2" / "complete").write_text(json.dumps(stamps))
    assert newest_resume_state(tmp_path) == tmp_path / "checkpoint-2"
    other_start(tmp_path / "checkpoint-2" / "optimizer.pt")
    assert newest_resume_state(tmp_path) is None


def test_missing_log_is_empty(tmp_path: Path) -> None:
    cut_log(tmp_path, 0)
    assert read_log(tmp_path) == []
