"""A local HTTP server of files that supports ranges and imitates the failures of archive servers."""

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
class Request:
    """A request: its method, its target with the query, and its headers with lower-case names."""

    method: str
    target: str
    headers: dict[str, str]

    @property
    def range(self) -> str | None:
        return self.headers.get("range")


@dataclass
class Site:
    """The files of a server, its address and its requests; the first get `answers` in turn, later ones `answer`."""

    files: dict[str, bytes] = field(default_factory=dict)
    version: dict[str, str] = field(default_factory=lambda: {"ETag": '"one"'})
    answers: list[Answer] = field(default_factory=list)
    answer: Answer = lambda handler: handler.give_file()
    requests: list[Request] = field(default_factory=list)
    url: str = ""

    @property
    def ranges(self) -> list[str | None]:
        return [request.range for request in self.requests]


class _Server(http.server.ThreadingHTTPServer):
    """A server that does not report clients that close the connection."""

    def handle_error(self, *_: object) -> None:
        """Report nothing."""


class Handler(http.server.BaseHTTPRequestHandler):
    """The handler of requests, which answers as its site defines."""

    protocol_version = "HTTP/1.1"
    site: Site

    def handle_one(self) -> None:
        self.site.requests.append(Request(self.command, self.path, {k.lower(): v for k, v in self.headers.items()}))
        answer = self.site.answers.pop(0) if self.site.answers else self.site.answer
        answer(self)

    do_GET = do_POST = do_CONNECT = handle_one  # noqa: N815  # names that http.server requires

    def log_message(self, *args: object) -> None:
        """Log nothing."""

    def give(
        self, status: int, body: bytes = b"", headers: dict[str, str] | None = None, sent: int | None = None
    ) -> None:
        """Send an answer; with `sent`, the connection breaks after this number of bytes of `body`."""
        self.send_response(status)
        for key, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body[:sent])
        self.close_connection = self.close_connection or sent is not None

    def give_file(self, sent: int | None = None) -> None:
        """Answer as in RFC 9110, with a range if one is requested."""
        content = self.site.files.get(urlsplit(self.path).path)
        if content is None:
            self.give(404)
            return
        requested = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if not requested or self.headers.get("If-Range") not in (None, *self.site.version.values()):
            self.give(200, content, self.site.version, sent)
        elif (start := int(requested[1])) >= len(content):
            self.give(416, b"", {"Content-Range": f"bytes */{len(content)}"})
        else:
            self.give(206, content[start:], self.site.version | content_range(start, len(content)), sent)

    def give_chunks(self, status: int, body: bytes, **headers: str) -> None:
        """Send a chunked answer, whose length is not stated."""
        self.send_response(status)
        for key, value in {"Transfer-Encoding": "chunked", **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))


def content_range(start: int, total: int) -> dict[str, str]:
    """Return the header of a 206 that extends to the end of the file."""
    return {"Content-Range": f"bytes {start}-{total - 1}/{total}"}


def breaking_off(sent: int) -> Answer:
    """Return an answer with the file whose connection breaks after `sent` bytes."""
    return lambda handler: handler.give_file(sent)


def status(code: int, **headers: str) -> Answer:
    """Return an answer without a body; headers are written with `_`, as in `Retry_After`."""
    return lambda handler: handler.give(code, headers={key.replace("_", "-"): value for key, value in headers.items()})


@contextmanager
def serving(site: Site) -> Iterator[Site]:
    """Serve `site` at `site.url` on loopback until the block ends."""
    handler: Any = type("SiteHandler", (Handler,), {"site": site})
    server = _Server(("127.0.0.1", 0), handler)
    site.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
