import pytest

from speechmill.core.command import SpeechmillError, run_command


def test_user_error_is_printed_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise SpeechmillError("corpus.tar.gz does not exist")

    with pytest.raises(SystemExit) as stopped:
        run_command(main)
    assert stopped.value.code == 1
    assert capsys.readouterr() == ("", "error: corpus.tar.gz does not exist\n")


def test_message_does_not_control_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise SpeechmillError("a/\x1b]0;title\x07\x9b31m.wav is\ttruncated:\r\n\x7f")

    with pytest.raises(SystemExit):
        run_command(main)
    assert capsys.readouterr().err == "error: a/\\x1b]0;title\\x07\\x9b31m.wav is\ttruncated:\\x0d\n\\x7f\n"


def test_bug_keeps_its_traceback() -> None:
    def main() -> None:
        raise KeyError("bug")

    with pytest.raises(KeyError):
        run_command(main)


def test_success_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    run_command(lambda: None)
    assert capsys.readouterr() == ("", "")
