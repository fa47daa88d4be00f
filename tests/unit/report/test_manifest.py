from pathlib import Path

import pytest

from speechmill.core.command import SpeechmillError
from speechmill.report import manifest


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder with a manifest."""
    (tmp_path / "plots").mkdir()
    (tmp_path / "README.md").write_text("# Ы")
    (tmp_path / "plots" / "wer.png").write_bytes(b"picture")
    manifest.write(tmp_path)
    return tmp_path


def test_a_folder_as_it_was_made_has_no_faults(model: Path) -> None:
    assert manifest.faults(model) == []
    manifest.write(model)
    assert manifest.faults(model) == []


def test_what_the_hub_and_snakemake_put_beside_a_model_is_none_of_its_files(model: Path) -> None:
    for name in (".gitattributes", ".cache/huggingface/x", "plots/.snakemake_timestamp"):
        (model / name).parent.mkdir(parents=True, exist_ok=True)
        (model / name).touch()
    assert manifest.faults(model) == []


def test_a_file_that_has_changed_is_named_with_how(model: Path) -> None:
    (model / "README.md").write_text("# Э")
    (model / "plots" / "wer.png").write_bytes(b"pictures")
    readme, plot = manifest.faults(model)
    assert readme.startswith("README.md has changed: manifest.json says sha256 ")
    assert plot == "plots/wer.png has changed: manifest.json says 7 bytes, it has 8"


def test_a_file_that_is_gone_and_one_that_came_are_named(model: Path) -> None:
    (model / "README.md").unlink()
    (model / "more.txt").touch()
    assert manifest.faults(model) == [
        "README.md is in manifest.json and not in the folder",
        "more.txt is in the folder and not in manifest.json",
    ]


@pytest.mark.parametrize("content", [None, "{", "[]", '{"files": {"README.md": 3}}'])
def test_a_folder_without_a_manifest_that_can_be_read_is_refused(model: Path, content: str | None) -> None:
    (model / "manifest.json").unlink()
    if content is not None:
        (model / "manifest.json").write_text(content)
    with pytest.raises(SpeechmillError, match=r"manifest\.json"):
        manifest.faults(model)
