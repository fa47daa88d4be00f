"""The stage ingest_model: store a base model from the Hugging Face Hub, a local folder or another run.

Of a repository or folder only what is used is fetched: configuration, feature extractor, tokenizer, one set of weights,
the generation settings of a model that generates text, and at most the adapter of one language; no further formats,
checkpoints, optimisers, language models.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, RepoFile, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # re-exported at run time
from pydantic import BaseModel, TypeAdapter

from speechmill.config.architectures import export_errors
from speechmill.config.augment import AugmentConfig
from speechmill.config.finetune import FinetuneConfig
from speechmill.config.model import ModelConfig
from speechmill.core.command import SpeechmillError, run_command
from speechmill.core.files import check_files, file_digest, read_json, write_digests, write_plain_json
from speechmill.core.selection import selected_mean
from speechmill.model.architectures import architecture_errors
from speechmill.model.base_files import (
    CONFIG,
    TOKENIZER_CONFIG,
    VOCAB,
    adapter_file,
    base_languages,
    choose_language,
    generates_text,
    generation_files,
    is_nested,
    processor_files,
    refuse_code,
    weight_files,
)

# As many of the files that are left out are named in the log, the largest first.
_LISTED = 5
# The share by which the size of a base may differ from `expected_bytes`.
_TOLERANCE = 0.05

_UNREACHABLE = (HfHubHTTPError, OSError, httpx.HTTPError)


class Training(BaseModel):
    """What a run asks of its base model: settings of the model's configuration, and sections of the run."""

    config: dict[str, Any]
    finetune: FinetuneConfig
    augment: AugmentConfig


class Uses(BaseModel):
    """What the configuration needs of a base model."""

    ctc: list[str] = []
    """The keys that need a CTC model."""
    generation: list[str] = []
    """The keys that need a model that generates text."""
    exports: list[str] = []
    """The runs that export it, or a model that is trained from it."""


_TRAININGS = TypeAdapter(dict[str, Training])


@dataclass(frozen=True)
class _Base:
    """A base model on the Hub or in a folder."""

    sizes: dict[str, int]
    """The size of each file in bytes, by its path."""
    fetch: Callable[[str], Path]
    """Returns a local copy of a file."""
    commit: str | None

    def read_json(self, name: str) -> Any:
        """Return the content of a JSON file; an empty dictionary if there is no such file."""
        return read_json(self.fetch(name)) if name in self.sizes else {}


def fetch_model(
    settings: ModelConfig,
    folder: Path,
    runs: Mapping[str, Mapping[str, Any]] | None = None,
    trainings: Mapping[str, Training] | None = None,
    expected_bytes: int = 0,
    uses: Uses | None = None,
) -> dict[str, Any]:
    """Store the base model in `folder`, and return its source, commit, and the digest of each file.

    A base with several languages is stored as a model of one: with the vocabulary of that language alone, and its
    adapter beside the weights; without any tokenizer if none of them is used. What was used and left out, and a size
    other than expected, is reported on stderr.

    Args:
        settings: The base model.
        folder: The folder to store it in.
        runs: For each run that starts from it, its `language`, and whether it `trains`.
        trainings: For each run that is trained from it, perhaps through other runs, what has to fit its architecture.
        expected_bytes: The size that the configuration expects, or 0.
        uses: What has to fit a CTC model, or a model that generates text.

    Raises:
        SpeechmillError: The local folder, the model or the revision does not exist, the Hub cannot be reached, the
            base has code of its own or no weights, the language is missing or has to be chosen, or a setting of the
            configuration does not fit the architecture.
    """
    title = str(settings.base_title)
    base = _in_folder(Path(str(settings.base)).expanduser()) if settings.base_is_folder else _on_hub(settings)
    refuse_code(base.sizes, base.read_json, title)
    config, vocab, tokenizer = (base.read_json(name) for name in (CONFIG, VOCAB, TOKENIZER_CONFIG))
    for name, training in (trainings or {}).items():
        for error in architecture_errors(config | training.config, training.finetune, training.augment):
            raise SpeechmillError(f"runs.{name}.{error}")
    generates = generates_text(config)
    _check_uses(title, config.get("model_type"), generates, uses or Uses())
    languages = base_languages(base.sizes, config, tokenizer, vocab)
    language = choose_language(title, languages, settings.target_lang, runs or {})
    names = [
        CONFIG,
        *processor_files(base.sizes, tokenizer=language is not None or not languages),
        *(generation_files(base.sizes) if generates else ()),
        *weight_files(base.sizes, base.read_json, title),
    ]
    if settings.target_lang is not None and (adapter := adapter_file(base.sizes, settings.target_lang)):
        names.append(adapter)
    fetched = {name: base.fetch(name) for name in names}
    folder.mkdir(parents=True, exist_ok=True)
    for name, path in fetched.items():
        shutil.copyfile(path, folder / name)
    if language is not None and is_nested(vocab):
        write_plain_json(vocab[language], folder / VOCAB)
        tokenizer = {key: value for key, value in tokenizer.items() if key != "target_lang"}
        write_plain_json(tokenizer, folder / TOKENIZER_CONFIG)
    _report(title, base.sizes, names, expected_bytes)
    return {
        "base": title,
        "revision": settings.revision,
        "commit": base.commit,
        **({"target_lang": settings.target_lang} if settings.target_lang else {}),
        "sha256": {name: file_digest(folder / name) for name in sorted(names)},
    }


def _check_uses(title: str, architecture: str | None, generates: bool, uses: Uses) -> None:
    """Refuse the first key of the configuration that needs a model of the other kind, or another architecture."""
    for run in uses.exports:
        for error in export_errors(architecture):
            raise SpeechmillError(f"runs.{run}.{error}")
    unfit = uses.ctc if generates else uses.generation
    if unfit:
        raise SpeechmillError(
            f"{unfit[0]}: {title} ({architecture}) "
            + (
                "generates text and has no CTC outputs, which this needs; remove the key, or choose a CTC model"
                if generates
                else "is a CTC model, which has no language or task to set; remove the key"
            )
        )


def _in_folder(folder: Path, commit: str | None = None) -> _Base:
    if not (folder / CONFIG).is_file():
        raise SpeechmillError(
            f"model.base: {folder} has no {CONFIG}; give the folder of a model as transformers saves it"
        )
    files = [path for path in folder.rglob("*") if path.is_file()]
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
    return _Base(sizes, folder.joinpath, commit)


def _on_hub(settings: ModelConfig) -> _Base:
    base = str(settings.base)
    with _explained(settings):
        try:
            commit = str(HfApi().model_info(base, revision=settings.revision).sha)
            listed = list(HfApi().list_repo_tree(base, recursive=True, revision=commit))
        except (RepositoryNotFoundError, RevisionNotFoundError):
            raise
        except _UNREACHABLE as error:
            return _in_cache(settings, error)
    sizes = {each.path: each.size for each in listed if isinstance(each, RepoFile)}
    if CONFIG not in sizes:
        raise SpeechmillError(f"model.base: {base} has no {CONFIG}, so it is no model for transformers")

    def fetch(name: str) -> Path:
        with _explained(settings):
            return Path(hf_hub_download(base, name, revision=commit))

    return _Base(sizes, fetch, commit)


def _in_cache(settings: ModelConfig, error: Exception) -> _Base:
    """Return the base as an earlier download left it in the cache of the client, or raise `error`."""
    try:
        snapshot = Path(snapshot_download(str(settings.base), revision=settings.revision, local_files_only=True))
    except LocalEntryNotFoundError:
        raise error from None
    return _in_folder(snapshot, snapshot.name)


@contextmanager
def _explained(settings: ModelConfig) -> Iterator[None]:
    """Convert errors of the client of the Hub to a SpeechmillError."""
    base = settings.base
    try:
        yield
    except RevisionNotFoundError as error:
        raise SpeechmillError(f"model.revision: {base} has no revision {settings.revision}") from error
    except RepositoryNotFoundError as error:
        raise SpeechmillError(
            f"model.base: the Hub has no model {base}, or access to it requires a login: check the name or set HF_TOKEN"
        ) from error
    except _UNREACHABLE as error:
        raise SpeechmillError(f"model.base: {base} cannot be downloaded ({error}); try again") from error


def _report(title: str, sizes: Mapping[str, int], used: list[str], expected_bytes: int) -> None:
    """Print how much of a base is used and left out, and whether its size is as expected."""
    size = sum(sizes[name] for name in used)
    left = sorted(set(sizes) - set(used), key=lambda name: (-sizes[name], name))
    largest = ", ".join(left[:_LISTED]) + (", …" if len(left) > _LISTED else "")
    print(
        f"{title}: {len(used)} files of {size:,} bytes are used; {len(left)} files of"
        f" {sum(sizes[name] for name in left):,} bytes are left out{f' ({largest})' if left else ''}",
        file=sys.stderr,
    )
    if expected_bytes and abs(size - expected_bytes) > _TOLERANCE * expected_bytes:
        print(
            f"model.expected_bytes is {expected_bytes:,}, but {title} has {size:,} bytes: set it to {size}, so that"
            " `make plan` is right",
            file=sys.stderr,
        )


def copy_run_model(run: str, files: list[Path], selection: Path, folder: Path) -> dict[str, Any]:
    """Copy the model of another run, its `files`, to `folder`, and return the run, the step and the files' digests."""
    folder.mkdir(parents=True, exist_ok=True)
    selected = read_json(selection)
    check_files(files[0].parent, selected["sha256"])
    for file in files:
        shutil.copyfile(file, folder / file.name)
    averaged = list(selected_mean(selected))
    mean = {"averaged": averaged} if averaged else {}
    return {"run": run, "step": selected["step"], **mean, "sha256": selected["sha256"]}


def main() -> None:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=ModelConfig.model_validate_json, required=True)
    parser.add_argument("--folder", type=Path, required=True, help="the folder to store the model in")
    parser.add_argument("--source", type=Path, required=True, help="the JSON to write: the origin of the model")
    parser.add_argument("--model", type=Path, nargs="*", help="the files of another run's model")
    parser.add_argument("--runs", type=json.loads, help="JSON: the language of each run, and whether it trains")
    parser.add_argument("--trainings", type=_TRAININGS.validate_json, help="JSON: what the trained runs ask of it")
    parser.add_argument("--uses", type=Uses.model_validate_json, help="JSON: the keys that need a model of one kind")
    parser.add_argument("--expected-bytes", type=int, default=0, help="the size that is expected, or 0")
    parser.add_argument("--selection", type=Path, nargs="*", help="the selection record of that run")
    args = parser.parse_args()
    if args.settings.run is not None:
        source = copy_run_model(args.settings.run, args.model, args.selection[0], args.folder)
    else:
        source = fetch_model(args.settings, args.folder, args.runs, args.trainings, args.expected_bytes, args.uses)
    write_digests(args.folder)
    # Without a digest: training runs again where this file is not the same as before, byte for byte.
    write_plain_json(source, args.source)


if __name__ == "__main__":
    run_command(main)
