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


def test_unchanged_folder_has_no_differences(model: Path) -> None:
    assert manifest.differences(model) == []
    manifest.write(model)
    assert manifest.differences(model) == []


def test_files_of_hub_and_snakemake_are_ignored(model: Path) -> None:
    for name in (".gitattributes", ".cache/huggingface/x", "plots/.snakemake_timestamp"):
        (model / name).parent.mkdir(parents=True, exist_ok=True)
        (model / name).touch()
    assert manifest.differences(model) == []


def test_links_and_hidden_folders_are_named(model: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (model / "more").symlink_to(outside)
    (model / "nothing").symlink_to(outside / "absent")
    (model / "plots" / ".git").mkdir()
    (model / "plots" / ".git" / "config").touch()
    (model / "README.md").unlink()
    (model / "README.md").mkdir()
    assert manifest.differences(model) == [
        "README.md is listed in manifest.json but is not in the folder",
        "more is in the folder but is not listed in manifest.json",
        "nothing is in the folder but is not listed in manifest.json",
        "plots/.git/config is in the folder but is not listed in manifest.json",
        "more is a link to a folder, or no regular file",
        "nothing is a link to a folder, or no regular file",
    ]


def test_changed_file_is_named_with_the_change(model: Path) -> None:
    (model / "README.md").write_text("# Э")
    (model / "plots" / "wer.png").write_bytes(b"pictures")
    readme, plot = manifest.differences(model)
    assert readme.startswith("README.md was changed: manifest.json lists sha256 ")
    assert plot == "plots/wer.png was changed: manifest.json lists 7 bytes, the file has 8"


def test_missing_and_additional_files_are_named(model: Path) -> None:
    (model / "README.md").unlink()
    (model / "more.txt").touch()
    assert manifest.differences(model) == [
        "README.md is listed in manifest.json but is not in the folder",
        "more.txt is in the folder but is not listed in manifest.json",
    ]


@pytest.mark.parametrize("content", [None, "{", "[]", '{"files": {"README.md": 3}}'])
def test_missing_or_invalid_manifest_is_an_error(model: Path, content: str | None) -> None:
    (model / "manifest.json").unlink()
    if content is not None:
        (model / "manifest.json").write_text(content)
    with pytest.raises(SpeechmillError, match=r"manifest\.json"):
        manifest.differences(model)
