"""A spoken corpus, and a finished run over it with faults planted; made once for all workflow tests."""

from pathlib import Path

import pytest
from working_copy import SPOKEN, WorkingCopy, faulty_config, plant_faults, tiny_config, working_copy


@pytest.fixture(scope="session")
def spoken_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny corpus that the workflow has spoken."""
    copy = working_copy(tmp_path_factory.mktemp("spoken"))
    copy.snakemake(tiny_config(SPOKEN), SPOKEN)
    return copy.folder / SPOKEN


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, spoken_archive: Path) -> WorkingCopy:
    """A working copy in which the run over a corpus with faults is finished; tests must not change it."""
    copy = working_copy(tmp_path_factory.mktemp("finished"))
    plant_faults(spoken_archive, copy.folder / "corpus.tar.gz")
    copy.snakemake(faulty_config(), "--report", "report.html", "--report-after-run")
    return copy


@pytest.fixture
def changed(finished: WorkingCopy, tmp_path: Path) -> WorkingCopy:
    """A copy of `finished` that a test may change."""
    return finished.copy(tmp_path / "copy")
