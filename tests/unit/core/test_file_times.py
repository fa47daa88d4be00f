import os
import sys
import time
from pathlib import Path

import pytest

from speechmill.core.command import run_command

FILES = ["results/runs/a/vocab.json", "results/models/b", "mine/results/c.json", "other/d.json"]


def test_no_result_has_a_time_in_the_future_after_a_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [*FILES, "results/runs/a/past"]:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    Path("results/link").symlink_to(tmp_path / "other/d.json")
    future = time.time() + 7200
    for path in (*Path().rglob("*"),):
        os.utime(path, (future, future), follow_symlinks=False)
    os.utime("results/runs/a/past", (5, 5))
    absolute = f"{tmp_path}/other/results/x"
    monkeypatch.setattr(sys, "argv", ["stage", "--to", "results/runs/a/card", "--clips", "mine/results/c", absolute])
    run_command(lambda: None)
    now = time.time()
    assert {path for path in Path().rglob("*") if path.lstat().st_mtime > now} == {
        Path("mine"), Path("other"), Path("other/d.json"), Path("results"), Path("mine/results"),
    }  # fmt: skip
    assert Path("results/runs/a/past").stat().st_mtime == 5
