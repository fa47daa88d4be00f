"""An archive is fetched to the place where the configuration looks for it: whole, checked, resumed where it broke off.

What is fetched lies in `.{name}.part` until it is whole, with `.{name}.part.json`, which says what it is a part of. No
message and no file here holds an address with its query, user or password: a signed query is a key.
"""

import fcntl
import hashlib
import http.client
import io
import json
import os
import random
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from types import TracebackType
from urllib.parse import urljoin, urlsplit

import requests
import urllib3.exceptions

from speechmill.config.datasets import Download
from speechmill.core.command import SpeechmillError
from speechmill.core.progress import progress
from speechmill.core.tables import write_json
from speechmill.corpus.collective import BusyError, Link, presigned, unlogged
from speechmill.corpus.download_record import sidecar
from speechmill.corpus.sources.corpus import UnavailableError

_CHUNK = 1 << 20
# Seconds to connect, and without a byte.
_TIMEOUT = (20, 60)
_TRIES = 6
_LONGEST_PAUSE = 60
_LONGEST_RETRY_AFTER = 300
# What storage answers to a signed link that has ended.
_ENDED = {400, 401, 403, 410}
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
# Errors of an address or of its redirects, which do not pass.
_HOPELESS = (
    requests.exceptions.InvalidHeader,
    requests.exceptions.InvalidSchema,
    requests.exceptions.InvalidURL,
    requests.exceptions.MissingSchema,
    requests.exceptions.TooManyRedirects,
)
_pause = threading.Event().wait


class _RefusedError(Exception):
    """This address does not give the file; another may."""


class _WrongFileError(_RefusedError):
    """What this address gives is another file."""


class _LinkEndedError(BusyError):
    """The signed link is not good any more; a fresh one may be."""


def download(settings: Download, path: Path, pause: Callable[[float], object] = _pause) -> None:
    """Fetch the archive to `path`, with a sidecar beside it: the `url` without its query, `bytes` and `sha256`.

    A download that broke off or was killed goes on where it was if the server agrees that it is the same file. Jobs
    that want the same `path` wait for one another. `pause` waits for some seconds between two tries.
    Raises UnavailableError where no address gives the file, and SpeechmillError where one gives a file of another size
    or sha256, or the disk is full.
    """
    asks = [partial(Link, url, settings.bytes, settings.sha256) for url in settings.urls]
    if settings.collective is not None:
        asks = [partial(_signed, settings, settings.collective)]
    failures: list[_RefusedError | BusyError] = []
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with unlogged("urllib3"), _Part(path) as part, _Session() as session:
            if path.exists():  # fetched by a job that we waited for
                part.clear()
                return
            for ask in asks:
                try:
                    link = _fetch(ask, part, session, pause)
                    _check(link, part)
                except (_RefusedError, BusyError) as error:
                    failures.append(error)
                else:
                    part.finish(link)
                    return
    except OSError as error:
        raise SpeechmillError(
            f"{path} cannot be written ({error.strerror}); see to that and run again: what was fetched is kept"
        ) from None
    wrong = any(isinstance(failure, _WrongFileError) for failure in failures)
    raise (SpeechmillError if wrong else UnavailableError)(
        f"{path} cannot be fetched ({'; '.join(map(str, failures))}); try again later, correct `download`, or put the"
        f" archive at {path} by hand"
    )


def _signed(settings: Download, collective: str) -> Link:
    link = presigned(collective)
    for key, wanted, offered in (
        ("bytes", settings.bytes, link.bytes),
        ("sha256", settings.sha256, link.sha256),
    ):
        if wanted is not None and offered is not None and wanted != offered:
            raise SpeechmillError(
                f"Mozilla Data Collective, {collective}: the archive's {key} is {offered}, not {wanted}, as"
                f" `download.{key}` says; it may be another release"
            )
    return replace(link, sha256=link.sha256 or settings.sha256)


@dataclass(frozen=True)
class _Origin:
    """What a part is a part of: its address, the whole file's size and sha256, and what marks the file's version."""

    address: str
    bytes: int | None
    sha256: str | None
    validator: str | None


class _Part:
    """The bytes that are there of the file at `path`, this job's alone while the block lasts, with their digest."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._part = path.with_name(f".{path.name}.part")
        self._memory = path.with_name(f".{path.name}.part.json")
        self._file = _opened_alone(self._part)
        try:
            self.origin: _Origin | None = _Origin(**json.loads(self._memory.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            self.origin = None
        self._file.seek(0)
        self._digest = hashlib.file_digest(self._file, "sha256")
        self.size = self._file.tell()

    def __enter__(self) -> "_Part":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.size == 0:
            self._memory.unlink(missing_ok=True)
            self._part.unlink(missing_ok=True)
        self._file.close()

    @property
    def sha256(self) -> str:
        """The digest of the bytes that are there, in hex."""
        return self._digest.hexdigest()

    def remember(self, origin: _Origin) -> None:
        """Say what it is a part of from now on."""
        write_json(asdict(origin), self._memory)
        self.origin = origin

    def write(self, chunk: bytes) -> None:
        """Add `chunk` at the end."""
        rest = memoryview(chunk)
        while rest:  # a disk that becomes full takes some of it
            count = self._file.write(rest)
            self._digest.update(rest[:count])
            self.size += count
            rest = rest[count:]

    def clear(self) -> None:
        """Forget what is there."""
        self._file.truncate(0)
        self._memory.unlink(missing_ok=True)
        self.origin = None
        self._digest = hashlib.sha256()
        self.size = 0

    def finish(self, link: Link) -> None:
        """Give the whole file its name, and its sidecar."""
        # The sidecar goes first: without its archive it says nothing, and the archive never is without it.
        write_json({"url": _shown(link.url), "bytes": self.size, "sha256": self.sha256}, sidecar(self.path))
        self._part.replace(self.path)
        self._memory.unlink(missing_ok=True)


def _opened_alone(part: Path) -> io.FileIO:
    while True:
        file = part.open("a+b", buffering=0)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{part}: another job fetches this; waiting for it", file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            # There are file systems without locks; two jobs that spoil each other's part there fail by its digest.
            return file
        # The job that we waited for has renamed or deleted the file that we hold.
        if part.exists() and os.path.samestat(os.fstat(file.fileno()), part.stat()):
            return file
        file.close()


class _Session(requests.Session):
    """Refuses to be redirected from https to http."""

    def __init__(self) -> None:
        super().__init__()
        # The bytes of the file are wanted, not a compressed form of them.
        self.headers.update({"User-Agent": "speechmill", "Accept-Encoding": "identity"})

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        target = super().get_redirect_target(resp)
        if target is not None and (
            urlsplit(resp.url).scheme == "https" and urlsplit(urljoin(resp.url, target)).scheme == "http"
        ):
            raise _RefusedError("redirects from https to http, which is refused")
        return target


def _fetch(ask: Callable[[], Link], part: _Part, session: requests.Session, pause: Callable[[float], object]) -> Link:
    """Bring `part` to its end, in as many tries as it takes while it gets longer; the link that it came from at last.

    Raises _RefusedError where the address does not give the file, and BusyError where it did not in all tries.
    """
    link: Link | None = None
    tries, longest = 0, 0
    while True:
        try:
            link = link or ask()
            _receive(link, part, session)
            return link
        except _LinkEndedError as error:
            failure: BusyError = error
            link = None
        except BusyError as error:
            failure = error
        # A server that always begins anew, and always breaks off, makes no progress.
        tries = 0 if part.size > longest else tries + 1
        longest = max(longest, part.size)
        if tries == _TRIES:
            raise failure
        seconds = _seconds_to_wait(tries, failure.retry_after)
        print(f"{failure}; trying again in {seconds:.0f} s", file=sys.stderr)
        pause(seconds)


def _seconds_to_wait(tries: int, retry_after: str | None) -> float:
    backoff = random.uniform(0.5, 1) * min(2.0**tries, _LONGEST_PAUSE)
    if retry_after is None:
        return backoff
    try:
        asked: float = int(retry_after)
    except ValueError:
        try:
            asked = parsedate_to_datetime(retry_after).timestamp() - time.time()
        except (ValueError, OverflowError):
            asked = 0
    return max(backoff, min(asked, _LONGEST_RETRY_AFTER))


def _receive(link: Link, part: _Part, session: requests.Session) -> None:
    """Add to `part` what one connection gives."""
    address = _shown(link.url)
    headers = {}
    goes_on = _may_go_on(link, part)
    if goes_on and part.origin is not None:
        if part.size == (link.bytes or part.origin.bytes):
            return
        headers["Range"] = f"bytes={part.size}-"
        if part.origin.address == address and part.origin.validator is not None:
            headers["If-Range"] = part.origin.validator
    try:
        response = session.get(link.url, headers=headers, stream=True, timeout=_TIMEOUT)
    except _RefusedError as error:
        raise _RefusedError(f"{address}: {error}") from None
    except _HOPELESS as error:
        raise _RefusedError(f"{address}: cannot be asked for ({type(error).__name__})") from None
    except requests.RequestException as error:
        raise BusyError(f"{address}: {_why(error)}") from None
    with response:
        total = _agreed_total(response, link, part, goes_on)
        room = shutil.disk_usage(part.path.parent).free
        if total is not None and total - part.size > room:
            raise SpeechmillError(
                f"{part.path}: {total - part.size} bytes are still to be fetched, and the disk has room for {room};"
                " make room, or set the dataset's `path` to a larger disk"
            )
        _receive_body(response, address, total, part)


def _may_go_on(link: Link, part: _Part) -> bool:
    """Whether `part` is one of the file that `link` gives: by the sha256, or else by the address and the version."""
    origin = part.origin
    if origin is None or part.size == 0:
        return False
    sizes = {size for size in (link.bytes, origin.bytes) if size is not None}
    if len(sizes) > 1 or any(part.size > size for size in sizes):
        return False
    if link.sha256 is not None and origin.sha256 is not None:
        return link.sha256 == origin.sha256
    return origin.address == _shown(link.url) and origin.validator is not None


def _agreed_total(response: requests.Response, link: Link, part: _Part, goes_on: bool) -> int | None:
    """Make `part` ready for the body; the whole file's size, where it is known. Raises where it is not what we want."""
    address, status = _shown(link.url), response.status_code
    if status == 200:
        announced = _content_length(response)
        if link.bytes is not None and announced not in (None, link.bytes):
            raise _WrongFileError(f"{address}: has {announced} bytes, not {link.bytes}")
        if response.headers.get("Content-Type", "").startswith("text/html"):
            raise _RefusedError(f"{address}: answers with a page for people, not with a file")
        total = link.bytes if announced is None else announced
        if total is None and link.sha256 is None and not _is_chunked(response):
            raise _RefusedError(
                f"{address}: does not say how long the file is, so that its end cannot be told from a broken"
                " connection; give `download.bytes`"
            )
        part.clear()
        part.remember(_Origin(address, total, link.sha256, _validator(response)))
        return total
    if goes_on and status == 206 and (total := _total_of_rest(response, link, part)) is not None:
        if part.origin is not None and part.origin.address != address:
            # From here on it is a part of two addresses, and no version of either says what it is.
            part.remember(_Origin(address, total, link.sha256, None))
        return total
    if goes_on and status in (206, 416):
        part.clear()
        raise BusyError(f"{address}: the file is not the one that was begun ({status}), so it is begun anew")
    reason = f"{address}: {status} {http.client.responses.get(status, '')}".rstrip()
    if link.signed and status in _ENDED:
        raise _LinkEndedError(reason)
    if status in (408, 429) or status >= 500:
        raise BusyError(reason, response.headers.get("Retry-After"))
    raise _RefusedError(reason)


def _total_of_rest(response: requests.Response, link: Link, part: _Part) -> int | None:
    """The whole file's size where a 206 holds what comes after `part`, of the same size and version; else None."""
    stated = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    origin = part.origin
    if stated is None or origin is None:
        return None
    start, end, total = map(int, stated.groups())
    agrees = (
        start == part.size
        and total == (link.bytes or origin.bytes or total)
        and _content_length(response) in (None, end + 1 - start)
        and (origin.address != _shown(link.url) or _validator(response) in (None, origin.validator))
    )
    return total if agrees else None


def _receive_body(response: requests.Response, address: str, total: int | None, part: _Part) -> None:
    with progress(total=total, initial=part.size, unit="B", unit_scale=True, desc=part.path.name) as bar:
        while chunk := _read(response, address, part):
            if total is not None and part.size + len(chunk) > total:
                part.clear()
                raise _WrongFileError(f"{address}: sends more than {total} bytes")
            part.write(chunk)
            bar.update(len(chunk))
    # A whole file in chunks has its end marked, and is then too short by itself.
    ended = response.status_code == 200 and _is_chunked(response)
    if total is not None and part.size < total and not ended:
        raise BusyError(f"{address}: broke off after {part.size} of {total} bytes")


def _read(response: requests.Response, address: str, part: _Part) -> bytes:
    """What has come, so that nothing of it is lost where the connection breaks; not decoded; nothing at the end."""
    try:
        return response.raw.read1(_CHUNK, decode_content=False) or b""
    except urllib3.exceptions.HTTPError as error:
        raise BusyError(f"{address}: broke off after {part.size} bytes ({_why(error)})") from None


def _check(link: Link, part: _Part) -> None:
    """Raise _WrongFileError, and forget the part, where it has not the size and the sha256 that `link` states."""
    for what, found, wanted in (("size", part.size, link.bytes), ("sha256", part.sha256, link.sha256)):
        if wanted is not None and found != wanted:
            # Kept, it would be taken for the whole file for ever.
            part.clear()
            raise _WrongFileError(f"{_shown(link.url)}: the {what} is {found}, not {wanted}")


def _content_length(response: requests.Response) -> int | None:
    stated = response.headers.get("Content-Length", "")
    return int(stated) if re.fullmatch(r"[0-9]{1,18}", stated) and not _is_chunked(response) else None


def _is_chunked(response: requests.Response) -> bool:
    return "chunked" in response.headers.get("Transfer-Encoding", "").lower()


def _validator(response: requests.Response) -> str | None:
    """What `If-Range` may compare: the entity tag, unless it is a weak one, or else the time of the last change."""
    tag = response.headers.get("ETag")
    return response.headers.get("Last-Modified") if tag is None or tag.startswith("W/") else tag


def _shown(url: str) -> str:
    """An address as it may be shown and stored: scheme, host and path."""
    scheme, _, rest = re.split("[?#]", url, maxsplit=1)[0].partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def _why(error: BaseException) -> str:
    """The system's word for a failure, or its kind: the messages of requests and urllib3 hold whole addresses."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return type(error).__name__
