"""A server on this machine that speaks what huggingface_hub 2.4 and datasets 5.2 ask of the Hub, as traced.

Large files are uploaded as in Git LFS; the Hub's own protocol for them, Xet, is not spoken: clients of it have to set
HF_HUB_DISABLE_XET.
"""

import base64
import fnmatch
import hashlib
import http.server
import json
import re
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

# Source: what the Hub puts into a new model's repository.
LARGE = [
    "*.7z", "*.arrow", "*.bin", "*.bz2", "*.ckpt", "*.ftz", "*.gz", "*.h5", "*.joblib", "*.lfs.*", "*.mlmodel",
    "*.model", "*.msgpack", "*.npy", "*.npz", "*.onnx", "*.ot", "*.parquet", "*.pb", "*.pickle", "*.pkl", "*.pt",
    "*.pth", "*.rar", "*.safetensors", "*.tar.*", "*.tar", "*.tflite", "*.tgz", "*.wasm", "*.xz", "*.zip", "*.zst",
    "*tfevents*",
]  # fmt: skip
GITATTRIBUTES = "".join(f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in LARGE).encode()

# Source: the Hub's documentation, repositories-licenses; those that a speech model may have.
LICENCES = [
    "apache-2.0", "mit", "openrail", "afl-3.0", "artistic-2.0", "bsl-1.0", "bsd", "bsd-2-clause", "bsd-3-clause",
    "cc", "cc0-1.0", "cc-by-2.0", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-2.0",
    "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0",
    "eupl-1.1", "eupl-1.2", "agpl-3.0", "gpl", "gpl-2.0", "gpl-3.0", "lgpl", "lgpl-2.1", "lgpl-3.0", "isc",
    "mpl-2.0", "odc-by", "odbl", "osl-3.0", "unlicense", "zlib", "pddl", "wtfpl", "unknown", "other",
]  # fmt: skip

SIGNATURE = "5ec2e7"
"""In the query of an address of storage: whoever has it may write there."""


@dataclass
class Repository:
    """A model or dataset: the files of each commit, and the commit that each branch or tag points at."""

    commits: dict[str, Mapping[str, bytes]]
    branches: dict[str, str]
    gated: bool = False
    """Whether its files are shown only to those who send a token."""
    private: bool = False
    """Whether it is there only for those who may write to it."""
    titles: list[str] = field(default_factory=list)
    """Of the commits that were made here."""

    def commit(self, revision: str) -> str | None:
        """The commit that `revision` means."""
        return self.branches.get(revision, revision if revision in self.commits else None)


@dataclass
class Hub:
    """What is served, where, and what was asked for."""

    repositories: dict[str, Repository]
    """The models by name; a dataset's name begins with `datasets/`."""
    writers: Mapping[str, Collection[str]] = field(default_factory=dict)
    """The tokens that are known, and the names under which each may write."""
    url: str = ""
    asked: list[str] = field(default_factory=list)
    tokens: set[str | None] = field(default_factory=set)
    """What was sent to say who asks."""
    stored: dict[str, bytes] = field(default_factory=dict)
    """The large files that were uploaded, by sha256."""
    cut: dict[str, int] = field(default_factory=dict)
    """Files by path, and the offset in each of a byte that never arrives: the connection breaks there.

    A large file that is uploaded goes by its sha256.
    """
    failing: bool = False
    """Whether every answer is that the server has a fault."""
    refused: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Requests, as they begin in `asked`, that are answered by a status and a message."""


@contextmanager
def served(hub: Hub) -> Iterator[Hub]:
    """Serve `hub` at `hub.url` on loopback until the block ends."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # An answer's head and body are two writes, between which the client's system would wait.
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            self._take()

        def do_HEAD(self) -> None:
            self._take()

        def do_POST(self) -> None:
            self._take()

        def do_PUT(self) -> None:
            self._take()

        def log_message(self, *args: object) -> None:
            """Keep quiet."""

        def _take(self) -> None:
            hub.asked.append(f"{self.command} {self.path}")
            hub.tokens.add(self.headers.get("Authorization"))
            path = urlsplit(self.path).path
            if self.command == "PUT":
                self._keep(path.rpartition("/")[2])
                return
            sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            refusal = next((hub.refused[each] for each in hub.refused if hub.asked[-1].startswith(each)), None)
            parts = [unquote(part) for part in path.strip("/").split("/")]
            if hub.failing:
                self._send(b"", "text/plain", 500)
            elif refusal is not None:
                self._say({"error": refusal[1]}, refusal[0])
            elif parts == ["api", "validate-yaml"]:
                self._look_at(json.loads(sent)["content"])
            elif parts == ["api", "repos", "create"]:
                self._create(json.loads(sent))
            elif ".git/info/lfs/objects/" in path:
                self._large("/".join(parts[:2]).removesuffix(".git"), parts[-1], json.loads(sent))
            else:
                self._repository(parts, sent)

        def _repository(self, parts: list[str], sent: bytes) -> None:
            api = parts[0] == "api"
            if api:
                parts = parts[1:] if parts[1] == "datasets" else parts[2:]
            length = 3 if parts[0] == "datasets" else 2
            name, what = "/".join(parts[:length]), parts[length:]
            repository = hub.repositories.get(name)
            if repository is None or (repository.private and not self._may_write(name)):
                self._refuse("RepoNotFound", "Repository not found")
            elif api and what[:1] in (["preupload"], ["commit"], ["branch"]):
                if self._is_let_in(name, "Forbidden: pass `create_pr=1` as a query parameter to create a Pull Request"):
                    self._change(name, repository, what[0], what[1], sent)
            elif repository.gated and "Authorization" not in self.headers and (not api or what == ["auth-check"]):
                self._refuse("GatedRepo", f"Access to {name} is restricted", 403)
            elif api:
                self._describe(name, repository, what or ["revision", "main"], sent.decode())
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
                answer = {
                    "id": name.removeprefix("datasets/"),
                    "sha": commit,
                    "siblings": listed,
                    "private": repository.private,
                }
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

        def _may_write(self, name: str) -> bool:
            token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
            return name.split("/")[0] in hub.writers.get(token, ())

        def _is_let_in(self, name: str, otherwise: str) -> bool:
            """Whether who asks may write to what has this name; if not, the answer is sent."""
            token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
            if token not in hub.writers:
                words = "Invalid credentials in Authorization header" if token else "Invalid username or password."
                self._say({"error": words}, 401, **{"X-Error-Message": words})
            elif not self._may_write(name):
                self._say({"error": otherwise}, 403, **{"X-Error-Message": otherwise})
            else:
                return True
            return False

        def _look_at(self, card: str) -> None:
            errors, warnings = _opinion(card)
            if self.headers.get("Accept") == "text/plain":
                lines = [f"- Error: {each}" for each in errors] + [f"- Warning: {each}" for each in warnings]
                self._send("\n".join(lines).encode(), "text/plain", 400 if errors else 200)
            else:
                told = {"errors": errors, "warnings": warnings}
                self._say(
                    {kind: [{"message": each} for each in those] for kind, those in told.items()},
                    400 if errors else 200,
                )

        def _create(self, wanted: dict[str, Any]) -> None:
            name = f"{wanted['organization']}/{wanted['name']}"
            words = f'You don\'t have the rights to create a model under the namespace "{wanted["organization"]}"'
            if not self._is_let_in(name, words):
                return
            about = {"url": f"{hub.url}/{name}", "name": name}
            if name in hub.repositories:
                self._say({"error": "You already created this model repo"} | about, 409)
                return
            first = hashlib.sha1(name.encode()).hexdigest()
            hub.repositories[name] = Repository(
                {first: {".gitattributes": GITATTRIBUTES}}, {"main": first}, private=wanted["visibility"] == "private"
            )
            self._say(about)

        def _large(self, name: str, what: str, sent: dict[str, Any]) -> None:
            if not self._is_let_in(name, "Authorization error."):
                return
            if what == "verify":
                if len(hub.stored.get(sent["oid"], b"")) == sent["size"]:
                    self._say({})
                else:
                    self._say({"error": "Object size does not match"}, 400)
                return
            answers = []
            for wanted in sent["objects"]:
                answer = {"oid": wanted["oid"], "size": wanted["size"]}
                if wanted["oid"] not in hub.stored:
                    answer["actions"] = {
                        "upload": {"href": f"{hub.url}/storage/{wanted['oid']}?X-Amz-Signature={SIGNATURE}"},
                        "verify": {"href": f"{hub.url}/{name}.git/info/lfs/objects/verify"},
                    }
                answers.append(answer)
            self._say({"transfer": "basic", "objects": answers}, kind="application/vnd.git-lfs+json")

        def _keep(self, oid: str) -> None:
            # Storage asks for the length beforehand, and takes one proof of who asks: the signature.
            length = self.headers.get("Content-Length")
            if length is None or "Authorization" in self.headers or SIGNATURE not in self.path:
                self._send(b"<Error/>", "application/xml", 411 if length is None else 400)
                self.close_connection = True
                return
            content = self.rfile.read(min(int(length), hub.cut.get(oid, int(length))))
            if oid in hub.cut:
                self.close_connection = True
            elif hashlib.sha256(content).hexdigest() == oid:
                hub.stored[oid] = content
                self._send(b"", "text/plain")
            else:
                self._send(b"<Error/>", "application/xml", 400)

        def _change(self, name: str, repository: Repository, what: str, revision: str, sent: bytes) -> None:
            if what == "branch":
                if revision in repository.branches:
                    self._say({"error": f"Reference already exists: refs/heads/{revision}"}, 409)
                else:
                    repository.branches[revision] = repository.branches["main"]
                    self._say({})
                return
            head = repository.branches.get(revision)
            if head is None:
                self._refuse("RevisionNotFound", f"Invalid rev id: {revision}")
                return
            files = dict(repository.commits[head])
            if what == "preupload":
                self._say({"files": [_mode(each, files) for each in json.loads(sent)["files"]]})
                return
            header, *operations = map(json.loads, sent.splitlines())
            fault = _apply(operations, files, hub.stored)
            if fault is not None:
                self._say({"error": fault}, 400)
                return
            commit = hashlib.sha1(f"{name} {revision} {head} {len(repository.titles)}".encode()).hexdigest()
            repository.commits[commit] = files
            repository.branches[revision] = commit
            repository.titles.append(header["value"]["summary"])
            url = f"{hub.url}/{name}/commit/{commit}"
            self._say({"success": True, "commitOid": commit, "commitUrl": url, "hookOutput": ""})

        def _say(self, answer: object, status: int = 200, kind: str = "application/json", **headers: str) -> None:
            self._send(json.dumps(answer).encode(), kind, status, **headers)

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
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
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


def _mode(wanted: dict[str, Any], files: Mapping[str, bytes]) -> dict[str, object]:
    """How a file is to be uploaded, and what is there of it: for a large one its sha256, else as git names it."""
    path = str(wanted["path"])
    large = (
        any(fnmatch.fnmatch(PurePosixPath(path).name, pattern) for pattern in LARGE)
        or b"\0" in base64.b64decode(wanted["sample"])
        or wanted["size"] > 10 << 20
    )
    answer: dict[str, object] = {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
    if path in files:
        content = files[path]
        git = hashlib.sha1(b"blob %d\0" % len(content) + content)
        answer["oid"] = (hashlib.sha256(content) if large else git).hexdigest()
    return answer


def _apply(operations: list[dict[str, Any]], files: dict[str, bytes], stored: Mapping[str, bytes]) -> str | None:
    """Change `files` as the operations of a commit say; what is wrong with them."""
    for operation in operations:
        key, value = operation["key"], operation["value"]
        if key == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif key == "lfsFile" and value["oid"] in stored:
            files[value["path"]] = stored[value["oid"]]
        elif key == "lfsFile":
            return f"LFS pointer pointed to a file that does not exist: {value['path']}"
        elif key == "deletedFile" and value["path"] in files:
            del files[value["path"]]
        else:
            return f"Cannot do {key} of {value}"
    errors, _ = _opinion(files["README.md"].decode()) if "README.md" in files else ([], [])
    return "; ".join(errors) or None


def _opinion(card: str) -> tuple[list[str], list[str]]:
    """What the Hub finds wrong with a model's card, and what it would like to be otherwise.

    Source: the Hub's documentation, model-cards, and messages that people have had of it.
    """
    block = re.match(r"---[ ]*\r?\n(.*?)\r?\n---", card, re.DOTALL)
    try:
        front = yaml.safe_load(block[1]) if block else None
    except yaml.YAMLError as error:
        return [f"Invalid YAML: {error}"], []
    if front is None:
        return [], ["empty or missing yaml metadata in repo card"]
    if not isinstance(front, dict):
        return ["YAML metadata must be an object"], []
    errors = []

    def need(value: object, kind: type | tuple[type, ...], name: str, words: str, required: bool = True) -> bool:
        if value is None and required:
            errors.append(f'"{name}" is required')
        elif value is not None and not isinstance(value, kind):
            errors.append(f'"{name}" must be {words}')
        return isinstance(value, kind)

    licences = front.get("license", [])
    for licence in licences if isinstance(licences, list) else [licences]:
        if licence not in LICENCES:
            errors.append(f'"license" must be one of [{", ".join(LICENCES)}]')
    for key in ("language", "datasets", "metrics", "tags", "base_model"):
        need(front.get(key), (str, list), key, "a string or an array", required=False)
    index = front.get("model-index", [])
    for i, model in enumerate(index if need(index, list, "model-index", "an array") else []):
        at = f"model-index[{i}]"
        need(model.get("name"), str, f"{at}.name", "a string")
        results = model.get("results")
        for j, result in enumerate(results if need(results, list, f"{at}.results", "an array") else []):
            here = f"{at}.results[{j}]"
            need(result.get("task", {}).get("type"), str, f"{here}.task.type", "a string")
            for key in ("name", "type", "config", "split", "revision"):
                value = result.get("dataset", {}).get(key)
                need(value, str, f"{here}.dataset.{key}", "a string", required=key in ("name", "type"))
            for k, metric in enumerate(result.get("metrics") or []):
                need(metric.get("type"), str, f"{here}.metrics[{k}].type", "a string")
                need(metric.get("value"), object, f"{here}.metrics[{k}].value", "a value")
    return errors, []
