"""The stage ingest_model: store a base model from the Hugging Face Hub, a local folder or another run."""

import argparse
import shutil
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

from speechmill.config.model import ModelConfig
from speechmill.core.command import SpeechmillError, run_command
from speechmill.core.files import file_digest, read_json, write_json

# The files that transformers needs; weights for other frameworks are not downloaded.
_FILES = ["*.json", "*.txt", "*.safetensors", "*.bin", "*.model"]


def fetch_model(settings: ModelConfig, folder: Path) -> dict[str, Any]:
    """Store the base model in `folder`, and return its source, commit, and the digest of each file.

    Raises:
        SpeechmillError: The local folder, the model or the revision does not exist, or the Hub cannot be reached.
    """
    base = str(settings.base)
    if settings.base_is_folder:
        source = Path(base).expanduser()
        if not (source / "config.json").is_file():
            raise SpeechmillError(
                f"model.base: {source} has no config.json; give the folder of a model as transformers saves it"
            )
        shutil.copytree(source, folder, dirs_exist_ok=True)
        commit = None
    else:
        try:
            snapshot = Path(snapshot_download(base, revision=settings.revision, allow_patterns=_FILES))
        except RevisionNotFoundError as error:
            raise SpeechmillError(f"model.revision: {base} has no revision {settings.revision}") from error
        except RepositoryNotFoundError as error:
            raise SpeechmillError(
                f"model.base: the Hub has no model {base}, or access to it requires a login: check the name or set"
                " HF_TOKEN"
            ) from error
        except (HfHubHTTPError, OSError) as error:
            raise SpeechmillError(f"model.base: {base} cannot be downloaded ({error}); try again") from error
        # The folder of a snapshot is named after its commit; its files are links into the cache.
        commit = snapshot.name
        shutil.copytree(snapshot, folder, dirs_exist_ok=True)
    digests = {path.name: file_digest(path) for path in sorted(folder.iterdir()) if path.is_file()}
    return {"base": base, "revision": settings.revision, "commit": commit, "sha256": digests}


def copy_run_model(run: str, files: list[Path], selection: Path, folder: Path) -> dict[str, Any]:
    """Copy the model of another run, its `files`, to `folder`, and return the run, the step and the files' digests."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        shutil.copyfile(file, folder / file.name)
    selected = read_json(selection)
    return {"run": run, "step": selected["step"], "sha256": selected["sha256"]}


def main() -> None:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=ModelConfig.model_validate_json, required=True)
    parser.add_argument("--folder", type=Path, required=True, help="the folder to store the model in")
    parser.add_argument("--source", type=Path, required=True, help="the JSON to write: the origin of the model")
    parser.add_argument("--model", type=Path, nargs="*", help="the files of another run's model")
    parser.add_argument("--selection", type=Path, nargs="*", help="the selection record of that run")
    args = parser.parse_args()
    if args.settings.run is not None:
        source = copy_run_model(args.settings.run, args.model, args.selection[0], args.folder)
    else:
        source = fetch_model(args.settings, args.folder)
    write_json(source, args.source)


if __name__ == "__main__":
    run_command(main)
