import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from material import ROOT

STAGES = ["made", "shards", "log_probs", "evaluate", "ingest_dataset"]
Digests = dict[str, str]

# A stage to edit, beside those that there are.
MADE = '''"""made: a stage."""

from speechmill.core.tables import SAMPLE_RATE

ROW_GROUP = 16


def convert(number: int) -> str:
    """Convert."""
    kept = 0
    kept += number * SAMPLE_RATE
    return "missing" if kept else "found"
'''


def copied(folder: Path) -> Path:
    """A copy of the library, with the stage `made` and a file for a stage to read."""
    shutil.copytree(
        ROOT / "workflow" / "speechmill", folder / "speechmill", ignore=shutil.ignore_patterns("__pycache__")
    )
    (folder / "speechmill" / "made.py").write_text(MADE)
    (folder / "templates").mkdir()
    (folder / "templates" / "page.txt").write_text("a page")
    return folder


def digests(workflow: Path) -> Digests:
    """The digest of each of STAGES, as a new process sees the copy; `page` is that of a stage with a file."""
    program = (
        "from speechmill.dag.versions import code_digest\n"
        f"for stage in {STAGES}: print(stage, code_digest(stage))\n"
        "print('page', code_digest('shards', 'templates/page.txt'))\n"
        "print('alone', code_digest('made', without=['tables']))"
    )
    lines = subprocess.check_output(
        [sys.executable, "-c", program], env={"PYTHONPATH": str(workflow)}, text=True
    ).splitlines()
    return dict(line.split() for line in lines)


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Digests:
    """The digests before anything is edited."""
    return digests(copied(tmp_path_factory.mktemp("unedited")))


@pytest.fixture
def workflow(tmp_path: Path) -> Path:
    """A copy that may be edited."""
    return copied(tmp_path)


def changed(before: Digests, after: Digests) -> set[str]:
    return {stage for stage in STAGES if before[stage] != after[stage]}


def edit(workflow: Path, before: str, after: str) -> None:
    assert MADE.count(before) == 1
    (workflow / "speechmill" / "made.py").write_text(MADE.replace(before, after))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("ROW_GROUP = 16", "ROW_GROUP = 16  # a remark"),
        ("made: a stage.", "made: the title."),
        ('    """Convert."""\n', ""),
        ("def convert(", "\n\n\ndef convert("),
        ("kept = 0", "kept = (0)"),
    ],
    ids=["comment", "docstring", "no docstring", "blank lines", "brackets"],
)
def test_what_does_nothing_changes_nothing(workflow: Path, earlier: Digests, before: str, after: str) -> None:
    edit(workflow, before, after)
    assert digests(workflow) == earlier


@pytest.mark.parametrize(
    ("before", "after"),
    [("16", "32"), ('"missing"', '"lost"'), ("kept +=", "kept -="), ("number: int", "number: int = 0")],
    ids=["number", "string", "statement", "signature"],
)
def test_an_edit_changes_the_stage_that_runs_it_and_no_other(
    workflow: Path, earlier: Digests, before: str, after: str
) -> None:
    edit(workflow, before, after)
    assert changed(earlier, digests(workflow)) == {"made"}


@pytest.mark.parametrize(
    ("module", "stages"),
    [
        ("audio.py", {"shards"}),
        ("flac.py", {"shards", "log_probs"}),  # log_probs reads it through clip_reader
        ("tables.py", set(STAGES)),
        ("scoring.py", {"evaluate"}),
        ("sources/folder.py", {"ingest_dataset"}),
        ("sources/__init__.py", {"ingest_dataset"}),
        ("config/base.py", {"shards", "log_probs", "evaluate", "ingest_dataset"}),
        ("__init__.py", set(STAGES)),
        ("card.py", set()),
    ],
)
def test_an_edit_of_a_module_changes_the_stages_that_import_it(
    workflow: Path, earlier: Digests, module: str, stages: set[str]
) -> None:
    with (workflow / "speechmill" / module).open("a") as file:
        file.write("\nADDED = 1\n")
    assert changed(earlier, digests(workflow)) == stages


def test_a_file_that_a_stage_reads_counts_with_every_byte(workflow: Path, earlier: Digests) -> None:
    (workflow / "templates" / "page.txt").write_text("a page.")
    later = digests(workflow)
    assert later["page"] != earlier["page"]
    assert changed(earlier, later) == set()


def test_every_stage_has_a_digest_of_its_own_wherever_the_library_lies(workflow: Path, earlier: Digests) -> None:
    assert len(set(earlier.values())) == len(earlier)
    assert digests(workflow) == earlier


@pytest.mark.parametrize(("module", "counts"), [("tables.py", False), ("command.py", False), ("made.py", True)])
def test_a_module_that_is_left_out_does_not_count_nor_what_it_alone_imports(
    workflow: Path, earlier: Digests, module: str, counts: bool
) -> None:
    with (workflow / "speechmill" / module).open("a") as file:
        file.write("\nADDED = 1\n")
    assert (digests(workflow)["alone"] != earlier["alone"]) == counts
