import hashlib
import json
import logging
import os
import random
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from archive_server import Answer, Handler, Site, breaking_off, serving, status
from speechmill.config.datasets import Download
from speechmill.core.command import SpeechmillError
from speechmill.core.tables import read_json
from speechmill.corpus.collective import BusyError, presigned, unlogged
from speechmill.corpus.download import download
from speechmill.corpus.sources.corpus import UnavailableError

ARCHIVE = random.Random(1).randbytes(300_000)
SIZE = len(ARCHIVE)
SHA256 = hashlib.sha256(ARCHIVE).hexdigest()
SLUG, ID, STORED = "common-voice-8-ru", "cm0000001", "/store/corpus.tar.gz"
KEY = "".join(("KE", "Y-of-mine"))  # in parts, as tracebacks quote this file
SIGNED = "".join(("X-Signature=", "SECR", "ET"))


@dataclass
class Collective:
    """Stands for Mozilla Data Collective 2026 as the package asks it, and for the storage that its links lead to."""

    site: Site = field(default_factory=lambda: Site({STORED: ARCHIVE}))
    refusal: Answer | None = None
    checksum: str | None = SHA256
    links: int = 0
    stored: list[Answer] = field(default_factory=list)

    def answer(self, handler: Handler) -> None:
        where = urlsplit(handler.path).path
        if where == STORED:
            (self.stored.pop(0) if self.stored else self.give_to_the_last_link)(handler)
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

    def give_to_the_last_link(self, handler: Handler) -> None:
        """Earlier links have ended."""
        if urlsplit(handler.path).query == f"{SIGNED}{self.links}":
            handler.give_file()
        else:
            handler.give(403)

    @property
    def asked(self) -> list[tuple[str, str | None]]:
        """The path of each request, and its range."""
        return [(urlsplit(asked.target).path, asked.range) for asked in self.site.asked]


@pytest.fixture
def collective(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Collective]:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setenv("PYTHON_DOTENV_DISABLED", "0")
    standing = Collective()
    standing.site.answer = standing.answer
    with serving(standing.site):
        monkeypatch.setenv("MDC_API_URL", f"{standing.site.url}/api")
        monkeypatch.setenv("MDC_API_KEY", KEY)
        yield standing


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "corpora" / "corpus.tar.gz"


def get(path: Path, **known: Any) -> None:
    download(Download(collective=SLUG, **known), path, lambda seconds: None)


def test_a_link_is_had_by_slug_and_key(collective: Collective) -> None:
    link = presigned(SLUG)
    assert (link.url, link.bytes, link.sha256) == (f"{collective.site.url}{STORED}?{SIGNED}1", SIZE, SHA256)
    assert SIGNED not in repr(link)


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
def test_a_checksum_is_taken_where_it_is_a_sha256(
    collective: Collective, checksum: str | None, sha256: str | None
) -> None:
    collective.checksum = checksum
    assert presigned(SLUG).sha256 == sha256


@pytest.mark.parametrize("key", [None, ""])
def test_without_a_key_it_is_said_what_to_do_and_nobody_asked(
    collective: Collective, monkeypatch: pytest.MonkeyPatch, key: str | None
) -> None:
    monkeypatch.delenv("MDC_API_KEY")
    if key is not None:
        monkeypatch.setenv("MDC_API_KEY", key)
    with pytest.raises(UnavailableError, match=r"terms at https://\S+ and set .* MDC_API_KEY, or put .* `path`"):
        presigned(SLUG)
    assert collective.asked == []


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (400, r"refused \(400\)"),
        (401, r"MDC_API_KEY is not accepted \(401\)"),
        (402, r"refused \(402\)"),
        (403, r"not given access \(403\); accept the dataset's terms at https://\S+/common-voice-8-ru"),
        (404, r"no such dataset \(404\); set `download\.collective`"),
        (410, r"the dataset was removed \(410\)"),
    ],
)
def test_each_refusal_has_its_sentence(collective: Collective, path: Path, code: int, said: str) -> None:
    collective.refusal = status(code)
    with pytest.raises(UnavailableError, match=said):
        get(path)
    assert len(collective.asked) == 1
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("code", [429, 500, 503])
def test_what_may_pass_is_asked_again(collective: Collective, path: Path, code: int) -> None:
    naps: list[float] = []

    def recover(seconds: float) -> None:
        naps.append(seconds)
        collective.refusal = None

    collective.refusal = status(code, Retry_After="40")
    download(Download(collective=SLUG), path, recover)
    assert naps == [40]
    assert path.read_bytes() == ARCHIVE


def test_a_collective_that_is_not_reached_is_unavailable(
    collective: Collective, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(Site()) as gone:
        monkeypatch.setenv("MDC_API_URL", f"{gone.url}/api")
    with pytest.raises(BusyError, match="not reached"):
        presigned(SLUG)
    with pytest.raises(UnavailableError, match=rf"not reached .* put the archive at {path} by hand"):
        get(path)


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"id": 7}', b'{"id": "cm0000001", "sizeBytes": "many", "downloadUrl": "x"}']
)
def test_an_answer_that_is_not_understood_is_said(collective: Collective, body: bytes) -> None:
    collective.refusal = lambda handler: handler.give(200, body)
    with pytest.raises(UnavailableError, match="Mozilla Data Collective, common-voice-8-ru: "):
        presigned(SLUG)


def test_without_the_package_it_is_said_what_it_needs(collective: Collective, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datacollective", None)
    with pytest.raises(SpeechmillError, match=r"needs Python 3\.11\.4 or later"):
        presigned(SLUG)


def test_an_archive_is_fetched_and_checked_by_what_the_collective_says(collective: Collective, path: Path) -> None:
    get(path)
    assert path.read_bytes() == ARCHIVE
    assert read_json(path.with_name("corpus.tar.gz.json")) == {
        "url": collective.site.url + STORED,
        "bytes": SIZE,
        "sha256": SHA256,
    }
    # The storage is not told the key.
    assert "authorization" not in collective.site.asked[-1].headers


def test_another_archive_than_the_collective_says_is_an_error(collective: Collective, path: Path) -> None:
    collective.site.files[STORED] = ARCHIVE[::-1]
    with pytest.raises(SpeechmillError, match=f"not {SHA256}") as failed:
        get(path)
    assert not isinstance(failed.value, UnavailableError)
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("known", "said"),
    [
        ({"bytes": SIZE + 1}, rf"bytes is {SIZE}, not {SIZE + 1}, as `download\.bytes` says"),
        ({"sha256": "0" * 64}, rf"sha256 is {SHA256}, not 0{{64}}, as `download\.sha256` says"),
    ],
)
def test_the_configuration_and_the_collective_must_agree(
    collective: Collective, path: Path, known: dict[str, Any], said: str
) -> None:
    with pytest.raises(SpeechmillError, match=said) as failed:
        get(path, **known)
    assert not isinstance(failed.value, UnavailableError)
    assert STORED not in dict(collective.asked)


def test_the_configured_sha256_is_checked_where_the_collective_has_another_checksum(
    collective: Collective, path: Path
) -> None:
    collective.checksum = hashlib.md5(ARCHIVE).hexdigest()
    with pytest.raises(SpeechmillError, match=f"the sha256 is {SHA256}, not 0{{64}}"):
        get(path, sha256="0" * 64)
    get(path, sha256=SHA256)
    assert path.read_bytes() == ARCHIVE


def ended(code: int) -> Answer:
    return lambda handler: handler.give(code, b"<Error><Code>AccessDenied</Code></Error>")


@pytest.mark.parametrize("code", [400, 401, 403, 410])
def test_a_link_that_ends_is_renewed_and_the_same_part_gone_on_with(
    collective: Collective, path: Path, code: int
) -> None:
    collective.stored = [breaking_off(100_000), ended(code)]
    get(path)
    assert [asked for asked in collective.asked if asked[0] == STORED] == [
        (STORED, None),
        (STORED, "bytes=100000-"),
        (STORED, "bytes=100000-"),
    ]
    assert collective.links == 2
    assert path.read_bytes() == ARCHIVE


def test_links_that_are_never_good_are_given_up(collective: Collective, path: Path) -> None:
    collective.stored = [ended(403)] * 99
    with pytest.raises(UnavailableError, match="403 Forbidden"):
        get(path)
    assert collective.links == 6


def test_a_later_job_goes_on_with_a_link_of_its_own(collective: Collective, path: Path) -> None:
    collective.stored = [breaking_off(100_000), *[status(503)] * 7]
    with pytest.raises(UnavailableError):
        get(path)
    collective.stored = []
    get(path)
    assert collective.asked[-1] == (STORED, "bytes=100000-")
    assert path.read_bytes() == ARCHIVE


def test_an_environment_file_is_not_read(
    collective: Collective, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("MDC_DOWNLOAD_PATH=elsewhere\n")
    monkeypatch.chdir(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "datacollective"]:
        monkeypatch.delitem(sys.modules, name)
    presigned(SLUG)
    assert "datacollective" in sys.modules
    assert "MDC_DOWNLOAD_PATH" not in os.environ


def odd_answer(handler: Handler) -> None:
    # It lacks the size, and the package puts what there is into its message.
    handler.give(200, json.dumps({"id": ID, "downloadUrl": f"http://127.0.0.1/?{SIGNED}"}).encode())


def telling_refusal(handler: Handler) -> None:
    handler.give(403, json.dumps({"message": f"{handler.headers.get('Authorization')} {SIGNED}"}).encode())


@pytest.mark.parametrize(
    "spoil",
    [
        lambda collective: None,
        lambda collective: setattr(collective, "refusal", odd_answer),
        lambda collective: setattr(collective, "refusal", telling_refusal),
        lambda collective: setattr(collective, "refusal", status(503)),
        lambda collective: setattr(collective, "stored", [breaking_off(100_000), *[ended(403)] * 99]),
        lambda collective: collective.site.files.update({STORED: b"another"}),
    ],
    ids=["well", "odd-answer", "telling-refusal", "busy", "ended", "another"],
)
def test_neither_the_key_nor_a_link_gets_out(
    collective: Collective,
    path: Path,
    spoil: Callable[[Collective], None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("HOME", str(path.parent.parent))
    spoil(collective)
    said = ""
    try:
        get(path)
    except SpeechmillError as error:
        said = "".join(traceback.format_exception(error))
    assert bool(said) == (not path.exists())
    shown = said + caplog.text + "".join(capfd.readouterr())
    stored = b"".join(file.read_bytes() for file in path.parent.parent.rglob("*") if file.is_file())
    for secret in (KEY, SIGNED):
        assert secret not in shown
        assert secret.encode() not in stored


def test_only_the_named_packages_are_kept_from_logging_and_only_for_a_while(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    inner, other = logging.getLogger("package.inner"), logging.getLogger("packages")
    with unlogged("package"):
        inner.warning("kept")
        other.warning("said")
    inner.warning("said later")
    assert caplog.messages == ["said", "said later"]
