from pathlib import Path

import pytest

from speechmill.core.command import SpeechmillError
from speechmill.core.files import write_json
from speechmill.report import evidence


def test_missing_evidence_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpeechmillError, match=r"evidence/settings\.json is missing: the model folder is incomplete"):
        evidence.read(tmp_path)


def test_settings_of_another_version_are_an_error(tmp_path: Path) -> None:
    write_json({"run": 3}, tmp_path / "evidence" / "settings.json")
    with pytest.raises(SpeechmillError, match=r"settings\.json was written by another version of speechmill \(run: "):
        evidence.read(tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (None, "settings.json is missing: the model folder is incomplete"),
        ({}, "settings.json lacks the name of the run"),
        ({"run": "mine"}, "config.yaml is missing"),
    ],
)
def test_run_of_an_incomplete_folder_is_an_error(tmp_path: Path, settings: dict[str, str] | None, message: str) -> None:
    if settings is not None:
        write_json(settings, tmp_path / evidence.FOLDER / "settings.json")
    with pytest.raises(SpeechmillError, match=message):
        evidence.read_run(tmp_path)
