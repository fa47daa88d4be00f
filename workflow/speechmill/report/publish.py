"""publish: a model's folder goes to a repository of the Hugging Face Hub, at its user's word and never otherwise.

`snakemake publish` uploads the model of each run that has a section `publish`, and `snakemake publish_dry_run` shows
what would go, without any network. By hand, for any folder that speechmill has made a card for:

    python -m speechmill.report.publish results/runs/demo_ru/model --repo NAME/MODEL --dry-run

and again without `--dry-run`. The token is that of the environment variable HF_TOKEN or of `hf auth login`.
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
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # exported for others, while it runs
    httpx,
    validate_repo_id,
)
from pydantic import ValidationError

from speechmill.config.publish import PublishConfig
from speechmill.core.command import SpeechmillError, run_command
from speechmill.core.tables import file_digest, read_json
from speechmill.report import manifest
from speechmill.report.upload_checks import audio_in, secret_in

_CARD = "README.md"
_SETTINGS = "evidence/settings.json"

_ADVICE = {
    401: "the token is not accepted; make one with the right to write at {site}/settings/tokens, and set HF_TOKEN to it"
    " or run `hf auth login`",
    403: "the token may not write there; give it the right at {site}/settings/tokens, or take a `repo` that is yours",
    404: "the Hub has no such repository, or does not show it to this token; check `repo` and the token's rights",
    409: "it was changed at the same moment; run again",
    412: "it was changed at the same moment; run again",
    429: "the Hub was asked too often; run again later",
}


def check(folder: Path, settings: PublishConfig) -> None:
    """Look whether `folder` may go to the Hub, without any network.

    Raises SpeechmillError where it is not what its manifest says, a file holds a secret, or audio though a corpus of
    the run forbids that it is passed on (one that says nothing forbids it), or its card's front matter is not right.
    """
    try:
        validate_repo_id(settings.repo)
    except HFValidationError as error:
        raise SpeechmillError(f"publish.repo: {error}") from None
    faults = manifest.faults(folder)
    if faults:
        raise SpeechmillError(
            f"{folder} is not what was made; make it again with snakemake, or fetch it again:" + _lines(faults)
        )
    files = _files(folder)
    secrets = [f"{name}: {found}" for name in files if (found := secret_in(folder / name))]
    if secrets:
        raise SpeechmillError(f"{folder} holds secrets; take them out, and make the card again:" + _lines(secrets))
    forbidding = _forbidding(folder)
    if forbidding:
        sounds = [f"{name}: {found}" for name in files if (found := audio_in(folder / name))]
        if sounds:
            raise SpeechmillError(
                f"{folder} holds audio, which may not be passed on ({forbidding}); take it out, and make the card"
                " again:" + _lines(sounds)
            )
    _card(folder)


def listing(folder: Path, settings: PublishConfig) -> str:
    """What would go where: the files with their bytes, the total, the repository and who could see it."""
    sizes = {name: (folder / name).stat().st_size for name in _files(folder)}
    seen_by = "private, if it is made now" if settings.private else "public, if it is made now"
    return "\n".join(
        [
            f"{folder} would go to the branch {settings.branch} of {settings.repo} ({seen_by}):",
            *(f"{size:>16,}  {name}" for name, size in sizes.items()),
            f"{sum(sizes.values()):>16,}  bytes in {len(sizes)} files",
        ]
    )


def publish(folder: Path, settings: PublishConfig) -> str:
    """Upload a folder that was checked, in one commit; a sentence that says where it is now.

    The repository and the branch are made where they are not there. What else is in the repository stays, but for
    files that its manifest lists, from an earlier time, and the folder has no more. Where nothing has changed, there is
    no commit.

    Raises SpeechmillError where there is no token, the Hub refuses the card, the token or the repository, a repository
    that is to be private is public, or the connection breaks.
    """
    if get_token() is None:
        raise SpeechmillError(
            f"{settings.repo} cannot be published without a token of yours with the right to write: set the environment"
            " variable HF_TOKEN to one, or run `hf auth login`"
        )
    api = HfApi()
    # The client would warn with addresses of storage, which are signed.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    with _explained(api, settings):
        _validate(folder)
        api.create_repo(settings.repo, private=settings.private, exist_ok=True)
        if settings.private and not api.model_info(settings.repo).private:
            raise SpeechmillError(
                f"{settings.repo} is public, and `publish.private` is true: make it private on its page of settings"
                f" ({api.endpoint}/{settings.repo}/settings), or take another `publish.repo`"
            )
        if settings.branch != "main":
            api.create_branch(settings.repo, branch=settings.branch, exist_ok=True)
        before = api.model_info(settings.repo, revision=settings.branch)
        gone = _gone(api, settings.repo, before, folder)
        additions = [CommitOperationAdd(name, folder / name) for name in _files(folder)]
        with warnings.catch_warnings():
            # The client takes tables for data sets; the evidence for a card is meant to be there.
            warnings.filterwarnings("ignore", message="It seems that you are about to commit a data file")
            # Not `upload_folder`, which makes several commits of a large folder: between two of them the repository
            # would not be what its manifest says.
            commit = api.create_commit(
                settings.repo,
                [*additions, *map(CommitOperationDelete, gone)],
                commit_message=f"Model with manifest sha256:{file_digest(folder / manifest.NAME)}",
                revision=settings.branch,
            )
    where = f"{api.endpoint}/{settings.repo}" + ("" if settings.branch == "main" else f"/tree/{settings.branch}")
    seen_by = "private" if before.private else "public"
    if commit.oid == before.sha:
        return f"{where} ({seen_by}) has all of {folder} already; nothing was changed"
    removed = f"; removed there, since the folder has it no more: {', '.join(gone)}" if gone else ""
    return f"{folder} is published: {where} ({seen_by}, commit {commit.oid}){removed}"


def _files(folder: Path) -> list[str]:
    return sorted([*read_json(folder / manifest.NAME)["files"], manifest.NAME])


def _forbidding(folder: Path) -> str:
    """Why audio may not be passed on; empty where it may."""
    if not (folder / _SETTINGS).is_file():
        return f"there is no {_SETTINGS}, which would say so"
    datasets = read_json(folder / _SETTINGS).get("datasets")
    if not datasets:
        return f"{_SETTINGS} names no corpora"
    names = [name for name, about in datasets.items() if about.get("audio_may_be_passed_on") is not True]
    return f"as the terms of {', '.join(names)} have it" if names else ""


def _card(folder: Path) -> ModelCard:
    try:
        card: ModelCard = ModelCard.load(folder / _CARD)
    except (ValueError, TypeError, yaml.YAMLError) as error:
        raise SpeechmillError(f"{folder / _CARD}: its front matter is not right: {error}") from None
    return card


def _validate(folder: Path) -> None:
    # Before anything is made there; the client looks again before it uploads.
    try:
        _card(folder).validate()
    except ValueError as error:
        raise SpeechmillError(f"{folder / _CARD}: the Hub refuses its front matter: {error}") from None


def _gone(api: HfApi, repo: str, before: ModelInfo, folder: Path) -> list[str]:
    """The files of the repository that the manifest there lists, and that the folder's does not."""
    present = {each.rfilename for each in before.siblings or []}
    if manifest.NAME not in present:
        return []
    with tempfile.TemporaryDirectory() as place:
        file = Path(api.hf_hub_download(repo, manifest.NAME, revision=before.sha, local_dir=place))
        try:
            known = json.loads(file.read_bytes())["files"]
        except (ValueError, KeyError, TypeError):
            return []
    # Other programs' files have that name too.
    if not isinstance(known, dict) or not all(isinstance(each, dict) and "sha256" in each for each in known.values()):
        return []
    return sorted(present & set(known) - set(_files(folder)))


@contextmanager
def _explained(api: HfApi, settings: PublishConfig) -> Iterator[None]:
    try:
        yield
    except OfflineModeIsEnabled:
        raise SpeechmillError("the environment variable HF_HUB_OFFLINE forbids the network; unset it") from None
    except (httpx.HTTPError, OSError, RuntimeError) as error:
        # What this machine refuses has a number, as a full disk has; so has a connection, if it is not wrapped.
        if getattr(error, "errno", None) is not None and not isinstance(error, ConnectionError | TimeoutError):
            raise
        raise SpeechmillError(f"{settings.repo} cannot be published: {_fault(error, api.endpoint)}") from None


def _fault(error: BaseException, site: str) -> str:
    # What breaks off while a large file is uploaded comes wrapped.
    while isinstance(error, RuntimeError) and error.__cause__ is not None:
        error = error.__cause__
    response = getattr(error, "response", None)
    if response is None:
        return (
            f"the connection broke off ({type(error).__name__}); check the network and run again: large files that have"
            " arrived are not sent again"
        )
    status = response.status_code
    if status >= 500:
        advice = "the Hub has a fault; run again later: large files that have arrived are not sent again"
    else:
        advice = _ADVICE.get(status, "see what the Hub says, and run again").format(site=site)
    # What storage says may hold a signature.
    said = getattr(error, "server_message", None) if str(response.url).startswith(f"{site}/") else None
    return f"{advice} (status {status}{f': {said}' if said else ''})"


def _lines(sentences: list[str]) -> str:
    return "".join(f"\n  {each}" for each in sentences)


def main() -> None:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="*", metavar="FOLDER", help="the folder of a model")
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--repo", help="the repository that one folder goes to, NAME/MODEL")
    how.add_argument(
        "--settings",
        type=PublishConfig.model_validate_json,
        nargs="*",
        help="for each folder, the section `publish` of its run",
    )
    parser.add_argument("--private", action="store_true", help="with --repo: only you may see the repository")
    parser.add_argument("--branch", default="main", help="with --repo: the repository's branch")
    parser.add_argument("--dry-run", action="store_true", help="say what would go, and touch no network")
    args = parser.parse_args()
    if args.settings == []:
        raise SpeechmillError(
            "no run has a key `publish`, so nothing is to be published; say where a model goes with"
            " `runs.RUN.publish: {repo: NAME/MODEL}` in the configuration"
        )
    if args.repo is not None:
        try:
            args.settings = [PublishConfig(repo=args.repo, private=args.private, branch=args.branch)]
        except ValidationError as error:
            parser.error("; ".join(f"--{each['loc'][0]}: {each['msg']}" for each in error.errors()))
    if len(args.folders) != len(args.settings):
        parser.error(f"{len(args.folders)} folders for {len(args.settings)} repositories")
    todo = list(zip(args.folders, args.settings, strict=True))
    # All of them before the first goes.
    for folder, settings in todo:
        check(folder, settings)
    for folder, settings in todo:
        print((listing if args.dry_run else publish)(folder, settings))


if __name__ == "__main__":
    run_command(main)
