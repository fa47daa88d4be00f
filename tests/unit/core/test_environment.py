import os
import subprocess
from pathlib import Path
from unittest.mock import patch

import pytest

from speechmill.core.environment import set_for_jobs

LIBRARY = str(Path(__file__).parents[3] / "workflow")


@pytest.mark.parametrize("name", ["speechmill/__init__.py", "glob.py", "hashlib.py"])
def test_jobs_import_nothing_from_the_working_directory(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("raise SystemExit('imported from the working directory')\n")
    with patch.dict(os.environ):
        set_for_jobs(LIBRARY)
        # The module imports `glob` and `hashlib`, and does nothing else.
        job = subprocess.run(
            ["python", "-m", "speechmill.core.files"], cwd=tmp_path, capture_output=True, text=True, check=False
        )
    assert (job.returncode, job.stderr) == (0, "")


@pytest.mark.parametrize("variable", ["PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"])
def test_memory_settings_of_the_user_stay(variable: str) -> None:
    names = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
    with patch.dict(os.environ):
        for name in names:
            os.environ.pop(name, None)
        os.environ[variable] = "max_split_size_mb:64"
        set_for_jobs(LIBRARY)
        assert [os.environ.get(name) for name in names if name in os.environ] == ["max_split_size_mb:64"]
        del os.environ[variable]
        set_for_jobs(LIBRARY)
        assert os.environ["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"
