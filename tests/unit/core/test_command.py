from pathlib import Path

import pytest

from speechmill.core.command import SpeechmillError, atomic_write, run_command


def test_an_error_that_the_user_can_mend_is_said_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise SpeechmillError("corpus.tar.gz: there is nothing here")

    with pytest.raises(SystemExit) as stopped:
        run_command(main)
    assert stopped.value.code == 1
    assert capsys.readouterr() == ("", "error: corpus.tar.gz: there is nothing here\n")


def test_an_error_of_ours_keeps_its_traceback() -> None:
    def main() -> None:
        raise KeyError("of ours")

    with pytest.raises(KeyError):
        run_command(main)


def test_a_program_that_succeeds_ends_without_a_word(capsys: pytest.CaptureFixture[str]) -> None:
    run_command(lambda: None)
    assert capsys.readouterr() == ("", "")


def test_a_file_takes_its_name_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "file"
    with atomic_write(path) as beside:
        beside.write_text("half")
        assert not path.exists()
        beside.write_text("whole")
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


def test_an_earlier_file_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("earlier")
    with atomic_write(path) as beside:
        beside.write_text("new")
        assert path.read_text() == "earlier"
    assert path.read_text() == "new"


@pytest.mark.parametrize("fault", [RuntimeError, KeyboardInterrupt])
def test_what_fails_leaves_the_earlier_file_and_nothing_beside_it(tmp_path: Path, fault: type[BaseException]) -> None:
    path = tmp_path / "file"
    path.write_text("earlier")
    with pytest.raises(fault), atomic_write(path) as beside:
        beside.write_text("half")
        raise fault
    assert path.read_text() == "earlier"
    assert list(tmp_path.iterdir()) == [path]


def test_a_block_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "file"):
        pass
