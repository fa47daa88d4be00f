"""publish: upload a model folder to a repository of the Hugging Face Hub; no other target runs this stage.

`snakemake publish` uploads the model of each run that has a section `publish`. `snakemake publish_dry_run` lists what
would be uploaded, without network access. To upload any model folder with a card by speechmill, run

    python -P -m speechmill.report.publish results/runs/demo_ru/model --repo NAME/MODEL --dry-run

and then the same command without `--dry-run`. The token is that of the environment variable HF_TOKEN or of
`hf auth login`.
"""

import argparse
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard, ModelInfo, get_token
from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # re-exported at run time
    httpx,
    validate_repo_id,
)
from pydantic import ValidationError

from speechmill.config.hub_metadata import front_matter_errors
from speechmill.config.publish import PublishConfig
from speechmill.core.command import SpeechmillError, run_command
from speechmill.core.files import file_digest, read_json
from speechmill.report import manifest
from speechmill.report.upload_checks import find_audio, find_private, find_secret

_CARD = "README.md"
_SETTINGS = "evidence/settings.json"

_APP, _REQUIREMENTS = "app.py", "requirements.txt"
"""The files of the model folder that its Space consists of, beside a card."""

_ADVICE = {
    401: "the token is not valid; create one with write access at {site}/settings/tokens, and set HF_TOKEN to it or run"
    " `hf auth login`",
    403: "the token has no write access to the repository; grant it at {site}/settings/tokens, or change `repo`",
    404: "the repository does not exist, or the token has no access to it; check `repo` and the token's permissions",
    409: "the repository was changed at the same time; run the command again",
    412: "the repository was changed at the same time; run the command again",
    429: "there were too many requests to the Hub; run the command again later",
}
_RESUMED = "large files that were uploaded completely are not sent again"


def check(folder: Path, settings: PublishConfig) -> None:
    """Check that `folder` may be uploaded, without network access.

    Raises:
        SpeechmillError: The name of the repository is not valid, the folder differs from its manifest, a file contains
            a secret, a file contains audio or words although a corpus of the run does not explicitly allow its
            redistribution, or the Hub would refuse the front matter of the card.
    """
    try:
        validate_repo_id(settings.repo)
    except HFValidationError as error:
        raise SpeechmillError(f"publish.repo: {error}") from None
    differences = manifest.differences(folder)
    if differences:
        raise SpeechmillError(
            f"{folder} differs from its manifest; build it again with snakemake, or download it again:"
            + _bullets(differences)
        )
    files = _files(folder)
    if settings.space and _APP not in files:
        raise SpeechmillError(f"{folder} has no {_APP} for `publish.space`; build the card again with snakemake")
    secrets = [f"{name}: {found}" for name in files if (found := find_secret(folder / name))]
    if secrets:
        raise SpeechmillError(f"{folder} contains secrets; remove them and build the card again:" + _bullets(secrets))
    reason = _audio_restriction(folder)
    if reason:
        audio = [f"{name}: {found}" for name in files if (found := find_audio(folder / name))]
        if audio:
            raise SpeechmillError(
                f"{folder} contains audio, which must not be redistributed ({reason}); remove it and build the card"
                " again:" + _bullets(audio)
            )
    private = _private_contents(folder)
    if private:
        raise SpeechmillError(
            f"{folder} contains sentences or names of a corpus that must not be redistributed:" + _bullets(private)
        )
    errors = front_matter_errors(vars(_load_card(folder).data))
    if errors:
        raise SpeechmillError(
            f"{folder / _CARD}: the Hub would refuse the front matter; change the configuration, and build the card"
            " again:" + _bullets(errors)
        )


def format_dry_run(folder: Path, settings: PublishConfig) -> str:
    """Return what would be uploaded where: files with their sizes, the total, the repository and its visibility."""
    sizes = {name: (folder / name).stat().st_size for name in _files(folder)}
    visibility = "private" if settings.private else "public"
    return "\n".join(
        [
            f"{folder} would be uploaded to branch {settings.branch} of {settings.repo} ({visibility} if it is created"
            " now):",
            *(f"{size:>16,}  {name}" for name, size in sizes.items()),
            f"{sum(sizes.values()):>16,}  bytes in {len(sizes)} files",
            *(
                [f"{_APP} and {_REQUIREMENTS} would be uploaded to the Space {settings.space}"]
                if settings.space
                else []
            ),
        ]
    )


def publish(folder: Path, settings: PublishConfig) -> str:
    """Upload a checked folder in one commit, and return a sentence with its address.

    The repository and the branch are created if they do not exist. Other files of the repository are kept, except files
    that its manifest lists from an earlier upload and that are no longer in the folder. There is no commit if nothing
    has changed.

    Raises:
        SpeechmillError: There is no token, the Hub refuses the card, the token or the repository, the repository is
            public although it has to be private, or the connection fails.
    """
    if get_token() is None:
        raise SpeechmillError(
            f"{settings.repo} cannot be published without a token with write access; set the environment variable"
            " HF_TOKEN to one, or run `hf auth login`"
        )
    api = HfApi()
    # Warnings of the client would contain signed storage URLs.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    with _explained(api, settings.repo):
        _validate_card(folder)
        api.create_repo(settings.repo, private=settings.private, exist_ok=True)
        if settings.private and not api.model_info(settings.repo).private:
            raise SpeechmillError(
                f"{settings.repo} is public, and `publish.private` is true; make it private in its settings"
                f" ({api.endpoint}/{settings.repo}/settings), or change `publish.repo`"
            )
        if settings.branch != "main":
            api.create_branch(settings.repo, branch=settings.branch, exist_ok=True)
        before = api.model_info(settings.repo, revision=settings.branch)
        obsolete = _obsolete_files(api, settings.repo, before, folder)
        additions = [CommitOperationAdd(name, folder / name) for name in _files(folder)]
        with warnings.catch_warnings():
            # The client advises to upload tables as a dataset, but the evidence for a card belongs to the model.
            warnings.filterwarnings("ignore", message="It seems that you are about to commit a data file")
            # Not `upload_folder`, which makes several commits for a large folder: between them, the repository would
            # differ from its manifest.
            commit = api.create_commit(
                settings.repo,
                [*additions, *map(CommitOperationDelete, obsolete)],
                commit_message=f"Model with manifest sha256:{file_digest(folder / manifest.NAME)}",
                revision=settings.branch,
            )
    address = f"{api.endpoint}/{settings.repo}" + ("" if settings.branch == "main" else f"/tree/{settings.branch}")
    visibility = "private" if before.private else "public"
    if commit.oid == before.sha:
        return f"{address} ({visibility}) is up to date with {folder}; nothing was changed"
    deleted = f"; deleted there, because they are no longer in the folder: {', '.join(obsolete)}" if obsolete else ""
    return f"{folder} is published: {address} ({visibility}, commit {commit.oid}){deleted}"


def publish_space(folder: Path, settings: PublishConfig) -> str:
    """Upload the page of a published model to its Space, and return a sentence with its address.

    The Space is created if it does not exist. It reads the model from the repository of the model, whose name is in the
    variable MODEL of the Space.

    Raises:
        SpeechmillError: The Hub refuses the token or the Space, the Space is public although it has to be private, or
            the connection fails.
    """
    space = str(settings.space)
    api = HfApi()
    with _explained(api, space):
        api.create_repo(space, repo_type="space", space_sdk="gradio", private=settings.private, exist_ok=True)
        if settings.private and not api.space_info(space).private:
            raise SpeechmillError(
                f"the Space {space} is public, and `publish.private` is true; make it private in its settings"
                f" ({api.endpoint}/spaces/{space}/settings), or change `publish.space`"
            )
        revision = "" if settings.branch == "main" else f"@{settings.branch}"
        api.add_space_variable(space, "MODEL", settings.repo + revision)
        requirements = (folder / _REQUIREMENTS).read_text(encoding="utf-8")
        card = _space_card(settings, requirements).encode()
        api.create_commit(
            space,
            [
                CommitOperationAdd(_CARD, card),
                *(CommitOperationAdd(name, folder / name) for name in (_APP, _REQUIREMENTS)),
            ],
            commit_message=f"Page of {settings.repo}{revision}",
            repo_type="space",
        )
    return f"the page of {settings.repo} is published: {api.endpoint}/spaces/{space}"


def _space_card(settings: PublishConfig, requirements: str) -> str:
    """Return the README.md of a Space, with the settings by which the Hub runs it."""
    gradio = next(line for line in requirements.splitlines() if line.startswith("gradio=="))
    about = {
        "title": str(settings.space).split("/")[1],
        "sdk": "gradio",
        "sdk_version": gradio.removeprefix("gradio=="),
        "python_version": "3.11",
        "app_file": _APP,
        "models": [settings.repo],
    }
    return f"---\n{yaml.safe_dump(about, sort_keys=False)}---\n"


def _files(folder: Path) -> list[str]:
    return sorted([*read_json(folder / manifest.NAME)["files"], manifest.NAME])


def _audio_restriction(folder: Path) -> str:
    """Return why audio must not be redistributed, or an empty string if it may be."""
    if not (folder / _SETTINGS).is_file():
        return f"there is no {_SETTINGS}, which would list the terms of its corpora"
    datasets = read_json(folder / _SETTINGS).get("datasets")
    if not datasets:
        return f"{_SETTINGS} lists no corpora"
    names = [name for name, about in datasets.items() if about.get("audio_redistributable") is not True]
    return f"the terms of {', '.join(names)} do not allow it" if names else ""


def _private_contents(folder: Path) -> list[str]:
    """Return what the folder contains of the words and clip ids of corpora that do not allow their redistribution."""
    settings = read_json(folder / _SETTINGS) if (folder / _SETTINGS).is_file() else {}
    datasets = settings.get("datasets") or {}
    restricted = {name for name, about in datasets.items() if about.get("text_redistributable") is not True}
    return find_private(folder, settings, restricted)


def _load_card(folder: Path) -> ModelCard:
    try:
        card: ModelCard = ModelCard.load(folder / _CARD)
    except (ValueError, TypeError, yaml.YAMLError) as error:
        raise SpeechmillError(f"{folder / _CARD}: the front matter is not valid: {error}") from None
    return card


def _validate_card(folder: Path) -> None:
    # The client would validate the card only before the upload, after the repository was created.
    try:
        _load_card(folder).validate()
    except ValueError as error:
        raise SpeechmillError(f"{folder / _CARD}: the Hub refuses the front matter: {error}") from None


def _obsolete_files(api: HfApi, repo: str, before: ModelInfo, folder: Path) -> list[str]:
    """Return the files of the repository that its manifest lists and that of the folder does not."""
    present = {each.rfilename for each in before.siblings or []}
    if manifest.NAME not in present:
        return []
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(api.hf_hub_download(repo, manifest.NAME, revision=before.sha, local_dir=temporary))
        try:
            listed = json.loads(file.read_bytes())["files"]
        except (ValueError, KeyError, TypeError):
            return []
    # A file of this name may have been written by another program.
    if not isinstance(listed, dict) or not all(isinstance(each, dict) and "sha256" in each for each in listed.values()):
        return []
    return sorted(present & set(listed) - set(_files(folder)))


@contextmanager
def _explained(api: HfApi, repo: str) -> Iterator[None]:
    """Turn errors of the client into messages for the user."""
    try:
        yield
    except OfflineModeIsEnabled:
        raise SpeechmillError("the environment variable HF_HUB_OFFLINE disables network access; unset it") from None
    except (httpx.HTTPError, OSError, RuntimeError) as error:
        # Errors of this machine, such as a full disk, have an error number; so do connection errors.
        if getattr(error, "errno", None) is not None and not isinstance(error, ConnectionError | TimeoutError):
            raise
        raise SpeechmillError(f"{repo} cannot be published: {_explain(error, api.endpoint)}") from None


def _explain(error: BaseException, site: str) -> str:
    # Errors during the upload of a large file are wrapped.
    while isinstance(error, RuntimeError) and error.__cause__ is not None:
        error = error.__cause__
    response = getattr(error, "response", None)
    if response is None:
        return (
            f"the connection failed ({type(error).__name__}); check the network and run the command again; {_RESUMED}"
        )
    status = response.status_code
    if status >= 500:
        advice = f"the Hub has an internal error; run the command again later; {_RESUMED}"
    else:
        advice = _ADVICE.get(status, "see the message of the Hub, and run the command again").format(site=site)
    # A message of the storage server could contain a signature.
    message = getattr(error, "server_message", None) if str(response.url).startswith(f"{site}/") else None
    return f"{advice} (status {status}{f': {message}' if message else ''})"


def _bullets(lines: list[str]) -> str:
    return "".join(f"\n  {line}" for line in lines)


def main() -> None:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="*", metavar="FOLDER", help="a model folder")
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--repo", help="the repository to upload a single folder to, NAME/MODEL")
    target.add_argument(
        "--settings",
        type=PublishConfig.model_validate_json,
        nargs="*",
        help="for each folder, the section `publish` of its run",
    )
    parser.add_argument("--private", action="store_true", help="with --repo: create a private repository")
    parser.add_argument("--branch", default="main", help="with --repo: the branch to upload to")
    parser.add_argument("--space", help="with --repo: also upload the page of the model to this Space, NAME/SPACE")
    parser.add_argument("--dry-run", action="store_true", help="list what would be uploaded, without network access")
    args = parser.parse_args()
    if args.settings == []:
        raise SpeechmillError(
            "no run has a key `publish`, so there is nothing to publish; add `runs.RUN.publish: {repo: NAME/MODEL}` to"
            " the configuration"
        )
    if args.repo is not None:
        try:
            args.settings = [PublishConfig(repo=args.repo, private=args.private, branch=args.branch, space=args.space)]
        except ValidationError as error:
            parser.error("; ".join(f"--{each['loc'][0]}: {each['msg']}" for each in error.errors()))
    if len(args.folders) != len(args.settings):
        parser.error(f"{len(args.folders)} folders for {len(args.settings)} repositories")
    uploads = list(zip(args.folders, args.settings, strict=True))
    # All folders are checked before the first one is uploaded.
    for folder, settings in uploads:
        check(folder, settings)
    for folder, settings in uploads:
        print((format_dry_run if args.dry_run else publish)(folder, settings))
        if settings.space and not args.dry_run:
            print(publish_space(folder, settings))


if __name__ == "__main__":
    run_command(main)
