"""Stage versions: what a fingerprint covers, and that none was forgotten."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from material import ROOT
from speechmill.core.command import SpeechmillError
from speechmill.core.versions import ADOPTED_RELEASE, stage_version
from speechmill.dag.versions import LIBRARY, changed, fingerprint, modules_of, read, record, release, significant_code

STAGES = {
    path.stem
    for path in LIBRARY.glob("*/*.py")
    if "run_command(main)" in path.read_text(encoding="utf-8") and path.parent.name != "dag"
} - {"verify", "publish", "document", "recipe", "__main__"}


def test_no_stage_version_was_forgotten() -> None:
    stages = changed(read())
    assert not stages, (
        f"the code of {', '.join(stages)} has changed. If results may differ, run"
        f' `make raise-version STAGES="…"` with the stages whose results may differ, and say so in CHANGELOG.md;'
        " if they are the same, run `make record-code`"
    )


def test_every_stage_has_a_version() -> None:
    # The decoders of `evaluate` have a version of their own, which greedy scores do not depend on.
    assert set(read()) == STAGES | {"decoders"}
    assert {stage_version(stage) for stage in read()} >= {1}


def test_adopted_release_keeps_stages_raised_since_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = {"plan": {"version": 3, "since": "0.10.0"}, "clips": {"version": 2, "since": "0.2.0"}}
    monkeypatch.setattr("speechmill.core.versions._versions", lambda: entries)
    assert [stage_version(stage) for stage in entries] == [3, 2]
    monkeypatch.setenv(ADOPTED_RELEASE, "0.9.0")
    assert [stage_version(stage) for stage in entries] == [2, 2]


def test_rules_name_the_version_of_their_stage() -> None:
    rules = "".join(path.read_text() for path in (ROOT / "workflow" / "rules").glob("*.smk"))
    for stage in STAGES - {"evaluate"}:
        assert f'stage_version("{stage}")' in rules, stage


SOURCE = '''"""A module."""

import os  # for a reason


class Box:
    """A box."""

    side: int = 3
    """In metres."""

    def area(self, name: str = "#1") -> str:
        """Return the area."""
        # A remark.
        text = f"{name} # {self.side ** 2:>{self.side}} {'é'}"

        return text   # done
'''

# Written by hand: what tokenize and ast of any version of Python must leave.
SIGNIFICANT = """import os
class Box:
    side: int = 3
    def area(self, name: str = "#1") -> str:
        text = f"{name} # {self.side ** 2:>{self.side}} {'é'}"
        return text"""


def test_comments_docstrings_and_blank_lines_do_not_count() -> None:
    assert significant_code(SOURCE) == SIGNIFICANT


def test_docstring_on_the_line_of_its_class_does_not_count() -> None:
    assert significant_code('class é: "A class."; x = 1\n') == "class é: ; x = 1"


def test_fingerprint_is_the_same_under_another_python() -> None:
    others = [name for name in ("python3.12", "python3.13", "python3.14") if shutil.which(name)]
    program = f"""
import sys
sys.path.insert(0, {str(ROOT / "workflow")!r})
# Imported for fingerprints alone, which need the standard library.
import types
for name in ("speechmill.core.command", "speechmill.core.files", "speechmill.core.versions", "yaml"):
    sys.modules[name] = types.SimpleNamespace()
    vars(sys.modules[name]).update(SpeechmillError=Exception, run_command=None, write_text=None, VERSIONS=None)
from speechmill.dag.versions import fingerprint
print(fingerprint("finetune"))
"""
    for name in others:
        done = subprocess.run([name, "-c", program], capture_output=True, text=True, check=False)
        if "is not installed" not in done.stderr and "command not found" not in done.stderr:
            assert done.stdout.strip() == fingerprint("finetune"), done.stderr


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A copy of the library, with its version file beside it, all fingerprints recorded."""
    shutil.copytree(LIBRARY, tmp_path / "speechmill", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "workflow" / "templates", tmp_path / "templates")
    shutil.copy(ROOT / "workflow" / "stage_versions.yaml", tmp_path)
    record(path=tmp_path / "stage_versions.yaml", library=tmp_path / "speechmill")
    return tmp_path / "speechmill"


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def stages_after(library: Path) -> set[str]:
    return set(changed(read(library.parent / "stage_versions.yaml"), library))


@pytest.mark.parametrize(
    ("module", "some", "others"),
    [
        ("corpus/shards.py", {"shards"}, {"finetune", "clips"}),
        ("corpus/sources/folder.py", {"ingest_dataset"}, {"shards", "finetune"}),
        ("model/batching.py", {"plan", "finetune", "log_probs"}, {"shards", "card"}),
        ("model/ctc.py", {"finetune", "log_probs"}, {"shards", "clips"}),
        ("inference/decoders.py", {"decoders", "evaluate", "lm_weights"}, {"finetune", "log_probs"}),
        ("core/tables.py", {"shards", "finetune", "card"}, set()),
        ("config/base.py", {"finetune", "plan"}, {"index"}),
    ],
)
def test_edit_changes_the_stages_that_import_it(library: Path, module: str, some: set[str], others: set[str]) -> None:
    with (library / module).open("a", encoding="utf-8") as file:
        file.write("\nANOTHER = 1\n")
    stages = stages_after(library)
    assert some <= stages
    assert not others & stages


def test_comment_changes_no_stage(library: Path) -> None:
    edit(library / "model" / "ctc.py", "import torch\n", "import torch  # a remark\n\n# Another.\n")
    assert stages_after(library) == set()


def test_template_counts_byte_by_byte(library: Path) -> None:
    with (library.parent / "templates" / "card.md.j2").open("a") as file:
        file.write("\n")
    assert stages_after(library) == {"card"}


def test_raising_versions_names_the_stages_to_run_again(library: Path) -> None:
    path = library.parent / "stage_versions.yaml"
    before = read(path)
    edit(library / "corpus" / "shards.py", "import", "ANOTHER = 1\nimport")
    record(["shards"], path, library)
    after = read(path)
    assert {stage for stage in after if after[stage]["version"] != before[stage]["version"]} == {"shards"}
    assert after["shards"]["since"] == release()
    assert stages_after(library) == set()
    assert path.read_text().startswith("# ")


def test_unknown_stage_is_an_error(library: Path) -> None:
    with pytest.raises(SpeechmillError, match=r"train: no such stage in stage_versions\.yaml; the stages are audit"):
        record(["train"], library.parent / "stage_versions.yaml", library)


def test_version_file_lists_stages_in_order() -> None:
    text = (ROOT / "workflow" / "stage_versions.yaml").read_text(encoding="utf-8")
    assert list(yaml.safe_load(text)) == sorted(yaml.safe_load(text))


def test_modules_are_found_through_packages() -> None:
    names = set(modules_of("finetune"))
    assert {"speechmill", "speechmill.training.finetune", "speechmill.model.ctc", "speechmill.core.tables"} <= names
    assert "speechmill.report.card" not in names
