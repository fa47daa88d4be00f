"""The stage base_card: record what the card of a base model says about its training data.

The front matter of a card, `README.md`, lists `datasets`, and in `base_model` the models that the base was made from,
whose cards are read too. Of a base on the Hub only these small files are fetched, and the date when its weights last
changed. A card that cannot be read is recorded with the reason, and stops no run.
"""

import argparse
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import HfApi, RepoFile, hf_hub_download, metadata_load, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # re-exported at run time
from pydantic import BaseModel, Field, field_validator

from speechmill.config.hub_ids import check_hub_id
from speechmill.config.model import ModelConfig
from speechmill.core.command import run_command
from speechmill.core.files import file_digest, read_json, write_json

CARD = "README.md"
"""The file with the card of a model."""

# A larger file is not read: the front matter is at the beginning of a card, which has some kilobytes.
_MAX_BYTES = 1_000_000
_MAX_CARDS = 8
_WEIGHTS = (".safetensors", ".bin")

_UNREACHABLE = (HfHubHTTPError, OSError, httpx.HTTPError)


class _FrontMatter(BaseModel):
    datasets: list[str] = Field([])
    base_model: list[str] = Field([])

    @field_validator("*", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [] if value is None else [value] if isinstance(value, str) else value


class _Card(BaseModel):
    """What the card of a model says."""

    model: str
    """The Hub id of the model, or the name of its folder."""
    commit: str | None = None
    sha256: str | None = None
    """The digest of the card, if it was read."""
    datasets: list[str] = []
    base_model: list[str] = []
    problem: str | None = None
    """Why the card says nothing, to complete "the card of ..."."""


def describe_base(settings: ModelConfig, source: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the cards of a base and of its own bases say, and the day when its weights last changed, if known.

    Args:
        settings: The base model.
        source: The record of its ingestion, with its commit and the digest of each file.
    """
    title = str(settings.base_title)
    weights_changed = None
    if settings.base_is_folder:
        cards = [_read_card(title, Path(str(settings.base)).expanduser() / CARD)]
    else:
        weights = [name for name in source["sha256"] if name.endswith(_WEIGHTS)]
        card, weights_changed = _card_on_hub(title, source["commit"], weights)
        cards = [card]
    seen, pending = {title}, list(cards[0].base_model)
    while pending:
        name = pending.pop(0)
        if name in seen:
            continue
        seen.add(name)
        card = (
            _base_card(name) if len(cards) < _MAX_CARDS else _Card(model=name, problem="was not read: too many bases")
        )
        cards.append(card)
        pending += card.base_model
    for each in cards:
        if each.problem:
            print(
                f"the card of {each.model} {each.problem}; give what you know as model.trained_on, or read it again"
                " with snakemake --forcerun base_card",
                file=sys.stderr,
            )
    return {
        "cards": [each.model_dump(exclude={"base_model"}) for each in cards],
        "weights_changed": weights_changed,
    }


def _base_card(name: str) -> _Card:
    """Return the card of a model that another card names, at its newest commit."""
    try:
        check_hub_id(name)
    except ValueError:
        # A path on another machine, which need not be passed on.
        return _Card(model=Path(name).name, problem="is not on the Hub")
    return _card_on_hub(name, None, [])[0]


def _card_on_hub(model: str, commit: str | None, weights: Iterable[str]) -> tuple[_Card, str | None]:
    """Return the card of a model on the Hub, and the day when the last of its `weights` changed, if known."""
    try:
        commit = commit or str(HfApi().model_info(model).sha)
        paths = HfApi().get_paths_info(model, [CARD, *weights], expand=True, revision=commit)
        files = {each.path: each for each in paths if isinstance(each, RepoFile)}
        changes = [files[name].last_commit for name in weights if name in files]
        days = [each.date.date().isoformat() if each else None for each in changes]
        day = max(each for each in days if each) if days and all(days) else None
        return _fetch_card(model, commit, files.get(CARD)), day
    except (RepositoryNotFoundError, RevisionNotFoundError):
        return _Card(model=model, commit=commit, problem="is not on the Hub, or needs a login"), None
    except _UNREACHABLE as error:
        cached = try_to_load_from_cache(model, CARD, revision=commit)
        if isinstance(cached, str):
            return _read_card(model, Path(cached), commit), None
        return _Card(model=model, commit=commit, problem=f"could not be fetched ({type(error).__name__})"), None


def _fetch_card(model: str, commit: str, file: RepoFile | None) -> _Card:
    if file is None:
        return _Card(model=model, commit=commit, problem="does not exist")
    if file.size > _MAX_BYTES:
        return _Card(model=model, commit=commit, problem=_too_large(file.size))
    return _read_card(model, Path(hf_hub_download(model, CARD, revision=commit)), commit)


def _read_card(model: str, path: Path, commit: str | None = None) -> _Card:
    """Return what a card in a file says."""
    if not path.is_file():
        return _Card(model=model, commit=commit, problem="does not exist")
    if path.stat().st_size > _MAX_BYTES:
        return _Card(model=model, commit=commit, problem=_too_large(path.stat().st_size))
    card = _Card(model=model, commit=commit, sha256=file_digest(path))
    try:
        front = metadata_load(path)
        if front is None:
            return card.model_copy(update={"problem": "has no front matter"})
        found = _FrontMatter.model_validate(front)
    # Of the YAML, of its values, or of a nesting that is too deep.
    except (ValueError, yaml.YAMLError, RecursionError):
        return card.model_copy(update={"problem": "has invalid front matter"})
    return card.model_copy(update={"datasets": list(dict.fromkeys(found.datasets)), "base_model": found.base_model})


def _too_large(size: int) -> str:
    return f"has {size:,} bytes and is not read, because it is larger than {_MAX_BYTES:,}"


def main() -> None:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=ModelConfig.model_validate_json, required=True)
    parser.add_argument("--source", type=Path, required=True, help="the record of the ingestion of the base")
    parser.add_argument("--card", type=Path, required=True, help="the JSON to write")
    args = parser.parse_args()
    write_json(describe_base(args.settings, read_json(args.source)), args.card)


if __name__ == "__main__":
    run_command(main)
