"""A spoken corpus, and a finished run over it with faults planted; made once for all workflow tests."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from warm import warm_python
from working_copy import PROGRAMS, SPOKEN, WorkingCopy, faulty_config, plant_faults, tiny_config, working_copy


@pytest.fixture(scope="session", autouse=True)
def python() -> Iterator[None]:
    """Have snakemake and its jobs run by a `python` whose libraries are imported already."""
    # Short: the address of a socket holds a hundred letters.
    with (
        tempfile.TemporaryDirectory() as folder,
        warm_python(Path(folder)) as warm,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("PATH", PROGRAMS, prepend=os.pathsep)
        patch.setenv("PATH", str(warm), prepend=os.pathsep)
        yield


@pytest.fixture(scope="session")
def spoken_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny corpus that the workflow has spoken."""
    copy = working_copy(tmp_path_factory.mktemp("spoken"))
    # With a plain Python, as users have it.
    copy.snakemake(tiny_config(SPOKEN), SPOKEN, PATH=f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}")
    return copy.folder / SPOKEN


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, spoken_archive: Path) -> WorkingCopy:
    """A working copy in which the run over a corpus with faults is finished; tests must not change it."""
    # With a plain Python, as users have it.
    copy = working_copy(tmp_path_factory.mktemp("finished"))
    plant_faults(spoken_archive, copy.folder / "corpus.tar.gz")
    plain = f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}"
    copy.snakemake(faulty_config(), "--report", "report.html", "--report-after-run", PATH=plain)
    return copy


@pytest.fixture
def changed(finished: WorkingCopy, tmp_path: Path) -> WorkingCopy:
    """A copy of `finished` that a test may change."""
    return finished.copy(tmp_path / "copy")
