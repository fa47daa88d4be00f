"""A server on this machine that speaks what huggingface_hub 2.4 and datasets 5.2 ask of the Hub, as traced."""

import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass
class Repository:
    """A model or dataset: the files of each commit, and the commit that each branch or tag points at."""

    commits: Mapping[str, Mapping[str, bytes]]
    branches: Mapping[str, str]
    gated: bool = False
    """Whether its files are shown only to those who send a token."""

    def commit(self, revision: str) -> str | None:
        """The commit that `revision` means."""
        return self.branches.get(revision, revision if revision in self.commits else None)


@dataclass
class Hub:
    """What is served, where, and what was asked for."""

    repositories: Mapping[str, Repository]
    """The models by name; a dataset's name begins with `datasets/`."""
    url: str = ""
    asked: list[str] = field(default_factory=list)
    tokens: set[str | None] = field(default_factory=set)
    """What was sent to say who asks."""
    cut: dict[str, int] = field(default_factory=dict)
    """Files by path, and the offset in each of a byte that never arrives: the connection breaks there."""
    failing: bool = False
    """Whether every answer is that the server has a fault."""


@contextmanager
def served(hub: Hub) -> Iterator[Hub]:
    """Serve `hub` at `hub.url` on loopback until the block ends."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._take()

        def do_HEAD(self) -> None:
            self._take()

        def do_POST(self) -> None:
            self._take()

        def log_message(self, *args: object) -> None:
            """Keep quiet."""

        def _take(self) -> None:
            sent = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
            hub.asked.append(f"{self.command} {self.path}")
            hub.tokens.add(self.headers.get("Authorization"))
            if hub.failing:
                self._send(b"", "text/plain", 500)
                return
            parts = unquote(urlsplit(self.path).path).strip("/").split("/")
            api = parts[0] == "api"
            if api:
                parts = parts[1:] if parts[1] == "datasets" else parts[2:]
            length = 3 if parts[0] == "datasets" else 2
            name, what = "/".join(parts[:length]), parts[length:]
            repository = hub.repositories.get(name)
            if repository is None:
                self._refuse("RepoNotFound", "Repository not found")
            elif repository.gated and "Authorization" not in self.headers and (not api or what == ["auth-check"]):
                self._refuse("GatedRepo", f"Access to {name} is restricted", 403)
            elif api:
                self._describe(name, repository, what, sent)
            else:
                self._file(repository, what[1], "/".join(what[2:]))

        def _describe(self, name: str, repository: Repository, what: list[str], sent: str) -> None:
            if what == ["auth-check"]:
                self._send(b"{}", "application/json")
                return
            kind, revision, folder = what[0], what[1], "/".join(what[2:])
            commit = repository.commit(revision)
            if commit is None:
                self._refuse("RevisionNotFound", f"Invalid rev id: {revision}")
                return
            files = repository.commits[commit]
            answer: object
            if kind == "revision":
                listed = [{"rfilename": file} for file in files]
                answer = {"id": name.removeprefix("datasets/"), "sha": commit, "siblings": listed}
            elif kind == "paths-info":
                asked = parse_qs(sent)["paths"]
                answer = [entry for entry in _entries(files, "", deep=True) if entry["path"] in asked]
            else:
                deep = "recursive=true" in urlsplit(self.path).query.lower()
                answer = _entries(files, folder, deep)
                if folder and not answer:
                    self._refuse("EntryNotFound", f"{folder} does not exist")
                    return
            self._send(json.dumps(answer).encode(), "application/json")

        def _file(self, repository: Repository, revision: str, file: str) -> None:
            commit = repository.commit(revision)
            content = None if commit is None else repository.commits[commit].get(file)
            if commit is None or content is None:
                self._refuse("RevisionNotFound" if commit is None else "EntryNotFound", "Entry not found")
                return
            headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": commit}
            wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
            start, stop, status = 0, len(content), 200
            if wanted:
                start, stop, status = int(wanted[1]), min(int(wanted[2] or len(content)) + 1, len(content)), 206
                headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
            cut = hub.cut.get(file, -1)
            arriving = cut - start if start <= cut < stop else None
            self._send(content[start:stop], "application/octet-stream", status, arriving, **headers)

        def _refuse(self, code: str, message: str, status: int = 404) -> None:
            self._send(b"", "text/plain", status, **{"X-Error-Code": code, "X-Error-Message": message})

        def _send(
            self, content: bytes, kind: str, status: int = 200, arriving: int | None = None, **headers: str
        ) -> None:
            self.send_response(status)
            for key, value in {"Content-Type": kind, "Content-Length": str(len(content)), **headers}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content[:arriving])
                self.close_connection = arriving is not None

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _entries(files: Mapping[str, bytes], folder: str, deep: bool) -> list[dict[str, object]]:
    """The files and folders below `folder`, as the Hub lists them."""
    entries: dict[str, dict[str, object]] = {}
    for file, content in files.items():
        oid = hashlib.sha1(content).hexdigest()
        for path in (*(str(parent) for parent in reversed(PurePosixPath(file).parents[:-1])), file):
            within = path.removeprefix(f"{folder}/") if folder else path
            if (folder and within == path) or ("/" in within and not deep):
                continue
            kind = {"type": "file", "size": len(content)} if path == file else {"type": "directory", "size": 0}
            entries.setdefault(path, kind | {"path": path, "oid": oid})
    return list(entries.values())
