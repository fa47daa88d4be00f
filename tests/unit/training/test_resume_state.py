import errno
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors import SafetensorError

from speechmill.core.command import SpeechmillError
from speechmill.training.resume_state import (
    UNFINISHED,
    append_log,
    commit,
    cut_log,
    disk_space_for_state,
    empty_unfinished,
    newest_resume_state,
    read_log,
    step_of,
)

FILES = {"model.safetensors": b"w" * 3_000_000, "optimizer.pt": b"m" * 5_000_000, "trainer_state.json": b"{}"}


def written(work: Path, step: int) -> Path:
    """What the Trainer has written of a state, which is none yet."""
    empty_unfinished(work)
    folder = work / UNFINISHED / f"checkpoint-{step}"
    folder.mkdir()
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    return folder


def saved(work: Path, *steps: int) -> None:
    for step in steps:
        written(work, step)
        commit(work, step)


def names(work: Path) -> set[str]:
    return {path.name for path in work.iterdir()}


def test_the_newest_state_is_that_of_the_highest_step(tmp_path: Path) -> None:
    assert newest_resume_state(tmp_path) is None
    saved(tmp_path, 2, 10)
    assert newest_resume_state(tmp_path) == tmp_path / "checkpoint-10"
    assert step_of(tmp_path / "checkpoint-10") == 10
    assert step_of(None) == 0


def test_two_states_are_kept(tmp_path: Path) -> None:
    saved(tmp_path, 2, 4, 6, 8, 10)
    (tmp_path / "checkpoints").mkdir()
    assert names(tmp_path) == {"checkpoint-8", "checkpoint-10", "checkpoints", UNFINISHED}


def test_a_state_that_was_not_sealed_is_none_and_is_cleared_away(tmp_path: Path) -> None:
    saved(tmp_path, 2)
    written(tmp_path, 4)
    assert newest_resume_state(tmp_path) == tmp_path / "checkpoint-2"
    assert names(tmp_path) == {"checkpoint-2"}


def shorter(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def other_start(path: Path) -> None:
    path.write_bytes(b"?" + path.read_bytes()[1:])


def zero_end(path: Path) -> None:
    # What a file system may leave of a file whose end had not reached the disk.
    content = path.read_bytes()
    path.write_bytes(content[:-4096] + bytes(min(4096, len(content))))


@pytest.mark.parametrize("spoil", [shorter, other_start, zero_end, Path.unlink], ids=lambda each: each.__name__)
@pytest.mark.parametrize("name", [*FILES, "complete"])
def test_a_state_that_is_not_as_it_was_saved_is_set_aside_with_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, spoil: Callable[[Path], None]
) -> None:
    saved(tmp_path, 2, 4)
    spoil(tmp_path / "checkpoint-4" / name)
    assert newest_resume_state(tmp_path) == tmp_path / "checkpoint-2"
    assert names(tmp_path) == {"checkpoint-2", "broken-4"}
    said = capsys.readouterr().err
    assert said.startswith(f"the state of step 4 is set aside as {tmp_path}/broken-4: ")
    assert len(said.splitlines()) == 1
    assert newest_resume_state(tmp_path) == tmp_path / "checkpoint-2"
    assert capsys.readouterr().err == ""


def test_a_state_that_was_set_aside_makes_room_for_the_next_whole_one(tmp_path: Path) -> None:
    saved(tmp_path, 2, 4)
    shorter(tmp_path / "checkpoint-4" / "optimizer.pt")
    newest_resume_state(tmp_path)
    saved(tmp_path, 4)
    assert newest_resume_state(tmp_path) == tmp_path / "checkpoint-4"
    assert "broken-4" not in names(tmp_path)


def test_a_state_takes_its_name_last_of_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = written(tmp_path, 2)
    waited: list[str] = []

    def sync(descriptor: int) -> None:
        assert folder.is_dir()
        waited.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)

    monkeypatch.setattr("os.fsync", sync)
    append_log(tmp_path, {"step": 1})

    def renamed(self: Path, target: Path) -> Path:
        assert {*FILES, "complete", "training.jsonl", "checkpoint-2"} <= set(waited)
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "rename", renamed)
    with pytest.raises(KeyboardInterrupt):
        commit(tmp_path, 2)


NO_ROOM = [
    OSError(errno.ENOSPC, "No space left on device"),
    # As torch 2.11 and safetensors say it.
    RuntimeError("[enforce fail at inline_container.cc:862] . PytorchStreamWriter failed writing file data/0"),
    RuntimeError("basic_ios::clear: iostream error"),
    SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
]


@pytest.mark.parametrize("error", NO_ROOM, ids=str)
def test_a_full_disk_is_told_and_leaves_the_newest_state(tmp_path: Path, error: Exception) -> None:
    saved(tmp_path, 2)
    written(tmp_path, 4)
    with pytest.raises(SpeechmillError) as caught, disk_space_for_state(tmp_path, 4, 12_000_000_000):
        raise error
    message = str(caught.value)
    assert f"the state of step 4 could not be saved in {tmp_path} (" in message
    assert "it takes about 12.00 GB" in message
    assert "the state of step 2 is kept" in message
    assert names(tmp_path) == {"checkpoint-2"}


def test_an_error_that_is_not_the_disk_s_passes(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="CUDA error"), disk_space_for_state(tmp_path, 4):
        raise RuntimeError("CUDA error: device-side assert triggered")


def test_the_log_is_cut_back_to_a_step(tmp_path: Path) -> None:
    for row in ({"step": 2, "loss": 1.0}, {"step": 4, "loss": 1.0}, {"step": 4, "train_runtime": 9.0}, {"step": 6}):
        append_log(tmp_path, row)
    cut_log(tmp_path, 4)
    assert read_log(tmp_path) == [{"step": 2, "loss": 1.0}, {"step": 4, "loss": 1.0}]
    cut_log(tmp_path, 0)
    assert read_log(tmp_path) == []


def test_a_line_of_the_log_that_a_kill_cut_short_is_dropped(tmp_path: Path) -> None:
    (tmp_path / "training.jsonl").write_text(json.dumps({"step": 1}) + '\n{"step": 2, "lo')
    cut_log(tmp_path, 9)
    assert read_log(tmp_path) == [{"step": 1}]


def test_there_may_be_no_log_yet(tmp_path: Path) -> None:
    cut_log(tmp_path, 0)
    assert read_log(tmp_path) == []
