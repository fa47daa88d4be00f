import errno
import os
from pathlib import Path

import pytest
from filelock import FileLock

from speechmill.training.work_lock import exclusive_use


def test_lock_names_its_holder_and_is_released(tmp_path: Path) -> None:
    for _ in range(2):
        with exclusive_use(tmp_path / "work", "mine"):
            assert (tmp_path / "work" / "lock").read_text().startswith(f"process {os.getpid()} on ")


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK])
def test_file_system_without_locks_gives_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(FileLock, "acquire", fail)
    with exclusive_use(tmp_path, "mine"):
        pass
    assert "make sure that no other process is training run mine" in capsys.readouterr().err
    number = errno.EACCES
    with pytest.raises(PermissionError), exclusive_use(tmp_path, "mine"):
        pass
