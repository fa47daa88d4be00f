"""Download of a file: mirrors, retries, resumption after a lost connection or a kill, checks of size and sha256.

An incomplete download is `.{name}.part`; `.{name}.part.json` records where it comes from. Neither messages nor files
contain the query, user or password of an address: the query of a signed link is a secret.
"""

import http.client
import logging
import re
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import filelock
import requests
import urllib3
from pydantic import BaseModel
from requests.adapters import HTTPAdapter

from speechmill.config.datasets import Download
from speechmill.core.command import SpeechmillError
from speechmill.core.files import file_digest, write_json
from speechmill.core.progress import progress
from speechmill.corpus.collective import Link, signed_link
from speechmill.corpus.download_record import sidecar
from speechmill.corpus.sources.corpus import UnavailableError
from speechmill.corpus.sources.file_kinds import text_kind

_RETRIES = 5

# It logs complete addresses.
logging.getLogger("urllib3").setLevel(logging.CRITICAL)


class _RefusedError(Exception):
    """An address that does not provide the file; another may."""


class _WrongFileError(_RefusedError):
    """An address that provides another file."""


class _InterruptedError(_RefusedError):
    """A transfer that ended too early and can be resumed or repeated."""


class _Origin(BaseModel):
    """Where a part comes from: the address, and the size and entity tag or time of the last change of the file."""

    url: str
    bytes: int | None
    validator: str | None


def download(settings: Download, path: Path, refuse: Callable[[Path], str | None] = text_kind) -> None:
    """Download a file to `path`, and record its `url` without the query, `bytes` and `sha256` in its sidecar.

    An interrupted download is resumed if the server confirms that the file is the same. Jobs that need the same `path`
    wait for each other. `refuse` returns what a complete file is if it is not what is wanted: by default, any text is
    refused, since an archive is wanted.

    Raises:
        UnavailableError: No address provides the file.
        SpeechmillError: The file has another size or sha256 than it should, or the disk is full.
    """
    failures: list[_RefusedError] = []
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(path.with_name(f".{path.name}.lock")), _session() as session:
            # Without addresses, the link comes from the collective.
            for url in settings.urls or [""]:
                if path.exists():  # downloaded by another job or from an earlier address
                    break
                try:
                    _fetch(url, settings, path, session, refuse)
                except _RefusedError as error:
                    failures.append(error)
    except OSError as error:
        raise SpeechmillError(
            f"{path} cannot be written ({error.strerror}); fix this and run again: the downloaded part is kept"
        ) from None
    if not path.exists():
        wrong = any(isinstance(failure, _WrongFileError) for failure in failures)
        raise (SpeechmillError if wrong else UnavailableError)(
            f"{path} cannot be downloaded ({'; '.join(map(str, failures))}); try again later, correct `download`, or"
            f" put the file at {path} yourself"
        )


def _session() -> requests.Session:
    session = requests.Session()
    # The archive itself is wanted, not a compressed form of it.
    session.headers.update({"User-Agent": "speechmill", "Accept-Encoding": "identity"})
    session.hooks["response"].append(_refuse_downgrade)
    statuses = [408, 429, *range(500, 600)]
    retry = urllib3.Retry(
        _RETRIES, allowed_methods=None, status_forcelist=statuses, raise_on_status=False, backoff_factor=1,
        backoff_jitter=1, retry_after_max=300,
    )  # fmt: skip
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=retry))
    return session


def _refuse_downgrade(response: requests.Response, **_: object) -> None:
    target = response.headers.get("Location", "") if response.is_redirect else ""
    if response.url.startswith("https:") and target.lower().startswith("http:"):
        raise _RefusedError(f"{_redacted(response.url)}: redirects from https to http, which is refused")


def _fetch(
    url: str, settings: Download, path: Path, session: requests.Session, refuse: Callable[[Path], str | None]
) -> None:
    """Download the file at `url`, or at a new signed link for each attempt, and check it."""
    part, failures, longest = path.with_name(f".{path.name}.part"), 0, 0
    while True:
        link = Link(url, settings.bytes, settings.sha256) if url else signed_link(settings, session)
        try:
            _receive(link, part, session)
            break
        except _InterruptedError as error:
            failures = 0 if _size(part) > longest else failures + 1
            longest = max(longest, _size(part))
            if failures > _RETRIES:
                raise
            print(f"{error}; trying again in {2**failures} s", file=sys.stderr)
            time.sleep(2**failures)
    if kind := refuse(part):
        part.unlink()
        # The text is not shown, because error messages of servers repeat signed addresses.
        raise _RefusedError(f"{_redacted(link.url)}: returns {kind} instead of the file")
    record = {"url": _redacted(link.url), "bytes": _size(part), "sha256": file_digest(part)}
    for key, expected in (("bytes", link.bytes), ("sha256", link.sha256)):
        if expected is not None and record[key] != expected:
            part.unlink()
            raise _WrongFileError(f"{record['url']}: `{key}` is {record[key]}, not {expected}")
    # In this order the archive never exists without its sidecar.
    write_json(record, sidecar(path))
    part.replace(path)
    _origin_file(part).unlink()


def _receive(link: Link, part: Path, session: requests.Session) -> None:
    """Append the body of one response to `part`, or replace `part` if it cannot be resumed."""
    url, start, origin = _redacted(link.url), _size(part), _resumable_origin(link, part)
    if origin is not None and start == origin.bytes:
        return
    headers = {"Range": f"bytes={start}-", "If-Range": origin.validator} if origin else {}
    try:
        response = session.get(link.url, headers=headers, stream=True, timeout=(20, 60))
    except requests.RequestException as error:
        # Only the name of the error or of its cause: the message may contain the complete address.
        reason = getattr((error.args or [None])[0], "reason", None) or error
        raise _RefusedError(f"{url}: {type(reason).__name__}") from None
    with response:
        status = response.status_code
        if status == 200:
            origin, start = _Origin(url=url, bytes=_file_size(response, link), validator=_validator(response)), 0
            part.unlink(missing_ok=True)
            write_json(origin.model_dump(), _origin_file(part))
        elif origin is not None and origin.bytes and status in (206, 416):
            fits = response.headers.get("Content-Range") == f"bytes {start}-{origin.bytes - 1}/{origin.bytes}"
            if not fits or _validator(response) not in (None, origin.validator):
                part.unlink()
                raise _InterruptedError(f"{url}: the file has changed, so the download starts over")
        elif link.signed and status in (400, 401, 403, 410):
            raise _InterruptedError(f"{url}: the link has expired ({status})")
        else:
            raise _RefusedError(f"{url}: {status} {http.client.responses.get(status, '')}".rstrip())
        remaining, free = (origin.bytes or 0) - start, shutil.disk_usage(part.parent).free
        if remaining > free:
            raise SpeechmillError(
                f"{part}: {remaining} bytes remain to be downloaded, but the disk has room for {free}; free some space,"
                " or set `path` to a larger disk"
            )
        bar = progress(total=origin.bytes, initial=start, unit="B", unit_scale=True, desc=part.stem[1:])
        broken = False
        with bar, part.open("ab") as file:
            try:
                # Not decoded: some servers declare every .tar.gz to be a gzipped .tar.
                while chunk := response.raw.read1(1 << 20, decode_content=False):
                    file.write(chunk)
                    bar.update(len(chunk))
            except urllib3.exceptions.HTTPError:
                broken = True
    if broken or _size(part) < (origin.bytes or 0):
        raise _InterruptedError(f"{url}: the connection broke after {_size(part)} bytes")


def _resumable_origin(link: Link, part: Path) -> _Origin | None:
    """Return the recorded origin of `part` if it is the file of `link`."""
    try:
        origin = _Origin.model_validate_json(_origin_file(part).read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    same = origin.url == _redacted(link.url) and origin.validator and link.bytes in (None, origin.bytes)
    return origin if same and 0 < _size(part) <= (origin.bytes or 0) else None


def _origin_file(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _file_size(response: requests.Response, link: Link) -> int | None:
    """Return the size of the file in `response` if it is known; raise _RefusedError if it is not the file of `link`."""
    length = response.headers.get("Content-Length", "")
    size = int(length) if length.isdecimal() else link.bytes
    if link.bytes not in (None, size):
        raise _WrongFileError(f"{_redacted(link.url)}: `bytes` is {size}, not {link.bytes}")
    if response.headers.get("Content-Type", "").startswith("text/html"):
        raise _RefusedError(f"{_redacted(link.url)}: returns a web page instead of the file")
    return size


def _validator(response: requests.Response) -> str | None:
    """Return a value for `If-Range`: the entity tag unless it is weak, otherwise the time of the last change."""
    tag = response.headers.get("ETag")
    return response.headers.get("Last-Modified") if tag is None or tag.startswith("W/") else tag


def _redacted(url: str) -> str:
    """Return scheme, host and path of an address, which may be invalid."""
    return re.sub("//[^/]*@", "//", re.split("[?#]", url, maxsplit=1)[0])
