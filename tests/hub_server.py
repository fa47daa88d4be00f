"""A server on this machine that speaks what huggingface_hub 2.4 asks of the Hugging Face Hub, as traced."""

import hashlib
import http.server
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit


@dataclass
class Repository:
    """A model: the files of each commit, and the commit that each branch or tag points at."""

    commits: Mapping[str, Mapping[str, bytes]]
    branches: Mapping[str, str]

    def commit(self, revision: str) -> str | None:
        """The commit that `revision` means."""
        return self.branches.get(revision, revision if revision in self.commits else None)


@dataclass
class Hub:
    """What is served, where, and what was asked for."""

    repositories: Mapping[str, Repository]
    url: str = ""
    asked: list[str] = field(default_factory=list)


@contextmanager
def served(hub: Hub) -> Iterator[Hub]:
    """Serve `hub` at `hub.url` on loopback until the block ends."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            hub.asked.append(f"{self.command} {self.path}")
            self._answer(unquote(urlsplit(self.path).path).strip("/").split("/"))

        do_HEAD = do_GET  # noqa: N815 (the names that http.server looks for)

        def log_message(self, *args: object) -> None:
            """Keep quiet."""

        def _answer(self, parts: list[str]) -> None:
            api = parts[:2] == ["api", "models"]
            name = "/".join(parts[2:4] if api else parts[:2])
            repository = hub.repositories.get(name)
            if repository is None:
                self._refuse("RepoNotFound", "Repository not found")
            elif api:
                self._describe(name, repository, parts[4:])
            else:
                self._file(repository, parts[3], "/".join(parts[4:]))

        def _describe(self, name: str, repository: Repository, what: list[str]) -> None:
            kind, revision = what[0], what[1]
            commit = repository.commit(revision)
            if commit is None:
                self._refuse("RevisionNotFound", f"Invalid rev id: {revision}")
                return
            files = repository.commits[commit]
            if kind == "revision":
                listed = [{"rfilename": file} for file in files]
                self._send(json.dumps({"id": name, "sha": commit, "siblings": listed}).encode(), "application/json")
            else:
                tree = [
                    {"type": "file", "path": file, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                    for file, content in files.items()
                ]
                self._send(json.dumps(tree).encode(), "application/json")

        def _file(self, repository: Repository, revision: str, file: str) -> None:
            commit = repository.commit(revision)
            content = None if commit is None else repository.commits[commit].get(file)
            if commit is None or content is None:
                self._refuse("RevisionNotFound" if commit is None else "EntryNotFound", "Entry not found")
            else:
                tag = hashlib.sha1(content).hexdigest()
                self._send(content, "application/octet-stream", ETag=f'"{tag}"', **{"X-Repo-Commit": commit})

        def _refuse(self, code: str, message: str) -> None:
            self._send(b"", "text/plain", 404, **{"X-Error-Code": code, "X-Error-Message": message})

        def _send(self, content: bytes, kind: str, status: int = 200, **headers: str) -> None:
            self.send_response(status)
            for key, value in {"Content-Type": kind, "Content-Length": str(len(content)), **headers}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

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
