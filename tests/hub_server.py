"""A local server with the endpoints of the Hugging Face Hub that huggingface_hub 2.4 and datasets 5.2 use.

Large files are uploaded as in Git LFS. The protocol Xet is not supported, so clients must set HF_HUB_DISABLE_XET.
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

# Source: the .gitattributes of a new model repository on the Hub.
LARGE = [
    "*.7z", "*.arrow", "*.bin", "*.bz2", "*.ckpt", "*.ftz", "*.gz", "*.h5", "*.joblib", "*.lfs.*", "*.mlmodel",
    "*.model", "*.msgpack", "*.npy", "*.npz", "*.onnx", "*.ot", "*.parquet", "*.pb", "*.pickle", "*.pkl", "*.pt",
    "*.pth", "*.rar", "*.safetensors", "*.tar.*", "*.tar", "*.tflite", "*.tgz", "*.wasm", "*.xz", "*.zip", "*.zst",
    "*tfevents*",
]  # fmt: skip
GITATTRIBUTES = "".join(f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in LARGE).encode()

# Source: repositories-licenses in the documentation of the Hub; the licences that are plausible for a speech model.
LICENCES = [
    "apache-2.0", "mit", "openrail", "afl-3.0", "artistic-2.0", "bsl-1.0", "bsd", "bsd-2-clause", "bsd-3-clause",
    "cc", "cc0-1.0", "cc-by-2.0", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-2.0",
    "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0",
    "eupl-1.1", "eupl-1.2", "agpl-3.0", "gpl", "gpl-2.0", "gpl-3.0", "lgpl", "lgpl-2.1", "lgpl-3.0", "isc",
    "mpl-2.0", "odc-by", "odbl", "osl-3.0", "unlicense", "zlib", "pddl", "wtfpl", "unknown", "other",
]  # fmt: skip

_ID = r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?"
# Sources of the messages: transformers#32212, autotrain-advanced#648 and huggingface_hub#3862.
REFUSED_UNLESS = {
    "language": (
        "[a-z]{2,3}|code|multilingual",
        "It must be an ISO 639-1, 639-2 or 639-3 code (two/three letters), or a special value like"
        ' "code", "multilingual". If you want to use BCP-47 identifiers, you can specify them in language_bcp47.',
    ),
    "base_model": (_ID, "Use a model id from https://hf.co/models."),
    "datasets": (_ID, "If possible, use a dataset id from https://hf.co/datasets."),
}
"""The form of the values of a card by key, and what the Hub says of any other value."""

SIGNATURE = "5ec2e7"
"""The signature in the query of a storage address, which grants write access."""


@dataclass
class Repository:
    """A model, dataset or Space: the files of each commit, and the commit of each branch and tag."""

    commits: dict[str, Mapping[str, bytes]]
    branches: dict[str, str]
    gated: bool = False
    """Whether access to its files requires a token."""
    private: bool = False
    """Whether it is visible only with write access."""
    titles: list[str] = field(default_factory=list)
    """The titles of the commits that clients created."""
    changed: dict[str, str] = field(default_factory=dict)
    """When a file last changed, by path; a day in ISO 8601."""
    variables: dict[str, str] = field(default_factory=dict)
    """The variables of a Space."""

    def commit(self, revision: str) -> str | None:
        """Return the commit that `revision` refers to."""
        return self.branches.get(revision, revision if revision in self.commits else None)


@dataclass
class Hub:
    """The repositories of a server, its address, its requests and the failures that it imitates."""

    repositories: dict[str, Repository]
    """Models by name, datasets by `datasets/{name}`, and Spaces by `spaces/{name}`."""
    writers: Mapping[str, Collection[str]] = field(default_factory=dict)
    """The valid tokens, and the namespaces to which each has write access."""
    url: str = ""
    requests: list[str] = field(default_factory=list)
    tokens: set[str | None] = field(default_factory=set)
    """The Authorization headers of all requests."""
    stored: dict[str, bytes] = field(default_factory=dict)
    """The uploaded large files by sha256."""
    cut: dict[str, int] = field(default_factory=dict)
    """The offset at which the connection breaks, by the path of a file, or by the sha256 of an uploaded large file."""
    failing: bool = False
    """Whether every answer is an internal server error."""
    refused: dict[str, tuple[int, str]] = field(default_factory=dict)
    """The status and message of the answer by the prefix of a request, as recorded in `requests`."""


@contextmanager
def served(hub: Hub) -> Iterator[Hub]:
    """Serve `hub` at `hub.url` on loopback until the block ends."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Head and body are two writes; with Nagle's algorithm the second would wait for an acknowledgement.
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            self._dispatch()

        def do_HEAD(self) -> None:
            self._dispatch()

        def do_POST(self) -> None:
            self._dispatch()

        def do_PUT(self) -> None:
            self._dispatch()

        def log_message(self, *args: object) -> None:
            """Log nothing."""

        def _dispatch(self) -> None:
            hub.requests.append(f"{self.command} {self.path}")
            hub.tokens.add(self.headers.get("Authorization"))
            path = urlsplit(self.path).path
            if self.command == "PUT":
                self._upload(path.rpartition("/")[2])
                return
            sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            refusal = next((hub.refused[each] for each in hub.refused if hub.requests[-1].startswith(each)), None)
            parts = [unquote(part) for part in path.strip("/").split("/")]
            if hub.failing:
                self._send(b"", "text/plain", 500)
            elif refusal is not None:
                self._send_json({"error": refusal[1]}, refusal[0])
            elif parts == ["api", "validate-yaml"]:
                self._validate_card(json.loads(sent)["content"])
            elif parts == ["api", "repos", "create"]:
                self._create(json.loads(sent))
            elif ".git/info/lfs/objects/" in path:
                self._large("/".join(parts[:2]).removesuffix(".git"), parts[-1], json.loads(sent))
            else:
                self._repository(parts, sent)

        def _repository(self, parts: list[str], sent: bytes) -> None:
            api = parts[0] == "api"
            if api:
                parts = parts[1:] if parts[1] in ("datasets", "spaces") else parts[2:]
            length = 3 if parts[0] in ("datasets", "spaces") else 2
            name, what = "/".join(parts[:length]), parts[length:]
            repository = hub.repositories.get(name)
            if repository is None or (repository.private and not self._can_write(name)):
                self._refuse("RepoNotFound", "Repository not found")
            elif api and what == ["variables"]:
                if self._require_write(name, "Forbidden"):
                    variable = json.loads(sent)
                    repository.variables[variable["key"]] = variable["value"]
                    self._send_json({variable["key"]: variable})
            elif api and what[:1] in (["preupload"], ["commit"], ["branch"]):
                if self._require_write(
                    name, "Forbidden: pass `create_pr=1` as a query parameter to create a Pull Request"
                ):
                    self._commit(name, repository, what[0], what[1], sent)
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
                    "id": name.removeprefix("datasets/").removeprefix("spaces/"),
                    "sha": commit,
                    "siblings": listed,
                    "private": repository.private,
                }
            elif kind == "paths-info":
                asked = parse_qs(sent)["paths"]
                answer = [entry for entry in _entries(files, "", deep=True) if entry["path"] in asked]
                for entry in answer if parse_qs(sent).get("expand") == ["true"] else []:
                    day = repository.changed.get(str(entry["path"]), "2020-01-01")
                    entry["lastCommit"] = {"id": commit, "title": "Change", "date": f"{day}T12:00:00.000Z"}
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
            requested = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
            start, stop, status = 0, len(content), 200
            if requested:
                start, stop, status = int(requested[1]), min(int(requested[2] or len(content)) + 1, len(content)), 206
                headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
            cut = hub.cut.get(file, -1)
            arriving = cut - start if start <= cut < stop else None
            self._send(content[start:stop], "application/octet-stream", status, arriving, **headers)

        def _can_write(self, name: str) -> bool:
            token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
            return name.split("/")[-2] in hub.writers.get(token, ())

        def _require_write(self, name: str, refusal: str) -> bool:
            """Return whether the token grants write access to `name`; if not, send the refusal."""
            token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
            if token not in hub.writers:
                message = "Invalid credentials in Authorization header" if token else "Invalid username or password."
                self._send_json({"error": message}, 401, **{"X-Error-Message": message})
            elif not self._can_write(name):
                self._send_json({"error": refusal}, 403, **{"X-Error-Message": refusal})
            else:
                return True
            return False

        def _validate_card(self, card: str) -> None:
            errors, warnings = _card_problems(card)
            if self.headers.get("Accept") == "text/plain":
                lines = [f"- Error: {each}" for each in errors] + [f"- Warning: {each}" for each in warnings]
                self._send("\n".join(lines).encode(), "text/plain", 400 if errors else 200)
            else:
                problems = {"errors": errors, "warnings": warnings}
                self._send_json(
                    {kind: [{"message": each} for each in found] for kind, found in problems.items()},
                    400 if errors else 200,
                )

        def _create(self, requested: dict[str, Any]) -> None:
            kind = "spaces/" if requested.get("type") == "space" else ""
            name = f"{kind}{requested['organization']}/{requested['name']}"
            message = f'You don\'t have the rights to create a model under the namespace "{requested["organization"]}"'
            if not self._require_write(name, message):
                return
            about = {"url": f"{hub.url}/{name}", "name": name}
            if name in hub.repositories:
                self._send_json({"error": "You already created this model repo"} | about, 409)
                return
            first = hashlib.sha1(name.encode()).hexdigest()
            hub.repositories[name] = Repository(
                {first: {".gitattributes": GITATTRIBUTES}},
                {"main": first},
                private=requested["visibility"] == "private",
            )
            self._send_json(about)

        def _large(self, name: str, what: str, sent: dict[str, Any]) -> None:
            if not self._require_write(name, "Authorization error."):
                return
            if what == "verify":
                if len(hub.stored.get(sent["oid"], b"")) == sent["size"]:
                    self._send_json({})
                else:
                    self._send_json({"error": "Object size does not match"}, 400)
                return
            answers = []
            for requested in sent["objects"]:
                answer = {"oid": requested["oid"], "size": requested["size"]}
                if requested["oid"] not in hub.stored:
                    answer["actions"] = {
                        "upload": {"href": f"{hub.url}/storage/{requested['oid']}?X-Amz-Signature={SIGNATURE}"},
                        "verify": {"href": f"{hub.url}/{name}.git/info/lfs/objects/verify"},
                    }
                answers.append(answer)
            self._send_json({"transfer": "basic", "objects": answers}, kind="application/vnd.git-lfs+json")

        def _upload(self, oid: str) -> None:
            # The storage requires the length, and the signature as the only authentication.
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

        def _commit(self, name: str, repository: Repository, what: str, revision: str, sent: bytes) -> None:
            if what == "branch":
                if revision in repository.branches:
                    self._send_json({"error": f"Reference already exists: refs/heads/{revision}"}, 409)
                else:
                    repository.branches[revision] = repository.branches["main"]
                    self._send_json({})
                return
            head = repository.branches.get(revision)
            if head is None:
                self._refuse("RevisionNotFound", f"Invalid rev id: {revision}")
                return
            files = dict(repository.commits[head])
            if what == "preupload":
                self._send_json({"files": [_mode(each, files) for each in json.loads(sent)["files"]]})
                return
            header, *operations = map(json.loads, sent.splitlines())
            problem = _apply(operations, files, hub.stored)
            if problem is not None:
                self._send_json({"error": problem}, 400)
                return
            commit = hashlib.sha1(f"{name} {revision} {head} {len(repository.titles)}".encode()).hexdigest()
            repository.commits[commit] = files
            repository.branches[revision] = commit
            repository.titles.append(header["value"]["summary"])
            url = f"{hub.url}/{name}/commit/{commit}"
            self._send_json({"success": True, "commitOid": commit, "commitUrl": url, "hookOutput": ""})

        def _send_json(self, answer: object, status: int = 200, kind: str = "application/json", **headers: str) -> None:
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
    """Return the files and folders below `folder` in the format of the Hub."""
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


def _mode(requested: dict[str, Any], files: Mapping[str, bytes]) -> dict[str, object]:
    """Return how to upload a file, and the sha256 (if large) or git hash of its existing version."""
    path = str(requested["path"])
    large = (
        any(fnmatch.fnmatch(PurePosixPath(path).name, pattern) for pattern in LARGE)
        or b"\0" in base64.b64decode(requested["sample"])
        or requested["size"] > 10 << 20
    )
    answer: dict[str, object] = {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
    if path in files:
        content = files[path]
        git = hashlib.sha1(b"blob %d\0" % len(content) + content)
        answer["oid"] = (hashlib.sha256(content) if large else git).hexdigest()
    return answer


def _apply(operations: list[dict[str, Any]], files: dict[str, bytes], stored: Mapping[str, bytes]) -> str | None:
    """Apply the operations of a commit to `files`; return an error message, or None."""
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
    errors, _ = _card_problems(files["README.md"].decode()) if "README.md" in files else ([], [])
    return "; ".join(errors) or None


def _card_problems(card: str) -> tuple[list[str], list[str]]:
    """Return the errors and warnings of the Hub for the card of a model.

    Source: model-cards in the documentation of the Hub, and error messages that users have reported.
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

    def need(value: object, kind: type | tuple[type, ...], name: str, message: str, required: bool = True) -> bool:
        if value is None and required:
            errors.append(f'"{name}" is required')
        elif value is not None and not isinstance(value, kind):
            errors.append(f'"{name}" must be {message}')
        return isinstance(value, kind)

    licences = front.get("license", [])
    for licence in licences if isinstance(licences, list) else [licences]:
        if licence not in LICENCES:
            errors.append(f'"license" must be one of [{", ".join(LICENCES)}]')
    for key in ("language", "datasets", "metrics", "tags", "base_model"):
        need(front.get(key), (str, list), key, "a string or an array", required=False)
    for key, (pattern, advice) in REFUSED_UNLESS.items():
        value = front.get(key)
        for i, each in enumerate(value if isinstance(value, list) else []):
            if not re.fullmatch(pattern, str(each)):
                errors.append(f'"{key}[{i}]" with value "{each}" is not valid. {advice}')
        if isinstance(value, str) and not re.fullmatch(pattern, value):
            errors.append(f'"{key}" with value "{value}" is not valid. {advice}')
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
