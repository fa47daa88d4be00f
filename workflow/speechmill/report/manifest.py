"""The manifest of a model's folder: what every file of it was when it was made."""

from pathlib import Path

from pydantic import BaseModel, ValidationError

from speechmill.core.command import SpeechmillError
from speechmill.core.tables import file_digest, read_json, write_json

NAME = "manifest.json"
"""The file's name in the folder."""

_OTHERS = {".snakemake_timestamp", ".git", ".gitattributes", ".cache"}
"""What snakemake, git and the Hub keep beside what is in their care."""


class _File(BaseModel):
    bytes: int
    sha256: str


class _Manifest(BaseModel):
    files: dict[str, _File]


def write(folder: Path) -> None:
    """List every file of `folder` but the manifest, by its relative path, with its size in bytes and its sha256."""
    files = {
        name: {"bytes": (folder / name).stat().st_size, "sha256": file_digest(folder / name)} for name in _names(folder)
    }
    write_json({"files": files}, folder / NAME)


def faults(folder: Path) -> list[str]:
    """A sentence for each file of `folder` that is gone, is not what the manifest says, or is not in it.

    Raises SpeechmillError where there is no manifest, or none that can be read.
    """
    if not (folder / NAME).is_file():
        raise SpeechmillError(f"{folder} has no {NAME}: it is no folder of a model that speechmill has made a card for")
    try:
        known = _Manifest.model_validate(read_json(folder / NAME)).files
    except ValidationError as error:
        raise SpeechmillError(f"{folder / NAME} is no manifest; fetch the folder again") from error
    present = _names(folder)
    said = [f"{name} is in {NAME} and not in the folder" for name in sorted(set(known) - set(present))]
    said += [f"{name} is in the folder and not in {NAME}" for name in present if name not in known]
    for name in present:
        if name in known:
            size, digest = (folder / name).stat().st_size, file_digest(folder / name)
            if size != known[name].bytes:
                said.append(f"{name} has changed: {NAME} says {known[name].bytes} bytes, it has {size}")
            elif digest != known[name].sha256:
                said.append(f"{name} has changed: {NAME} says sha256 {known[name].sha256}, it has {digest}")
    return said


def _names(folder: Path) -> list[str]:
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(name.as_posix() for name in files if name.as_posix() != NAME and not _OTHERS.intersection(name.parts))
