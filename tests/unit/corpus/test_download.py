import hashlib
import logging
import random
import resource
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
from material import ROOT
from speechmill.config.datasets import Download
from speechmill.core.command import SpeechmillError
from speechmill.core.tables import read_json
from speechmill.corpus.download import download
from speechmill.corpus.download_record import downloaded
from speechmill.corpus.sources.corpus import UnavailableError

ARCHIVE = random.Random(1).randbytes(300_000)
OTHER = random.Random(2).randbytes(300_000)
SIZE = len(ARCHIVE)
SHA256 = hashlib.sha256(ARCHIVE).hexdigest()
NAME = "/corpus.tar.gz"


@pytest.fixture(autouse=True)
def _direct(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
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
    with serving(Site({NAME: ARCHIVE}, version={"ETag": '"as the mirror calls it"'})) as running:
        yield running


@pytest.fixture
def naps() -> list[float]:
    """The seconds of the pauses, none of which is made."""
    return []


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "corpora" / "corpus.tar.gz"


@pytest.fixture
def get(path: Path, naps: list[float]) -> Callable[..., None]:
    """Download from sites or addresses, with `bytes` and `sha256` as given."""

    def run(*places: Site | str, **known: Any) -> None:
        urls = [place + NAME if place.endswith("0") else place for place in map(address, places)]
        # Unchecked: a configuration refuses some of these addresses, and here they must do no harm all the same.
        download(Download.model_construct(urls=urls, **known), path, naps.append)

    return run


def address(place: Site | str) -> str:
    return place if isinstance(place, str) else place.url + NAME


def left(path: Path) -> set[str]:
    return {file.name for file in path.parent.iterdir()}


def part(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


def leave_part(get: Callable[..., None], site: Site, count: int = 100_000, **known: Any) -> None:
    """Leave a part of `count` bytes, as a killed download does."""
    site.answers = [breaking_off(count), *[status(503)] * 7]
    with pytest.raises(UnavailableError):
        get(site, **known)
    site.answers.clear()
    site.asked.clear()


# What comes


def test_an_archive_is_fetched_whole_with_a_sidecar_that_says_where_from(
    site: Site, path: Path, get: Callable[..., None]
) -> None:
    get(f"{site.url}{NAME}?for=us", bytes=SIZE, sha256=SHA256)
    assert path.read_bytes() == ARCHIVE
    assert left(path) == {"corpus.tar.gz", "corpus.tar.gz.json"}
    assert read_json(path.with_name("corpus.tar.gz.json")) == {"url": site.url + NAME, "bytes": SIZE, "sha256": SHA256}
    assert downloaded(path)
    (asked,) = site.asked
    assert asked.target == f"{NAME}?for=us"
    assert asked.headers["user-agent"] == "speechmill"
    assert asked.headers["accept-encoding"] == "identity"


def test_the_bytes_are_kept_as_they_lie_on_the_server_even_if_it_calls_them_encoded(
    site: Site, path: Path, get: Callable[..., None]
) -> None:
    # Servers are known to call every .tar.gz a gzipped .tar.
    site.version |= {"Content-Encoding": "gzip"}
    get(site)
    assert path.read_bytes() == ARCHIVE


@pytest.mark.parametrize("sidecar", [None, "", "[]", '{"bytes": 3}'])
def test_an_archive_without_a_sidecar_of_its_size_was_not_downloaded(tmp_path: Path, sidecar: str | None) -> None:
    archive = tmp_path / "corpus.tar.gz"
    archive.write_bytes(b"1234")
    if sidecar is not None:
        (tmp_path / "corpus.tar.gz.json").write_text(sidecar)
    assert not downloaded(archive)
    (tmp_path / "corpus.tar.gz.json").write_text('{"bytes": 4}')
    assert downloaded(archive)
    archive.unlink()
    assert not downloaded(archive)


def test_jobs_that_want_the_same_archive_fetch_it_once(site: Site, path: Path) -> None:
    site.answers = [breaking_off(100_000)]
    jobs = [
        threading.Thread(target=download, args=(Download(urls=[site.url + NAME]), path, lambda seconds: None))
        for _ in range(3)
    ]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert site.ranges == [None, "bytes=100000-"]
    assert path.read_bytes() == ARCHIVE
    assert left(path) == {"corpus.tar.gz", "corpus.tar.gz.json"}


# Going on


def test_a_download_that_breaks_off_goes_on_where_it_was_as_often_as_it_gets_further(
    site: Site, path: Path, get: Callable[..., None], naps: list[float]
) -> None:
    site.answers = [breaking_off(20_000)] * 14
    get(site, bytes=SIZE, sha256=SHA256)
    assert path.read_bytes() == ARCHIVE
    assert site.ranges == [None, *(f"bytes={20_000 * i}-" for i in range(1, 15))]
    assert {asked.headers.get("if-range") for asked in site.asked[1:]} == {'"one"'}
    assert len(naps) == 14
    assert max(naps) <= 1  # each got further, so that none is a second failure


@settings(max_examples=20)
@given(st.lists(st.integers(0, 120_000), max_size=5))
def test_wherever_it_breaks_off_the_bytes_are_the_same(
    tmp_path_factory: pytest.TempPathFactory, breaks: list[int]
) -> None:
    path = tmp_path_factory.mktemp("breaks") / "corpus.tar.gz"
    with serving(Site({NAME: ARCHIVE}, answers=[breaking_off(sent) for sent in breaks])) as site:
        download(Download(urls=[site.url + NAME]), path, lambda seconds: None)
    assert path.read_bytes() == ARCHIVE


def test_a_killed_download_is_gone_on_with_by_the_next(site: Site, path: Path, get: Callable[..., None]) -> None:
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
    there = part(path).stat().st_size
    assert not path.exists()
    get(site, sha256=SHA256)
    assert path.read_bytes() == ARCHIVE
    assert site.ranges == [None, f"bytes={there}-"]


def test_what_was_whole_when_it_was_killed_is_not_asked_for_again(
    site: Site, path: Path, get: Callable[..., None]
) -> None:
    leave_part(get, site)
    part(path).write_bytes(ARCHIVE)
    get(site, sha256=SHA256)
    assert site.asked == []
    assert path.read_bytes() == ARCHIVE


def ignoring(handler: Handler) -> None:
    handler.give(200, ARCHIVE, handler.site.version)


def range_of(offset: int = 0, **headers: str) -> Answer:
    """A 206 from `offset` bytes after what was asked for; other headers than the right ones."""

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
    ids=[
        "earlier", "later", "total", "beyond", "length", "no-total", "words", "tag", "nothing", "416"
    ],
)  # fmt: skip
def test_a_range_that_does_not_fit_is_not_appended_but_all_begun_anew(
    site: Site, path: Path, get: Callable[..., None], answer: Answer
) -> None:
    site.answers = [breaking_off(100_000), answer]
    get(site)
    assert site.ranges == [None, "bytes=100000-", None]
    assert path.read_bytes() == ARCHIVE


def test_a_server_that_knows_no_ranges_begins_anew(site: Site, path: Path, get: Callable[..., None]) -> None:
    site.answers = [breaking_off(100_000), ignoring]
    get(site)
    assert site.ranges == [None, "bytes=100000-"]
    assert path.read_bytes() == ARCHIVE


def test_a_server_that_always_begins_anew_and_breaks_off_is_given_up(
    site: Site, path: Path, get: Callable[..., None], naps: list[float]
) -> None:
    site.answer = lambda handler: handler.give(200, ARCHIVE, handler.site.version, 100_000)
    with pytest.raises(UnavailableError, match=r"broke off after 100000 bytes"):
        get(site)
    assert len(site.asked) == 7  # the first got further than nothing
    assert not path.exists()


@pytest.mark.parametrize("count", [100, 200_000, SIZE + 50])
def test_a_file_that_changed_between_two_tries_is_fetched_as_it_is_now(
    site: Site, path: Path, get: Callable[..., None], count: int
) -> None:
    site.answers = [breaking_off(100_000)]
    leave_part(get, site)
    site.files[NAME] = (OTHER + OTHER)[:count]
    site.version = {"ETag": '"two"'}
    get(site)
    assert path.read_bytes() == (OTHER + OTHER)[:count]


@pytest.mark.parametrize(
    ("version", "known", "asked"),
    [
        ({"Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}, {}, "bytes=100000-"),
        ({"ETag": 'W/"one"', "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}, {}, "bytes=100000-"),
        ({"ETag": 'W/"one"'}, {}, None),
        ({}, {}, None),
        ({}, {"bytes": SIZE}, None),
        ({}, {"sha256": SHA256}, "bytes=100000-"),
    ],
    ids=["time", "time-beside-weak-tag", "weak-tag", "nothing", "nothing-but-size", "nothing-but-digest"],
)
def test_a_part_is_gone_on_with_only_if_something_says_that_it_is_of_the_same_file(
    site: Site, path: Path, get: Callable[..., None], version: dict[str, str], known: dict[str, Any], asked: str | None
) -> None:
    site.version = version
    leave_part(get, site, **known)
    get(site, **known)
    assert site.ranges == [asked]
    if asked:
        assert site.asked[0].headers.get("if-range") == version.get("Last-Modified")
    assert path.read_bytes() == ARCHIVE


def another_size(part: Path, get: Callable[..., None]) -> None:
    part.write_bytes(ARCHIVE + b"more")


def no_memory(part: Path, get: Callable[..., None]) -> None:
    part.with_name(f"{part.name}.json").unlink()


def garbled_memory(part: Path, get: Callable[..., None]) -> None:
    part.with_name(f"{part.name}.json").write_text('{"address": ')


@pytest.mark.parametrize("spoil", [another_size, no_memory, garbled_memory])
def test_a_part_of_which_is_not_known_what_it_is_is_thrown_away(
    site: Site, path: Path, get: Callable[..., None], spoil: Callable[[Path, Any], None]
) -> None:
    leave_part(get, site, sha256=SHA256)
    spoil(part(path), get)
    get(site, sha256=SHA256)
    assert site.ranges == [None]
    assert path.read_bytes() == ARCHIVE


@pytest.mark.parametrize("changed", [{"bytes": SIZE, "sha256": SHA256}, {"bytes": SIZE}])
def test_a_part_of_what_the_configuration_asked_for_before_is_thrown_away(
    site: Site, path: Path, get: Callable[..., None], changed: dict[str, Any]
) -> None:
    site.files[NAME] = OTHER[:-1]
    leave_part(get, site, sha256=hashlib.sha256(OTHER[:-1]).hexdigest())
    site.files[NAME] = ARCHIVE
    get(site, **changed)
    assert site.ranges == [None]
    assert path.read_bytes() == ARCHIVE


# Checks


def test_a_wrong_sha256_names_both_and_leaves_nothing_that_would_be_gone_on_with(
    site: Site, path: Path, get: Callable[..., None], naps: list[float]
) -> None:
    site.files[NAME] = OTHER
    with pytest.raises(SpeechmillError) as failed:
        get(site, sha256=SHA256)
    assert not isinstance(failed.value, UnavailableError)
    found = hashlib.sha256(OTHER).hexdigest()
    assert f"{site.url}{NAME}: the sha256 is {found}, not {SHA256}" in str(failed.value)
    assert left(path) == set()
    assert naps == []


def test_the_digest_covers_what_was_there_before_a_kill(site: Site, path: Path, get: Callable[..., None]) -> None:
    leave_part(get, site, sha256=SHA256)
    part(path).write_bytes(OTHER[:100_000])
    with pytest.raises(SpeechmillError, match=f"not {SHA256}"):
        get(site, sha256=SHA256)
    assert site.ranges == ["bytes=100000-"]
    assert left(path) == set()


def test_a_wrong_size_is_seen_before_the_body_comes(site: Site, path: Path, get: Callable[..., None]) -> None:
    site.answers = [breaking_off(0)]
    with pytest.raises(SpeechmillError, match=f"has {SIZE} bytes, not {SIZE + 1}") as failed:
        get(site, bytes=SIZE + 1)
    assert not isinstance(failed.value, UnavailableError)
    assert len(site.asked) == 1
    assert left(path) == set()


@pytest.mark.parametrize(
    ("body", "said"),
    [(ARCHIVE + b"!", f"sends more than {SIZE} bytes"), (ARCHIVE[:-1], f"the size is {SIZE - 1}, not {SIZE}")],
    ids=["too-much", "too-little"],
)
def test_a_body_without_a_stated_length_is_measured(
    site: Site, path: Path, get: Callable[..., None], body: bytes, said: str
) -> None:
    site.answer = lambda handler: handler.give_chunks(200, body)
    with pytest.raises(SpeechmillError, match=said) as failed:
        get(site, bytes=SIZE)
    assert not isinstance(failed.value, UnavailableError)
    assert left(path) == set()


def test_a_rest_without_a_stated_length_that_is_too_short_is_not_the_whole_file(
    site: Site, path: Path, get: Callable[..., None]
) -> None:
    rest = ARCHIVE[100_000:200_000]
    site.answers = [
        breaking_off(100_000),
        lambda handler: handler.give_chunks(206, rest, **content_range(100_000, SIZE), **site.version),
    ]
    get(site)
    assert site.ranges == [None, "bytes=100000-", "bytes=200000-"]
    assert path.read_bytes() == ARCHIVE


def until_closed(body: bytes) -> Answer:
    def answer(handler: Handler) -> None:
        handler.protocol_version = "HTTP/1.0"
        handler.send_response(200)
        handler.send_header("ETag", '"one"')
        handler.end_headers()
        handler.wfile.write(body)
        handler.close_connection = True

    return answer


def test_a_connection_that_closes_early_is_no_success(site: Site, path: Path, get: Callable[..., None]) -> None:
    site.answers = [until_closed(ARCHIVE[:100_000])]
    get(site, bytes=SIZE)
    assert site.ranges == [None, "bytes=100000-"]
    assert path.read_bytes() == ARCHIVE


def test_a_file_whose_end_could_not_be_told_is_refused(site: Site, path: Path, get: Callable[..., None]) -> None:
    site.answer = until_closed(ARCHIVE)
    with pytest.raises(UnavailableError, match=r"give `download\.bytes`"):
        get(site)
    get(site, sha256=SHA256)
    assert path.read_bytes() == ARCHIVE


def test_a_page_for_people_is_not_taken_for_an_archive(site: Site, path: Path, get: Callable[..., None]) -> None:
    site.answer = lambda handler: handler.give(200, b"<html>", {"Content-Type": "text/html; charset=utf-8"})
    with pytest.raises(UnavailableError, match="answers with a page for people"):
        get(site)
    assert left(path) == set()


# Tries and mirrors


@pytest.mark.parametrize("code", [408, 429, 500, 502, 503, 504])
def test_what_may_pass_is_tried_again(site: Site, path: Path, get: Callable[..., None], code: int) -> None:
    site.answers = [status(code)] * 3
    get(site)
    assert path.read_bytes() == ARCHIVE


@pytest.mark.parametrize(
    ("asked", "least", "most"),
    [
        ("7", 7, 7),
        ("86400", 300, 300),
        ("9" * 400, 300, 300),
        ("soon", 0, 2),
        ("-5", 0, 2),
        ("Fri, 01 Jan 2100 00:00:00 GMT", 300, 300),
        ("Mon, 01 Jan 2024 00:00:00 GMT", 0, 2),
    ],
    ids=["seconds", "a-day", "for-ever", "words", "negative", "date", "past"],
)
def test_a_server_that_says_when_to_come_again_is_heard_up_to_a_limit(
    site: Site, path: Path, get: Callable[..., None], naps: list[float], asked: str, least: float, most: float
) -> None:
    site.answers = [status(503, Retry_After=asked)]
    get(site)
    assert least <= naps[0] <= most
    assert path.read_bytes() == ARCHIVE


def test_pauses_grow_and_the_tries_end(site: Site, path: Path, get: Callable[..., None], naps: list[float]) -> None:
    site.answer = status(503)
    with pytest.raises(UnavailableError) as failed:
        get(site)
    assert f"{site.url}{NAME}: 503 Service Unavailable" in str(failed.value)
    assert f"put the archive at {path} by hand" in str(failed.value)
    assert len(site.asked) == 6
    assert [2**i / 2 <= nap <= 2**i for i, nap in enumerate(naps, 1)] == [True] * 5
    assert left(path) == set()


@pytest.mark.parametrize("code", [401, 403, 404, 410])
def test_what_will_not_pass_is_not_tried_again_but_the_next_address_is(
    site: Site, mirror: Site, path: Path, get: Callable[..., None], naps: list[float], code: int
) -> None:
    site.answer = status(code)
    get(site, mirror)
    assert len(site.asked) == len(mirror.asked) == 1
    assert naps == []
    assert read_json(path.with_name("corpus.tar.gz.json"))["url"] == mirror.url + NAME


def closed_port() -> str:
    with serving(Site()) as gone:
        return gone.url + NAME


def test_a_mirror_that_is_down_is_passed_over(mirror: Site, path: Path, get: Callable[..., None]) -> None:
    get(closed_port(), mirror)
    assert path.read_bytes() == ARCHIVE


def test_a_mirror_with_another_file_is_passed_over(
    site: Site, mirror: Site, path: Path, get: Callable[..., None]
) -> None:
    site.files[NAME] = OTHER
    get(site, mirror, sha256=SHA256)
    assert mirror.ranges == [None]
    assert path.read_bytes() == ARCHIVE


def test_where_all_fail_each_is_named_with_its_reason(site: Site, path: Path, get: Callable[..., None]) -> None:
    site.answer = status(403)
    down = closed_port()
    with pytest.raises(UnavailableError) as failed:
        get(down, site, "ftp://127.0.0.1/corpus.tar.gz", "http://127.0.0.1:port/corpus.tar.gz")
    message = str(failed.value)
    assert f"{down}: Connection refused; {site.url}{NAME}: 403 Forbidden; " in message
    assert "ftp://127.0.0.1/corpus.tar.gz: cannot be asked for (InvalidSchema)" in message
    assert "http://127.0.0.1:port/corpus.tar.gz: cannot be asked for (InvalidURL)" in message


@pytest.mark.parametrize(("known", "asked"), [({"sha256": SHA256}, "bytes=100000-"), ({"bytes": SIZE}, None)])
def test_a_mirror_goes_on_with_what_another_began_only_where_the_digest_is_known(
    site: Site, mirror: Site, path: Path, get: Callable[..., None], known: dict[str, Any], asked: str | None
) -> None:
    site.answers = [breaking_off(100_000), status(404)]
    get(site, mirror, **known)
    assert mirror.ranges == [asked]
    assert "if-range" not in mirror.asked[0].headers
    assert path.read_bytes() == ARCHIVE


def test_a_part_of_two_mirrors_is_not_gone_on_with_by_the_version_of_either(
    site: Site, mirror: Site, path: Path, get: Callable[..., None]
) -> None:
    mirror.files[NAME] = OTHER
    leave_part(get, site, sha256=SHA256)
    leave_part(get, mirror, sha256=SHA256)
    get(site)
    assert site.ranges == [None]
    assert path.read_bytes() == ARCHIVE


# Redirects and proxies


def test_a_redirect_is_followed_and_gone_on_with(
    site: Site, mirror: Site, path: Path, get: Callable[..., None]
) -> None:
    site.answer = lambda handler: handler.give(302, headers={"Location": f"{mirror.url}{NAME}?X-Signature=SECRET"})
    mirror.answers = [breaking_off(100_000)]
    get(site)
    assert mirror.ranges == [None, "bytes=100000-"]
    assert path.read_bytes() == ARCHIVE
    assert read_json(path.with_name("corpus.tar.gz.json"))["url"] == site.url + NAME


def test_a_redirect_out_of_encryption_is_refused(
    site: Site, path: Path, get: Callable[..., None], monkeypatch: pytest.MonkeyPatch
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
    assert site.asked == []


def test_a_proxy_of_the_environment_is_used(
    site: Site, path: Path, get: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", site.url)
    get(f"http://archive.invalid{NAME}")
    assert [asked.target for asked in site.asked] == [f"http://archive.invalid{NAME}"]
    assert path.read_bytes() == ARCHIVE


def test_a_proxy_for_encrypted_addresses_is_used_and_its_password_kept(
    site: Site, get: Callable[..., None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", site.url.replace("//", "//user:SECRET@"))
    site.answer = status(407)
    with pytest.raises(UnavailableError, match=r"https://archive\.invalid/corpus\.tar\.gz: ProxyError") as failed:
        get(f"https://archive.invalid{NAME}")
    assert {(asked.method, asked.target) for asked in site.asked} == {("CONNECT", "archive.invalid:443")}
    assert "SECRET" not in str(failed.value) + "".join(capsys.readouterr())


# The disk


def test_an_archive_that_does_not_fit_on_the_disk_is_not_begun(
    site: Site, path: Path, get: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda place: SimpleNamespace(free=SIZE - 1))
    with pytest.raises(SpeechmillError, match=rf"{SIZE} bytes .* room for {SIZE - 1}") as failed:
        get(site)
    assert not isinstance(failed.value, UnavailableError)
    assert left(path) == set()


def test_what_was_fetched_when_the_disk_was_full_is_gone_on_with(
    site: Site, path: Path, get: Callable[..., None]
) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Stands for a full disk: the system refuses to write on.
    resource.setrlimit(resource.RLIMIT_FSIZE, (120_000, hard))
    try:
        with pytest.raises(SpeechmillError, match=r"cannot be written \(File too large\)") as failed:
            get(site)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert not isinstance(failed.value, UnavailableError)
    there = part(path).stat().st_size
    assert 0 < there <= 120_000
    get(site)
    assert site.ranges == [None, f"bytes={there}-"]
    assert path.read_bytes() == ARCHIVE


# Secrets

SECRET = "".join(("SEC", "RET"))  # in parts, as tracebacks quote this file


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
    ids=["well", "broken", "given-up", "hung-up", "refused", "size", "sha256"],
)
def test_no_query_and_no_password_gets_out(
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
    said = failure_of(lambda: get(secretly(site.url), **known))
    assert bool(said) == (not path.exists())
    assert SECRET not in said + caplog.text + "".join(capsys.readouterr())
    assert not any(SECRET.encode() in file.read_bytes() for file in path.parent.iterdir())
    # It was used.
    assert site.asked[0].target == f"{NAME}?X-Signature={SECRET}"
    assert site.asked[0].headers["authorization"].startswith("Basic ")


@pytest.mark.parametrize("host", ["closed port", "http://127.0.0.1:port", "http://[::1", "http://"])
def test_no_secret_of_an_address_that_leads_nowhere_gets_out(
    get: Callable[..., None], host: str, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    host = closed_port().removesuffix(NAME) if host == "closed port" else host
    said = failure_of(lambda: get(secretly(host)))
    assert f"{host}{NAME}: " in said
    assert SECRET not in said + caplog.text + "".join(capsys.readouterr())


def secretly(host: str) -> str:
    return f"{host.replace('//', f'//user:{SECRET}@')}{NAME}?X-Signature={SECRET}#{SECRET}"


def failure_of(run: Callable[[], None]) -> str:
    """All that a traceback would say, or nothing."""
    try:
        run()
    except SpeechmillError as error:
        return "".join(traceback.format_exception(error))
    return ""
