"""ingest: a base model, fetched once from the Hugging Face Hub, copied from a folder, or taken from another run."""

import argparse
import shutil
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

from speechmill.config.model import ModelConfig
from speechmill.core.command import SpeechmillError, run_command
from speechmill.core.tables import file_digest, read_json, write_json

# What transformers needs of a model; other frameworks' weights stay where they are.
_FILES = ["*.json", "*.txt", "*.safetensors", "*.bin", "*.model"]


def fetch(settings: ModelConfig, folder: Path) -> dict[str, Any]:
    """Put the base into `folder`; where it came from, its commit, and the digest of each file.

    Raises SpeechmillError where there is no such folder, model or revision, or the Hub cannot be reached.
    """
    base = str(settings.base)
    if settings.base_is_folder:
        source = Path(base).expanduser()
        if not (source / "config.json").is_file():
            raise SpeechmillError(f"model.base: {source} is not a model's folder, since it has no config.json")
        shutil.copytree(source, folder, dirs_exist_ok=True)
        commit = None
    else:
        try:
            snapshot = Path(snapshot_download(base, revision=settings.revision, allow_patterns=_FILES))
        except RevisionNotFoundError as error:
            raise SpeechmillError(f"model.revision: {base} has no revision {settings.revision}") from error
        except RepositoryNotFoundError as error:
            raise SpeechmillError(
                f"model.base: the Hub has no model {base}, or shows it only to those who are logged in: set HF_TOKEN"
            ) from error
        except (HfHubHTTPError, OSError) as error:
            raise SpeechmillError(f"model.base: {base} cannot be fetched ({error}); try again") from error
        # A snapshot's folder is named after its commit; its files are links into the cache.
        commit = snapshot.name
        shutil.copytree(snapshot, folder, dirs_exist_ok=True)
    digests = {path.name: file_digest(path) for path in sorted(folder.iterdir()) if path.is_file()}
    return {"base": base, "revision": settings.revision, "commit": commit, "sha256": digests}


def take(run: str, files: list[Path], selection: Path, folder: Path) -> dict[str, Any]:
    """Put the model of another run, its `files`, into `folder`; the run, the step, and the digest of each file."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        shutil.copyfile(file, folder / file.name)
    chosen = read_json(selection)
    return {"run": run, "step": chosen["step"], "sha256": chosen["sha256"]}


def main() -> None:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=ModelConfig.model_validate_json, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--source", type=Path, required=True, help="what is known of the model, apart from it")
    parser.add_argument("--model", type=Path, nargs="*", help="the files of another run's model")
    parser.add_argument("--selection", type=Path, nargs="*", help="which checkpoint of that run its model is")
    args = parser.parse_args()
    if args.settings.run is not None:
        source = take(args.settings.run, args.model, args.selection[0], args.folder)
    else:
        source = fetch(args.settings, args.folder)
    write_json(source, args.source)


if __name__ == "__main__":
    run_command(main)
