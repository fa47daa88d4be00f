"""A synthetic corpus and a finished run, created once for all workflow tests and all processes that run them."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from fork_server import fork_server
from working_copy import SPOKEN, WorkingCopy, faulty_config, plant_faults, tiny_config, working_copy

Shared = Callable[[str, Callable[[WorkingCopy], None]], WorkingCopy]

# With pytest-xdist, the files that take longest start first.
SLOWEST = ["test_slurm.py", "test_recipes.py", "test_s3.py", "test_walkthrough.py"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Move the slowest files to the front."""
    items.sort(key=lambda item: SLOWEST.index(item.path.name) if item.path.name in SLOWEST else len(SLOWEST))


@pytest.fixture(scope="session", autouse=True)
def _fork_server() -> Iterator[None]:
    """Run snakemake and its jobs by a `python` that has the large libraries imported already."""
    # Not below pytest's folder: the address of a socket has at most 107 characters.
    with (
        tempfile.TemporaryDirectory() as folder,
        fork_server(Path(folder)) as programs,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("PATH", str(programs), prepend=os.pathsep)
        yield


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Shared:
    """Return a function that creates a working copy, unless another process of pytest-xdist has created it."""
    base = tmp_path_factory.getbasetemp()
    root = base if worker_id == "master" else base.parent

    def create(name: str, fill: Callable[[WorkingCopy], None]) -> WorkingCopy:
        with FileLock(root / f"{name}.lock"):
            copy = WorkingCopy(root / name)
            complete = root / f"{name}.complete"
            if not complete.exists():
                # Another process may have failed.
                shutil.rmtree(copy.folder, ignore_errors=True)
                fill(working_copy(copy.folder))
                complete.touch()
        return copy

    return create


@pytest.fixture(scope="session")
def spoken_archive(shared: Shared) -> Path:
    """The archive of a tiny synthetic corpus."""

    def speak(copy: WorkingCopy) -> None:
        copy.snakemake(tiny_config(SPOKEN), SPOKEN, plain=True, PATH="/usr/bin:/bin")

    return shared("spoken", speak).folder / SPOKEN


@pytest.fixture(scope="session")
def finished(shared: Shared, spoken_archive: Path) -> WorkingCopy:
    """A working copy with a finished run over a corpus with planted faults; tests must not change it."""

    def finish(copy: WorkingCopy) -> None:
        plant_faults(spoken_archive, copy.folder / "corpus.tar.gz")
        copy.snakemake(faulty_config(), "--report", "report.html", "--report-after-run", plain=True)

    return shared("finished", finish)


@pytest.fixture
def changed(finished: WorkingCopy, tmp_path: Path) -> WorkingCopy:
    """A copy of `finished` that a test may change."""
    return finished.copy(tmp_path / "copy")
