import hashlib
import json
import logging
import random
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from archive_server import Answer, Handler, Site, breaking_off, serving, status
from speechmill.config.datasets import Download
from speechmill.core.command import SpeechmillError
from speechmill.core.files import read_json
from speechmill.corpus.collective import Link, signed_link
from speechmill.corpus.download import download
from speechmill.corpus.sources.corpus import UnavailableError

pytestmark = pytest.mark.usefixtures("pauses")

ARCHIVE = random.Random(1).randbytes(300_000)
SIZE = len(ARCHIVE)
SHA256 = hashlib.sha256(ARCHIVE).hexdigest()
SLUG, ID, STORED = "common-voice-8-ru", "cm0000001", "/store/corpus.tar.gz"
KEY = "".join(("KE", "Y-of-mine"))  # in parts, because tracebacks quote this file
SIGNED = "".join(("X-Signature=", "SECR", "ET"))


@dataclass
class Collective:
    """A stand-in for the API of Mozilla Data Collective, as in 2026, and for the storage that its links lead to."""

    site: Site = field(default_factory=lambda: Site({STORED: ARCHIVE}))
    refusal: Answer | None = None
    checksum: str | None = SHA256
    links: int = 0
    stored: list[Answer] = field(default_factory=list)

    def answer(self, handler: Handler) -> None:
        where = urlsplit(handler.path).path
        if where == STORED:
            (self.stored.pop(0) if self.stored else self.give_to_newest_link)(handler)
        elif self.refusal is not None:
            self.refusal(handler)
        elif (handler.command, where) == ("GET", f"/api/datasets/{SLUG}"):
            handler.give(200, json.dumps({"id": ID, "name": "Common Voice 8.0"}).encode())
        elif (handler.command, where) != ("POST", f"/api/datasets/{ID}/download"):
            handler.give(404)
        elif handler.headers.get("Authorization") != f"Bearer {KEY}":
            handler.give(401, b'{"message": "no such key"}')
        else:
            self.links += 1
            url = f"{self.site.url}{STORED}?{SIGNED}{self.links}"
            body = {"downloadUrl": url, "sizeBytes": str(SIZE), "checksum": self.checksum}
            handler.give(200, json.dumps(body).encode())

    def give_to_newest_link(self, handler: Handler) -> None:
        """Answer the newest link; earlier ones have expired."""
        if urlsplit(handler.path).query == f"{SIGNED}{self.links}":
            handler.give_file()
        else:
            handler.give(403)

    @property
    def requests(self) -> list[tuple[str, str | None]]:
        """The path of each request, and its range."""
        return [(urlsplit(request.target).path, request.range) for request in self.site.requests]


@pytest.fixture
def collective(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Collective]:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    running = Collective()
    running.site.answer = running.answer
    with serving(running.site):
        monkeypatch.setenv("MDC_API_URL", f"{running.site.url}/api")
        monkeypatch.setenv("MDC_API_KEY", KEY)
        yield running


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "corpora" / "corpus.tar.gz"


def get(path: Path, **known: Any) -> None:
    download(Download(collective=SLUG, **known), path)


def link(**known: Any) -> Link:
    return signed_link(Download(collective=SLUG, **known), requests.Session())


def archives(path: Path) -> list[Path]:
    """Everything in the folder of the archive apart from the lock."""
    return [file for file in path.parent.iterdir() if file.suffix != ".lock"]


def test_a_signed_link_is_requested(collective: Collective) -> None:
    found = link()
    assert (found.url, found.bytes, found.sha256) == (f"{collective.site.url}{STORED}?{SIGNED}1", SIZE, SHA256)
    assert SIGNED not in repr(found)


@pytest.mark.parametrize(
    ("checksum", "sha256"),
    [
        (f"sha256:{SHA256}", SHA256),
        (f"SHA-256={SHA256.upper()}", SHA256),
        (hashlib.md5(ARCHIVE).hexdigest(), None),
        (None, None),
    ],
    ids=["prefix", "capitals", "md5", "none"],
)
def test_a_checksum_is_used_if_it_is_a_sha256(collective: Collective, checksum: str | None, sha256: str | None) -> None:
    collective.checksum = checksum
    assert link().sha256 == sha256


@pytest.mark.parametrize("key", [None, ""])
def test_a_missing_key_is_reported(collective: Collective, monkeypatch: pytest.MonkeyPatch, key: str | None) -> None:
    monkeypatch.delenv("MDC_API_KEY")
    if key is not None:
        monkeypatch.setenv("MDC_API_KEY", key)
    with pytest.raises(UnavailableError, match=r"terms at https://\S+ and set .* MDC_API_KEY, or put .* `path`"):
        link()
    assert collective.requests == []


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (400, r"request refused \(400\); see https://\S+/common-voice-8-ru"),
        (401, r"MDC_API_KEY is not accepted \(401\); create a new key at https://"),
        (402, r"request refused \(402\)"),
        (403, r"no access \(403\); accept the dataset's terms at https://\S+/common-voice-8-ru"),
        (404, r"no such dataset \(404\); set `download\.collective`"),
        (410, r"the dataset was removed \(410\)"),
    ],
)
def test_each_refusal_has_its_message(collective: Collective, path: Path, code: int, message: str) -> None:
    collective.refusal = status(code)
    with pytest.raises(UnavailableError, match=message):
        get(path)
    assert len(collective.requests) == 1
    assert archives(path) == []


@pytest.mark.parametrize("code", [429, 500, 503])
def test_transient_statuses_are_retried(collective: Collective, path: Path, pauses: list[float], code: int) -> None:
    collective.site.answers = [status(code, Retry_After="40")]
    get(path)
    assert pauses == [40]
    assert path.read_bytes() == ARCHIVE


def test_a_collective_that_is_down_is_unavailable(
    collective: Collective, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(Site()) as gone:
        monkeypatch.setenv("MDC_API_URL", f"{gone.url}/api")
    with pytest.raises(UnavailableError, match=r"no valid answer \(ConnectionError\); .* put the archive at the data"):
        get(path)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"id": 7}',
        b'{"id": "cm0000001", "sizeBytes": "many", "downloadUrl": "x"}',
        b'{"id": "cm0000001", "sizeBytes": 1, "downloadUrl": "x", "checksum": 1}',
    ],
)
def test_an_invalid_answer_is_reported(collective: Collective, body: bytes) -> None:
    collective.refusal = lambda handler: handler.give(200, body)
    with pytest.raises(UnavailableError, match="Mozilla Data Collective, common-voice-8-ru: no valid answer"):
        link()


def test_an_archive_is_downloaded_and_checked(collective: Collective, path: Path) -> None:
    get(path)
    assert path.read_bytes() == ARCHIVE
    assert read_json(path.with_name("corpus.tar.gz.json")) == {
        "url": collective.site.url + STORED,
        "bytes": SIZE,
        "sha256": SHA256,
    }
    # The storage does not receive the key.
    assert "authorization" not in collective.site.requests[-1].headers


def test_an_archive_with_another_digest_is_an_error(collective: Collective, path: Path) -> None:
    collective.site.files[STORED] = ARCHIVE[::-1]
    with pytest.raises(SpeechmillError, match=f"not {SHA256}") as failed:
        get(path)
    assert not isinstance(failed.value, UnavailableError)
    assert not path.exists()


@pytest.mark.parametrize(
    ("known", "message"),
    [
        ({"bytes": SIZE + 1}, rf"`bytes` is {SIZE}, not {SIZE + 1}"),
        ({"sha256": "0" * 64}, rf"`sha256` is {SHA256}, not 0{{64}}"),
    ],
)
def test_an_archive_other_than_configured_is_an_error(
    collective: Collective, path: Path, known: dict[str, Any], message: str
) -> None:
    with pytest.raises(SpeechmillError, match=message) as failed:
        get(path, **known)
    assert not isinstance(failed.value, UnavailableError)
    assert not path.exists()


def test_the_configured_sha256_replaces_another_checksum(collective: Collective, path: Path) -> None:
    collective.checksum = hashlib.md5(ARCHIVE).hexdigest()
    with pytest.raises(SpeechmillError, match=f"`sha256` is {SHA256}, not 0{{64}}"):
        get(path, sha256="0" * 64)
    get(path, sha256=SHA256)
    assert path.read_bytes() == ARCHIVE


def expired(code: int) -> Answer:
    return lambda handler: handler.give(code, b"<Error><Code>AccessDenied</Code></Error>")


@pytest.mark.parametrize("code", [400, 401, 403, 410])
def test_an_expired_link_is_renewed_and_resumed(collective: Collective, path: Path, code: int) -> None:
    collective.stored = [breaking_off(100_000), expired(code)]
    get(path)
    assert [request for request in collective.requests if request[0] == STORED] == [
        (STORED, None),
        (STORED, "bytes=100000-"),
        (STORED, "bytes=100000-"),
    ]
    assert collective.links == 3
    assert path.read_bytes() == ARCHIVE


def test_links_that_always_expire_are_given_up(collective: Collective, path: Path) -> None:
    collective.stored = [expired(403)] * 99
    with pytest.raises(UnavailableError, match=r"the link has expired \(403\)"):
        get(path)
    assert collective.links == 6


def test_a_later_job_resumes_with_a_link_of_its_own(collective: Collective, path: Path) -> None:
    collective.stored = [breaking_off(100_000), *[status(503)] * 6]
    with pytest.raises(UnavailableError):
        get(path)
    collective.stored = []
    get(path)
    assert collective.requests[-1] == (STORED, "bytes=100000-")
    assert path.read_bytes() == ARCHIVE


def incomplete_answer(handler: Handler) -> None:
    handler.give(200, json.dumps({"id": ID, "downloadUrl": f"http://127.0.0.1/?{SIGNED}"}).encode())


def refusal_with_secrets(handler: Handler) -> None:
    handler.give(403, json.dumps({"message": f"{handler.headers.get('Authorization')} {SIGNED}"}).encode())


@pytest.mark.parametrize(
    "damage",
    [
        lambda collective: None,
        lambda collective: setattr(collective, "refusal", incomplete_answer),
        lambda collective: setattr(collective, "refusal", refusal_with_secrets),
        lambda collective: setattr(collective, "refusal", status(503)),
        lambda collective: setattr(collective, "stored", [breaking_off(100_000), *[expired(403)] * 99]),
        lambda collective: collective.site.files.update({STORED: b"another"}),
    ],
    ids=["complete", "incomplete-answer", "refusal", "busy", "expired", "another-file"],
)
def test_neither_key_nor_link_is_shown(
    collective: Collective,
    path: Path,
    damage: Callable[[Collective], None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("HOME", str(path.parent.parent))
    damage(collective)
    trace = ""
    try:
        get(path)
    except SpeechmillError as error:
        trace = "".join(traceback.format_exception(error))
    assert bool(trace) == (not path.exists())
    shown = trace + caplog.text + "".join(capfd.readouterr())
    stored = b"".join(file.read_bytes() for file in path.parent.parent.rglob("*") if file.is_file())
    for secret in (KEY, SIGNED):
        assert secret not in shown
        assert secret.encode() not in stored
