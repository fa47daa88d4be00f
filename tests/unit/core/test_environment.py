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
