"""A server on this machine that gives files by ranges, and fails in the ways that servers of archives fail."""

import http.server
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

Answer = Callable[["Handler"], None]


@dataclass(frozen=True)
class Asked:
    """A request: its method, its target with the query, its headers with names in small letters."""

    method: str
    target: str
    headers: dict[str, str]

    @property
    def range(self) -> str | None:
        return self.headers.get("range")


@dataclass
class Site:
    """What is served, where, and what was asked for. The first requests get `answers` in turn, later ones `answer`."""

    files: dict[str, bytes] = field(default_factory=dict)
    version: dict[str, str] = field(default_factory=lambda: {"ETag": '"one"'})
    answers: list[Answer] = field(default_factory=list)
    answer: Answer = lambda handler: handler.give_file()
    asked: list[Asked] = field(default_factory=list)
    url: str = ""

    @property
    def ranges(self) -> list[str | None]:
        return [asked.range for asked in self.asked]


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers as its site says."""

    protocol_version = "HTTP/1.1"
    site: Site

    def handle_one(self) -> None:
        self.site.asked.append(Asked(self.command, self.path, {k.lower(): v for k, v in self.headers.items()}))
        answer = self.site.answers.pop(0) if self.site.answers else self.site.answer
        answer(self)

    do_GET = do_POST = do_CONNECT = handle_one  # noqa: N815 (the names that http.server looks for)

    def log_message(self, *args: object) -> None:
        """Keep quiet."""

    def give(
        self, status: int, body: bytes = b"", headers: dict[str, str] | None = None, sent: int | None = None
    ) -> None:
        """Answer; with `sent`, the connection breaks off after so many bytes of `body`."""
        self.send_response(status)
        for key, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body[:sent])
        self.close_connection = self.close_connection or sent is not None

    def give_file(self, sent: int | None = None) -> None:
        """Answer as RFC 9110 wants it, by range if that is asked for."""
        content = self.site.files.get(urlsplit(self.path).path)
        if content is None:
            self.give(404)
            return
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if not asked or self.headers.get("If-Range") not in (None, *self.site.version.values()):
            self.give(200, content, self.site.version, sent)
        elif (start := int(asked[1])) >= len(content):
            self.give(416, b"", {"Content-Range": f"bytes */{len(content)}"})
        else:
            self.give(206, content[start:], self.site.version | content_range(start, len(content)), sent)

    def give_chunks(self, status: int, body: bytes, **headers: str) -> None:
        """Answer without saying how long it is."""
        self.send_response(status)
        for key, value in {"Transfer-Encoding": "chunked", **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))


def content_range(start: int, total: int) -> dict[str, str]:
    """The header of a 206 that goes to the end."""
    return {"Content-Range": f"bytes {start}-{total - 1}/{total}"}


def breaking_off(sent: int) -> Answer:
    """The right answer, of which only `sent` bytes come."""
    return lambda handler: handler.give_file(sent)


def status(code: int, **headers: str) -> Answer:
    """An answer without a body; `Retry_After` is written for `Retry-After`."""
    return lambda handler: handler.give(code, headers={key.replace("_", "-"): value for key, value in headers.items()})


@contextmanager
def serving(site: Site) -> Iterator[Site]:
    """Serve `site` at `site.url` on loopback until the block ends."""
    handler: Any = type("SiteHandler", (Handler,), {"site": site})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    site.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
