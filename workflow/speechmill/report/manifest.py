"""The manifest of a model folder: the size and the digest of each of its files."""

from pathlib import Path

from pydantic import BaseModel, ValidationError

from speechmill.core.command import SpeechmillError
from speechmill.core.files import file_digest, read_json, write_json

NAME = "manifest.json"
"""The name of the manifest inside the folder."""

_TIMESTAMP = ".snakemake_timestamp"
"""The file that snakemake writes to each folder that is an output."""

_UNLISTED = {".git", ".gitattributes", ".cache"}
"""Files and folders that git and the Hub keep next to the files of a model."""


class _File(BaseModel):
    bytes: int
    sha256: str


class _Manifest(BaseModel):
    files: dict[str, _File]


def write(folder: Path) -> None:
    """Write the manifest of `folder`: each file except the manifest, with its size in bytes and its sha256."""
    files = {
        name: {"bytes": (folder / name).stat().st_size, "sha256": file_digest(folder / name)}
        for name in _names(folder)
        if (folder / name).is_file()
    }
    write_json({"files": files}, folder / NAME)


def differences(folder: Path) -> list[str]:
    """Return a sentence for each file of `folder` that is missing, was changed, or is not listed in the manifest.

    Raises:
        SpeechmillError: There is no manifest, or it is not valid.
    """
    if not (folder / NAME).is_file():
        raise SpeechmillError(f"{folder} has no {NAME}: it is not a model folder that speechmill wrote a card for")
    try:
        listed = _Manifest.model_validate(read_json(folder / NAME)).files
    except ValidationError as error:
        raise SpeechmillError(f"{folder / NAME} is not a valid manifest; download or build the folder again") from error
    present = _names(folder)
    lines = [f"{name} is listed in {NAME} but is not in the folder" for name in sorted(set(listed) - set(present))]
    lines += [f"{name} is in the folder but is not listed in {NAME}" for name in present if name not in listed]
    for name in present:
        if not (folder / name).is_file():
            lines.append(f"{name} is a link to a folder, or no regular file")
        elif name in listed:
            size, digest = (folder / name).stat().st_size, file_digest(folder / name)
            if size != listed[name].bytes:
                lines.append(f"{name} was changed: {NAME} lists {listed[name].bytes} bytes, the file has {size}")
            elif digest != listed[name].sha256:
                lines.append(f"{name} was changed: {NAME} lists sha256 {listed[name].sha256}, the file has {digest}")
    return lines


def _names(folder: Path) -> list[str]:
    """Return the relative paths of all files that belong into the manifest.

    Links to folders and special files do not belong there, and are returned, so that they are reported.
    """
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return sorted(
        name.as_posix()
        for name in files
        if name.as_posix() != NAME and name.name != _TIMESTAMP and name.parts[0] not in _UNLISTED
    )
