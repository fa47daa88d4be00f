"""Mozilla Data Collective: the signed link to an archive, good for a while, for whom it gives the archive to."""

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import requests

from speechmill.core.command import SpeechmillError
from speechmill.corpus.sources.corpus import UnavailableError

_SITE = "https://mozilladatacollective.com"
_SHA256 = re.compile(r"(?:sha-?256[:=-])?([0-9a-f]{64})", re.IGNORECASE)


@dataclass(frozen=True)
class Link:
    """Where a file is fetched, and what it must be as far as that is known: its bytes, and its sha256 in hex.

    The query of a `signed` link is a secret, and ends after a while.
    """

    url: str = field(repr=False)
    bytes: int | None
    sha256: str | None
    signed: bool = False


class BusyError(UnavailableError):
    """It cannot be had now, and may be later; `retry_after` is the value of that HTTP header, where there was one."""

    def __init__(self, message: str, retry_after: str | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


@contextmanager
def unlogged(*packages: str) -> Iterator[None]:
    """Keep `packages` from logging until the block ends: they log whole addresses, whose queries are secrets."""
    loggers = [
        logger
        for name, logger in logging.root.manager.loggerDict.items()
        if isinstance(logger, logging.Logger) and name.partition(".")[0] in packages and not logger.disabled
    ]
    for logger in loggers:
        logger.disabled = True
    try:
        yield
    finally:
        for logger in loggers:
            logger.disabled = False


def presigned(collective: str) -> Link:
    """A fresh signed link to the archive of the dataset whose id or slug is `collective`.

    The key is read from the environment variable MDC_API_KEY. `sha256` is None where the checksum is of another kind.
    Raises BusyError where the collective does not answer now, UnavailableError where it does not give the archive to
    this key, and SpeechmillError where the package `datacollective` is not installed.
    """
    name = f"Mozilla Data Collective, {collective}"
    page = f"{_SITE}/datasets/{collective}"
    if not os.environ.get("MDC_API_KEY"):
        raise UnavailableError(
            f"{name}: no key is given; accept the dataset's terms at {page} and set the environment variable"
            " MDC_API_KEY, or put the archive at the dataset's `path`"
        )
    try:
        # On import it would take keys and addresses from a file .env in this folder or one above.
        os.environ["PYTHON_DOTENV_DISABLED"] = "1"
        from datacollective import AuthenticationError, RateLimitError, ResourceRemovedError, get_dataset_details

        # Not public, and the version is pinned for it. What is public goes on to fetch the archive, and when it
        # resumes appends whatever the server sends, and does not hash the finished file.
        from datacollective.download import DOWNLOAD_SOURCE_DOWNLOAD, _get_download_plan
    except ImportError:
        raise SpeechmillError(
            f"{name}: the package datacollective is not installed, which needs Python 3.11.4 or later; install it, or"
            " put the archive at the dataset's `path`"
        ) from None
    # The messages of what is caught here may hold the link, so none is passed on or shown as the cause.
    with unlogged("urllib3", "datacollective"):
        try:
            plan = _get_download_plan(get_dataset_details(collective).id, Path("archive"), DOWNLOAD_SOURCE_DOWNLOAD)
        except AuthenticationError:
            raise UnavailableError(
                f"{name}: MDC_API_KEY is not accepted (401); make a new key at {_SITE}/api-reference"
            ) from None
        except PermissionError:
            raise UnavailableError(
                f"{name}: this key is not given access (403); accept the dataset's terms at {page}"
            ) from None
        except ResourceRemovedError:
            raise UnavailableError(
                f"{name}: the dataset was removed (410); put an archive that you have at the dataset's `path`"
            ) from None
        except FileNotFoundError:
            raise UnavailableError(
                f"{name}: there is no such dataset (404); set `download.collective` to the id or slug in the address"
                " of its page"
            ) from None
        except RateLimitError as error:
            after = None if error.response is None else error.response.headers.get("Retry-After")
            raise BusyError(f"{name}: asked too often (429); try again later", after) from None
        except requests.HTTPError as error:
            status = error.response.status_code
            if status >= 500:
                raise BusyError(
                    f"{name}: not answered now ({status})", error.response.headers.get("Retry-After")
                ) from None
            raise UnavailableError(f"{name}: refused ({status}); see {page}") from None
        except requests.RequestException as error:
            raise BusyError(f"{name}: not reached ({type(error).__name__})") from None
        except (RuntimeError, ValueError) as error:
            raise UnavailableError(f"{name}: the answer is not understood ({type(error).__name__})") from None
    digest = _SHA256.fullmatch(plan.checksum or "")
    return Link(plan.download_url, plan.size_bytes, digest[1].lower() if digest else None, signed=True)
