import gzip
import hashlib
import logging
import random
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st

from archive_server import Answer, Handler, Site, breaking_off, content_range, serving, status
from material import ROOT, largest_file
from speechmill.config.datasets import Download
from speechmill.core.command import SpeechmillError
from speechmill.core.files import read_json
from speechmill.corpus.download import download
from speechmill.corpus.download_record import downloaded
from speechmill.corpus.sources.corpus import UnavailableError

pytestmark = pytest.mark.usefixtures("pauses")

ARCHIVE = random.Random(1).randbytes(300_000)
OTHER = random.Random(2).randbytes(300_000)
SIZE = len(ARCHIVE)
SHA256 = hashlib.sha256(ARCHIVE).hexdigest()
NAME = "/corpus.tar.gz"


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))


@pytest.fixture
def site() -> Iterator[Site]:
    with serving(Site({NAME: ARCHIVE})) as running:
        yield running


@pytest.fixture
def mirror() -> Iterator[Site]:
    with serving(Site({NAME: ARCHIVE}, version={"ETag": '"of the mirror"'})) as running:
        yield running


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "corpora" / "corpus.tar.gz"


@pytest.fixture
def get(path: Path) -> Callable[..., None]:
    """Download from sites or addresses, with `bytes` and `sha256` as given."""

    def run(*sources: Site | str, **known: Any) -> None:
        urls = [source if isinstance(source, str) else source.url + NAME for source in sources]
        # Not validated: the configuration refuses some of these addresses, and they must not be leaked even so.
        download(Download.model_construct(urls=urls, **known), path)

    return run


def files_of(path: Path) -> set[str]:
    """The names of the files that a download leaves, apart from its lock."""
    return {file.name for file in path.parent.iterdir() if file.suffix != ".lock"}


def part(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


def leave_part(get: Callable[..., None], site: Site, count: int = 100_000, **known: Any) -> None:
    """Leave a part of `count` bytes, as a killed download does."""
    site.answers = [breaking_off(count), status(404)]
    with pytest.raises(UnavailableError):
        get(site, **known)
    site.requests.clear()


# Complete downloads


def test_an_archive_is_downloaded_with_its_record(site: Site, path: Path, get: Callable[..., None]) -> None:
    get(f"{site.url}{NAME}?for=us", bytes=SIZE, sha256=SHA256)
    assert path.read_bytes() == ARCHIVE
    assert files_of(path) == {"corpus.tar.gz", "corpus.tar.gz.json"}
    assert read_json(path.with_name("corpus.tar.gz.json")) == {"url": site.url + NAME, "bytes": SIZE, "sha256": SHA256}
    assert downloaded(path)
    (request,) = site.requests
    assert request.target == f"{NAME}?for=us"
    assert request.headers["user-agent"] == "speechmill"
    assert request.headers["accept-encoding"] == "identity"


def test_bytes_declared_as_encoded_are_not_decoded(site: Site, path: Path, get: Callable[..., None]) -> None:
    # Some servers declare every .tar.gz to be a gzipped .tar.
    site.version |= {"Content-Encoding": "gzip"}
    get(site)
    assert path.read_bytes() == ARCHIVE


@pytest.mark.parametrize("record", [None, "", "[]", "{}", '{"bytes": 3}'])
def test_an_archive_without_record_is_not_downloaded(tmp_path: Path, record: str | None) -> None:
    archive = tmp_path / "corpus.tar.gz"
    archive.write_bytes(b"1234")
    if record is not None:
        (tmp_path / "corpus.tar.gz.json").write_text(record)
    assert not downloaded(archive)
    (tmp_path / "corpus.tar.gz.json").write_text('{"bytes": 4}')
    assert downloaded(archive)
    assert not downloaded(archive, size=5)
    assert not downloaded(archive, sha256=SHA256)
    archive.unlink()
    assert not downloaded(archive)


def test_parallel_jobs_download_an_archive_once(site: Site, path: Path) -> None:
    site.answers = [breaking_off(100_000)]
    jobs = [threading.Thread(target=download, args=(Download(urls=[site.url + NAME]), path)) for _ in range(3)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert site.ranges == [None, "bytes=100000-"]
    assert path.read_bytes() == ARCHIVE
    assert files_of(path) == {"corpus.tar.gz", "corpus.tar.gz.json"}


# Resumption


def test_a_broken_download_is_resumed_while_it_advances(
    site: Site, path: Path, get: Callable[..., None], pauses: list[float]
) -> None:
    site.answers = [breaking_off(20_000)] * 14
    get(site, bytes=SIZE, sha256=SHA256)
    assert path.read_bytes() == ARCHIVE
    assert site.ranges == [None, *(f"bytes={20_000 * i}-" for i in range(1, 15))]
    assert {request.headers.get("if-range") for request in site.requests[1:]} == {'"one"'}
    assert pauses == [1] * 14


@settings(max_examples=20)
@given(st.lists(st.integers(0, 120_000), max_size=5))
def test_bytes_are_the_same_wherever_it_breaks(tmp_path_factory: pytest.TempPathFactory, breaks: list[int]) -> None:
    path = tmp_path_factory.mktemp("breaks") / "corpus.tar.gz"
    with serving(Site({NAME: ARCHIVE}, answers=[breaking_off(sent) for sent in breaks])) as site:
        download(Download(urls=[site.url + NAME]), path)
    assert path.read_bytes() == ARCHIVE


def test_a_killed_download_is_resumed(site: Site, path: Path, get: Callable[..., None]) -> None:
    killed = threading.Event()

    def half(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(SIZE))
        handler.send_header("ETag", '"one"')
        handler.end_headers()
        handler.wfile.write(ARCHIVE[: SIZE // 2])
        killed.wait(60)
        handler.close_connection = True

    site.answers = [half]
    program = (
        "import sys; from pathlib import Path; from speechmill.config.datasets import Download;"
        "from speechmill.corpus.download import download; download(Download(urls=[sys.argv[1]]), Path(sys.argv[2]))"
    )
    job = subprocess.Popen(
        [sys.executable, "-c", program, site.url + NAME, str(path)],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT / "workflow")},
        stderr=subprocess.DEVNULL,
    )
    while job.poll() is None and not (part(path).exists() and part(path).stat().st_size > SIZE // 4):
        killed.wait(0.01)
    job.kill()
    assert job.wait() == -9
    killed.set()
    size = part(path).stat().st_size
    assert not path.exists()
    get(site, sha256=SHA256)
    assert path.read_bytes() == ARCHIVE
    assert site.ranges == [None, f"bytes={size}-"]


def test_a_complete_part_is_not_requested_again(site: Site, path: Path, get: Callable[..., None]) -> None:
    leave_part(get, site)
    part(path).write_bytes(ARCHIVE)
    get(site, sha256=SHA256)
    assert site.requests == []
    assert path.read_bytes() == ARCHIVE


def ignoring_ranges(handler: Handler) -> None:
    handler.give(200, ARCHIVE, handler.site.version)


def range_of(offset: int = 0, **headers: str) -> Answer:
    """A 206 that starts `offset` bytes after the requested one, with other headers than the right ones."""

    def answer(handler: Handler) -> None:
        start = int(handler.headers["Range"].removeprefix("bytes=").rstrip("-")) + offset
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        handler.give(206, ARCHIVE[start:], handler.site.version | content_range(start, SIZE) | named)

    return answer


@pytest.mark.parametrize(
    "answer",
    [
        range_of(-1),
        range_of(1),
        range_of(Content_Range=f"bytes 100000-{SIZE - 1}/{SIZE + 1}"),
        range_of(Content_Range=f"bytes 100000-{SIZE}/{SIZE}"),
        range_of(Content_Range=f"bytes 100000-{SIZE - 2}/{SIZE}"),
        range_of(Content_Range=f"bytes 100000-{SIZE - 1}/*"),
        range_of(Content_Range="all of it"),
        range_of(ETag='"two"'),
        status(206),
        status(416),
    ],
    ids=["earlier", "later", "total", "beyond", "length", "no-total", "words", "tag", "nothing", "416"],
)
def test_a_wrong_range_is_not_appended(site: Site, path: Path, get: Callable[..., None], answer: Answer) -> None:
    site.answers = [breaking_off(100_000), answer]
    get(site)
    assert site.ranges == [None, "bytes=100000-", None]
    assert path.read_bytes() == ARCHIVE


def test_a_server_without_ranges_starts_over(site: Site, path: Path, get: Callable[..., None]) -> None:
    site.answers = [breaking_off(100_000), ignoring_ranges]
    get(site)
    assert site.ranges == [None, "bytes=100000-"]
    assert path.read_bytes() == ARCHIVE


def test_restarts_without_progress_come_to_an_end(
    site: Site, path: Path, get: Callable[..., None], pauses: list[float]
) -> None:
    site.answer = lambda handler: handler.give(200, ARCHIVE, handler.site.version, 100_000)
    with pytest.raises(UnavailableError, match=r"the connection broke after 100000 bytes"):
        get(site)
    assert len(site.requests) == 7  # the first one made progress
    assert pauses == [1, 2, 4, 8, 16, 32]
    assert not path.exists()


@pytest.mark.parametrize("count", [100, 200_000, SIZE + 50])
def test_a_changed_file_is_downloaded_anew(site: Site, path: Path, get: Callable[..., None], count: int) -> None:
    leave_part(get, site)
    site.files[NAME] = (OTHER + OTHER)[:count]
    site.version = {"ETag": '"two"'}
    get(site)
    assert path.read_bytes() == (OTHER + OTHER)[:count]


@pytest.mark.parametrize(
    ("version", "requested"),
    [
        ({"Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}, "bytes=100000-"),
        ({"ETag": 'W/"one"', "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}, "bytes=100000-"),
        ({"ETag": 'W/"one"'}, None),
        ({}, None),
    ],
    ids=["time", "time-beside-weak-tag", "weak-tag", "nothing"],
)
def test_a_part_is_resumed_only_with_a_validator(
    site: Site, path: Path, get: Callable[..., None], version: dict[str, str], requested: str | None
) -> None:
    site.version = version
    leave_part(get, site, sha256=SHA256)
    get(site, sha256=SHA256)
    assert site.ranges == [requested]
    if requested:
        assert site.requests[0].headers.get("if-range") == version.get("Last-Modified")
    assert path.read_bytes() == ARCHIVE


def larger_part(part: Path) -> None:
    part.write_bytes(ARCHIVE + b"more")


def no_origin(part: Path) -> None:
    part.with_name(f"{part.name}.json").unlink()


def corrupt_origin(part: Path) -> None:
    part.with_name(f"{part.name}.json").write_text('{"url": ')


@pytest.mark.parametrize("damage", [larger_part, no_origin, corrupt_origin])
def test_a_part_of_unknown_origin_is_discarded(
    site: Site, path: Path, get: Callable[..., None], damage: Callable[[Path], None]
) -> None:
    leave_part(get, site, sha256=SHA256)
    damage(part(path))
    get(site, sha256=SHA256)
    assert site.ranges == [None]
    assert path.read_bytes() == ARCHIVE


def test_a_part_of_another_configured_size_is_discarded(site: Site, path: Path, get: Callable[..., None]) -> None:
    site.files[NAME] = OTHER[:-1]
    leave_part(get, site, bytes=SIZE - 1)
    site.files[NAME] = ARCHIVE
    get(site, bytes=SIZE)
    assert site.ranges == [None]
    assert path.read_bytes() == ARCHIVE


# Checks


def test_a_wrong_sha256_names_both_digests(
    site: Site, path: Path, get: Callable[..., None], pauses: list[float]
) -> None:
    site.files[NAME] = OTHER
    with pytest.raises(SpeechmillError) as failed:
        get(site, sha256=SHA256)
    assert not isinstance(failed.value, UnavailableError)
    found = hashlib.sha256(OTHER).hexdigest()
    assert f"{site.url}{NAME}: `sha256` is {found}, not {SHA256}" in str(failed.value)
    assert not part(path).exists()
    assert not path.exists()
    assert pauses == []


def test_the_digest_covers_bytes_from_before_a_kill(site: Site, path: Path, get: Callable[..., None]) -> None:
    leave_part(get, site, sha256=SHA256)
    part(path).write_bytes(OTHER[:100_000])
    with pytest.raises(SpeechmillError, match=f"not {SHA256}"):
        get(site, sha256=SHA256)
    assert site.ranges == ["bytes=100000-"]
    assert not part(path).exists()


def test_a_wrong_size_is_found_before_the_transfer(site: Site, path: Path, get: Callable[..., None]) -> None:
    site.answers = [breaking_off(0)]
    with pytest.raises(SpeechmillError, match=f"`bytes` is {SIZE}, not {SIZE + 1}") as failed:
        get(site, bytes=SIZE + 1)
    assert not isinstance(failed.value, UnavailableError)
    assert len(site.requests) == 1
    assert files_of(path) == set()


def test_a_longer_body_of_unstated_length_is_refused(site: Site, path: Path, get: Callable[..., None]) -> None:
    site.answer = lambda handler: handler.give_chunks(200, ARCHIVE + b"!")
    with pytest.raises(SpeechmillError, match=f"`bytes` is {SIZE + 1}, not {SIZE}") as failed:
        get(site, bytes=SIZE)
    assert not isinstance(failed.value, UnavailableError)
    assert not path.exists()


def test_a_shorter_body_of_unstated_length_is_refused(site: Site, path: Path, get: Callable[..., None]) -> None:
    site.answer = lambda handler: handler.give_chunks(200, ARCHIVE[:-1])
    with pytest.raises(UnavailableError, match=f"the connection broke after {SIZE - 1} bytes"):
        get(site, bytes=SIZE)
    assert not path.exists()


def test_a_short_rest_of_unstated_length_is_resumed(site: Site, path: Path, get: Callable[..., None]) -> None:
    rest = ARCHIVE[100_000:200_000]
    site.answers = [
        breaking_off(100_000),
        lambda handler: handler.give_chunks(206, rest, **content_range(100_000, SIZE), **site.version),
    ]
    get(site)
    assert site.ranges == [None, "bytes=100000-", "bytes=200000-"]
    assert path.read_bytes() == ARCHIVE


def test_a_connection_that_closes_early_is_resumed(site: Site, path: Path, get: Callable[..., None]) -> None:
    def until_closed(handler: Handler) -> None:
        handler.protocol_version = "HTTP/1.0"
        handler.send_response(200)
        handler.send_header("ETag", '"one"')
        handler.end_headers()
        handler.wfile.write(ARCHIVE[:100_000])
        handler.close_connection = True

    site.answers = [until_closed]
    get(site, bytes=SIZE)
    assert site.ranges == [None, "bytes=100000-"]
    assert path.read_bytes() == ARCHIVE


def test_a_web_page_is_not_taken_for_an_archive(site: Site, path: Path, get: Callable[..., None]) -> None:
    site.answer = lambda handler: handler.give(200, b"<html>", {"Content-Type": "text/html; charset=utf-8"})
    with pytest.raises(UnavailableError, match="returns a web page instead of the file"):
        get(site)
    assert files_of(path) == set()


PAGES = [
    b"<!DOCTYPE html>\n<html><body>Sign in to continue</body></html>",
    "\ufeff\n<html>\u043e\u0448\u0438\u0431\u043a\u0430</html>".encode(),
    "<html>\u043e\u0448\u0438\u0431\u043a\u0430</html>".encode("cp1251"),
    "<html>page</html>".encode("utf-16"),
    b'<?xml version="1.0"?><Error><Code>AccessDenied</Code><StringToSign>secret</StringToSign></Error>',
    b'{"error": "quota exceeded", "status": 403}',
    b"Too many users have viewed or downloaded this file recently.\r\n",
    "\u0442\u0435\u043a\u0441\u0442 ".encode() * 1000,
]


@pytest.mark.parametrize("encode", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("page", PAGES, ids=range(len(PAGES)))
def test_a_page_of_another_type_is_not_kept(
    site: Site, mirror: Site, path: Path, get: Callable[..., None], page: bytes, encode: Callable[[bytes], bytes]
) -> None:
    site.answer = lambda handler: handler.give(200, encode(page), {"Content-Type": "application/octet-stream"})
    with pytest.raises(UnavailableError, match=r"returns (a web page|text) instead of the file") as failed:
        get(site)
    assert "secret" not in str(failed.value)
    assert not path.exists()
    assert not part(path).exists()
    get(site, mirror)
    assert path.read_bytes() == ARCHIVE


# Retries and mirrors


@pytest.mark.parametrize("code", [408, 429, 500, 502, 503, 504])
def test_transient_statuses_are_retried(site: Site, path: Path, get: Callable[..., None], code: int) -> None:
    site.answers = [status(code)] * 3
    get(site)
    assert path.read_bytes() == ARCHIVE


@pytest.mark.parametrize(
    ("retry_after", "expected"),
    [
        ("7", [7]),
        ("86400", [300]),
        ("9" * 400, [300]),
        ("Fri, 01 Jan 2100 00:00:00 GMT", [300]),
        ("Mon, 01 Jan 2024 00:00:00 GMT", []),
    ],
    ids=["seconds", "a-day", "forever", "date", "past"],
)
def test_retry_after_is_respected_up_to_a_limit(
    site: Site, path: Path, get: Callable[..., None], pauses: list[float], retry_after: str, expected: list[float]
) -> None:
    site.answers = [status(503, Retry_After=retry_after)]
    get(site)
    assert pauses == expected
    assert path.read_bytes() == ARCHIVE


def test_pauses_grow_and_attempts_end(site: Site, path: Path, get: Callable[..., None], pauses: list[float]) -> None:
    site.answer = status(503)
    with pytest.raises(UnavailableError) as failed:
        get(site)
    assert f"{site.url}{NAME}: 503 Service Unavailable" in str(failed.value)
    assert f"put the file at {path} yourself" in str(failed.value)
    assert len(site.requests) == 6
    assert [2**i <= pause <= 2**i + 1 for i, pause in enumerate(pauses, 1)] == [True] * 4
    assert files_of(path) == set()


@pytest.mark.parametrize("code", [401, 403, 404, 410])
def test_permanent_statuses_lead_to_the_next_mirror(
    site: Site, mirror: Site, path: Path, get: Callable[..., None], pauses: list[float], code: int
) -> None:
    site.answer = status(code)
    get(site, mirror)
    assert len(site.requests) == len(mirror.requests) == 1
    assert pauses == []
    assert read_json(path.with_name("corpus.tar.gz.json"))["url"] == mirror.url + NAME


def closed_port() -> str:
    with serving(Site()) as gone:
        return gone.url + NAME


def test_a_mirror_that_is_down_is_skipped(mirror: Site, path: Path, get: Callable[..., None]) -> None:
    get(closed_port(), mirror)
    assert path.read_bytes() == ARCHIVE


def test_a_mirror_with_another_file_is_skipped(site: Site, mirror: Site, path: Path, get: Callable[..., None]) -> None:
    site.files[NAME] = OTHER
    get(site, mirror, sha256=SHA256)
    assert mirror.ranges == [None]
    assert path.read_bytes() == ARCHIVE


def test_every_failed_mirror_is_named_with_a_reason(site: Site, get: Callable[..., None]) -> None:
    site.answer = status(403)
    down = closed_port()
    with pytest.raises(UnavailableError) as failed:
        get(down, site, "ftp://127.0.0.1/corpus.tar.gz", "http://127.0.0.1:port/corpus.tar.gz")
    message = str(failed.value)
    assert f"{down}: NewConnectionError; {site.url}{NAME}: 403 Forbidden; " in message
    assert "ftp://127.0.0.1/corpus.tar.gz: InvalidSchema" in message
    assert "http://127.0.0.1:port/corpus.tar.gz: InvalidURL" in message


def test_a_mirror_does_not_resume_the_part_of_another(
    site: Site, mirror: Site, path: Path, get: Callable[..., None]
) -> None:
    site.answers = [breaking_off(100_000), status(404)]
    get(site, mirror, sha256=SHA256)
    assert mirror.ranges == [None]
    assert path.read_bytes() == ARCHIVE


# Redirects and proxies


def test_a_redirect_is_followed_and_resumed(site: Site, mirror: Site, path: Path, get: Callable[..., None]) -> None:
    site.answer = lambda handler: handler.give(302, headers={"Location": f"{mirror.url}{NAME}?X-Signature=SECRET"})
    mirror.answers = [breaking_off(100_000)]
    get(site)
    assert mirror.ranges == [None, "bytes=100000-"]
    assert path.read_bytes() == ARCHIVE
    assert read_json(path.with_name("corpus.tar.gz.json"))["url"] == site.url + NAME


def test_a_redirect_from_https_to_http_is_refused(
    site: Site, get: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def send(adapter: object, request: requests.PreparedRequest, **options: object) -> requests.Response:
        answer = requests.Response()
        answer.status_code, answer.url, answer.request = 302, str(request.url), request
        answer.headers["Location"] = f"{site.url}{NAME}?X-Signature=SECRET"
        answer.raw = BytesIO()
        return answer

    monkeypatch.setattr("requests.adapters.HTTPAdapter.send", send)
    with pytest.raises(UnavailableError) as failed:
        get("https://archive.invalid/corpus.tar.gz")
    assert "https://archive.invalid/corpus.tar.gz: redirects from https to http, which is refused" in str(failed.value)
    assert site.requests == []


def test_a_proxy_of_the_environment_is_used(
    site: Site, path: Path, get: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", site.url)
    get(f"http://archive.invalid{NAME}")
    assert [request.target for request in site.requests] == [f"http://archive.invalid{NAME}"]
    assert path.read_bytes() == ARCHIVE


def test_the_password_of_an_https_proxy_is_not_shown(
    site: Site, get: Callable[..., None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", site.url.replace("//", "//user:SECRET@"))
    site.answer = status(407)
    with pytest.raises(UnavailableError, match=r"https://archive\.invalid/corpus\.tar\.gz: ProxyError") as failed:
        get(f"https://archive.invalid{NAME}")
    assert {(request.method, request.target) for request in site.requests} == {("CONNECT", "archive.invalid:443")}
    assert "SECRET" not in str(failed.value) + "".join(capsys.readouterr())


# The disk


def test_an_archive_larger_than_the_disk_is_not_started(
    site: Site, path: Path, get: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=SIZE - 1))
    with pytest.raises(SpeechmillError, match=rf"{SIZE} bytes .* room for {SIZE - 1}") as failed:
        get(site)
    assert not isinstance(failed.value, UnavailableError)
    assert not part(path).exists()
    assert not path.exists()


def test_a_download_is_resumed_after_a_full_disk(site: Site, path: Path, get: Callable[..., None]) -> None:
    with largest_file(120_000), pytest.raises(SpeechmillError, match=r"cannot be written \(File too large\)") as failed:
        get(site)
    assert not isinstance(failed.value, UnavailableError)
    size = part(path).stat().st_size
    assert 0 < size <= 120_000
    get(site)
    assert site.ranges == [None, f"bytes={size}-"]
    assert path.read_bytes() == ARCHIVE


# Secrets

SECRET = "".join(("SEC", "RET"))  # in parts, because tracebacks quote this file


def hanging_up(handler: Handler) -> None:
    handler.close_connection = True


@pytest.mark.parametrize(
    ("answers", "known"),
    [
        ([], {}),
        ([breaking_off(100_000)], {}),
        ([breaking_off(100_000), *[status(503)] * 7], {}),
        ([hanging_up] * 7, {}),
        ([status(403)], {}),
        ([], {"bytes": 1}),
        ([], {"sha256": "0" * 64}),
    ],
    ids=["complete", "broken", "given-up", "hung-up", "refused", "bytes", "sha256"],
)
def test_queries_and_passwords_are_not_shown(
    site: Site,
    path: Path,
    get: Callable[..., None],
    answers: list[Answer],
    known: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    site.answers = list(answers)
    trace = traceback_of(lambda: get(with_secrets(site.url), **known))
    assert bool(trace) == (not path.exists())
    assert SECRET not in trace + caplog.text + "".join(capsys.readouterr())
    assert not any(SECRET.encode() in file.read_bytes() for file in path.parent.iterdir())
    # They were used.
    assert site.requests[0].target == f"{NAME}?X-Signature={SECRET}"
    assert site.requests[0].headers["authorization"].startswith("Basic ")


@pytest.mark.parametrize("host", ["closed port", "http://127.0.0.1:port", "http://[::1", "http://"])
def test_secrets_of_invalid_addresses_are_not_shown(
    get: Callable[..., None], host: str, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    host = closed_port().removesuffix(NAME) if host == "closed port" else host
    trace = traceback_of(lambda: get(with_secrets(host)))
    assert f"{host}{NAME}: " in trace
    assert SECRET not in trace + caplog.text + "".join(capsys.readouterr())


def with_secrets(host: str) -> str:
    return f"{host.replace('//', f'//user:{SECRET}@')}{NAME}?X-Signature={SECRET}#{SECRET}"


def traceback_of(run: Callable[[], None]) -> str:
    """Return the traceback of a failure, or an empty string."""
    try:
        run()
    except SpeechmillError as error:
        return "".join(traceback.format_exception(error))
    return ""
