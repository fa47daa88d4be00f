"""Mozilla Data Collective: signed, short-lived links to the archives of its datasets.

API: https://mozilladatacollective.com/api-reference; the requests are those of the package `datacollective` 0.7.0.
"""

import os
import re
from dataclasses import dataclass, field
from typing import Any

import requests

from speechmill.config.datasets import Download
from speechmill.corpus.sources.corpus import UnavailableError

_SITE = "https://mozilladatacollective.com"
_SHA256 = re.compile(r"(?:sha-?256[:=-])?([0-9a-f]{64})", re.IGNORECASE)
_REFUSALS = {
    401: "MDC_API_KEY is not accepted (401); create a new key at {site}/api-reference",
    403: "this key has no access (403); accept the dataset's terms at {page}",
    404: "there is no such dataset (404); set `download.collective` to the id or slug in the address of its page",
    410: "the dataset was removed (410); put a copy of the archive at the dataset's `path`",
}


@dataclass(frozen=True)
class Link:
    """The address of a file, with its size in bytes and its sha256 in hex where they are known.

    The query of a `signed` link is a secret and expires.
    """

    url: str = field(repr=False)
    bytes: int | None
    sha256: str | None
    signed: bool = False


def signed_link(settings: Download, session: requests.Session) -> Link:
    """Request a new signed link to the archive of the dataset whose id or slug is `settings.collective`.

    The key is read from the environment variable MDC_API_KEY. The configured size and sha256 take precedence.

    Raises:
        UnavailableError: The collective cannot be reached, or does not provide the archive to this key.
    """
    name, page = f"Mozilla Data Collective, {settings.collective}", f"{_SITE}/datasets/{settings.collective}"
    key = os.environ.get("MDC_API_KEY")
    if not key:
        raise UnavailableError(
            f"{name}: there is no API key; accept the dataset's terms at {page} and set the environment variable"
            " MDC_API_KEY, or put the archive at the dataset's `path`"
        )
    api = os.environ.get("MDC_API_URL", f"{_SITE}/api").rstrip("/")

    def request(method: str, path: str, **headers: str) -> Any:
        response = session.request(method, f"{api}/datasets/{path}", headers=headers, timeout=(10, 60))
        if not response.ok:
            refusal = _REFUSALS.get(response.status_code, f"request refused ({response.status_code}); see {{page}}")
            raise UnavailableError(f"{name}: {refusal.format(site=_SITE, page=page)}")
        return response.json()

    try:
        dataset_id = request("GET", str(settings.collective))["id"]
        answer = request("POST", f"{dataset_id}/download", Authorization=f"Bearer {key}")
        digest = _SHA256.fullmatch(answer.get("checksum") or "")  # it may be a checksum of another kind
        sha256 = settings.sha256 or (digest[1].lower() if digest else None)
        return Link(str(answer["downloadUrl"]), settings.bytes or int(answer["sizeBytes"]), sha256, signed=True)
    except (requests.RequestException, AttributeError, KeyError, TypeError, ValueError) as error:
        # The error's own message may contain the link.
        raise UnavailableError(
            f"{name}: no valid answer ({type(error).__name__}); check the network and try again, or put the archive at"
            " the dataset's `path`"
        ) from None
