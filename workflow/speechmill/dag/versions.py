"""versions: keep the versions of the stages in step with their code.

`workflow/stage_versions.yaml` holds, for every stage, its version, the release `since` which it has that version, and a
fingerprint of its code. Snakemake sees the version alone. A test fails when the code of a stage does not have the
recorded fingerprint; then run one of

    make raise-version STAGES="finetune plan"   results may differ: these stages run again for every user
    make record-code                            results are the same: nothing runs again

The fingerprint covers the stage's module, every module of speechmill that it imports, directly or through others, and
the files listed for it. Comments, docstrings and blank lines do not count, and it is the same under every version of
Python.
"""

import argparse
import ast
import hashlib
import io
import tokenize
import tomllib
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from speechmill.core.command import SpeechmillError, run_command
from speechmill.core.files import write_text
from speechmill.core.versions import VERSIONS

LIBRARY = Path(__file__).parents[1]


@cache
def significant_code(source: str) -> str:
    """Return Python source without comments, docstrings, blank lines and trailing blanks.

    It is cut out of the text, not printed from a syntax tree, whose form differs between versions of Python.
    """
    lines = [line.encode() for line in source.splitlines()]
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1].decode()[:column].encode()
    for node in ast.walk(ast.parse(source)):
        # A string that is a statement documents what is above it, and does nothing.
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            first, last = node.lineno - 1, (node.end_lineno or node.lineno) - 1
            before, after = lines[first][: node.col_offset], lines[last][node.end_col_offset :]
            lines[first : last + 1] = [before + after, *[b""] * (last - first)]
    return "\n".join(line.decode().rstrip() for line in lines if line.strip())


def modules_of(stage: str, library: Path = LIBRARY) -> dict[str, Path]:
    """Return the module of a stage and every module of the library that it imports, by name, with their files."""
    # Sections of the configuration have the names of stages too.
    (entry,) = (file for file in library.glob(f"*/{stage}.py") if file.parent.name != "config")
    found: dict[str, Path] = {}
    waiting = [f"speechmill.{entry.parent.name}.{stage}"]
    while waiting:
        module = waiting.pop()
        file = _file(module, library)
        if file is not None and module not in found:
            found[module] = file
            waiting += _imports(file.read_text(encoding="utf-8"))
    return found


def fingerprint(stage: str, files: Iterable[str] = (), library: Path = LIBRARY) -> str:
    """Return a digest of the code of a stage, and of `files`, relative to the folder `workflow`, byte by byte."""
    digest = hashlib.sha256()
    for module, path in sorted(modules_of(stage, library).items()):
        digest.update(f"{module}\n{significant_code(path.read_text(encoding='utf-8'))}\n".encode())
    for file in files:
        digest.update((library.parent / file).read_bytes())
    return digest.hexdigest()[:16]


def read(path: Path = VERSIONS) -> dict[str, dict[str, Any]]:
    """Return the recorded version and fingerprint of every stage."""
    recorded: dict[str, dict[str, Any]] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return recorded


def changed(recorded: dict[str, dict[str, Any]], library: Path = LIBRARY) -> list[str]:
    """Return the stages whose code no longer has the recorded fingerprint."""
    return [
        stage
        for stage, entry in recorded.items()
        if fingerprint(stage, entry.get("files", ()), library) != entry["code"]
    ]


def release() -> str:
    """Return the version of the project, which is that of the coming release."""
    project = tomllib.loads((LIBRARY.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
    return str(project["project"]["version"])


def record(raised: Sequence[str] = (), path: Path = VERSIONS, library: Path = LIBRARY) -> None:
    """Record the current fingerprint of every stage, and raise the versions of the stages `raised` by one.

    Raises:
        SpeechmillError: There is no such stage.
    """
    recorded = read(path)
    unknown = [stage for stage in raised if stage not in recorded]
    if unknown:
        raise SpeechmillError(
            f"{', '.join(unknown)}: no such stage in {path.name}; the stages are {', '.join(recorded)}"
        )
    head = "".join(line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.startswith("#"))
    lines = []
    for stage, entry in sorted(recorded.items()):
        if stage in raised:
            entry |= {"version": entry["version"] + 1, "since": release()}
        entry["code"] = fingerprint(stage, entry.get("files", ()), library)
        lines.append(f"{stage}: {yaml.safe_dump(entry, default_flow_style=True, sort_keys=False, width=1000)}")
    write_text(head + "".join(lines), path)


def main() -> None:
    """Record the fingerprints of all stages; raise the versions of those that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raise", dest="raised", nargs="*", default=[], metavar="STAGE", help="results may differ")
    record(parser.parse_args().raised)


def _file(module: str, library: Path) -> Path | None:
    path = library.parent.joinpath(*module.split("."))
    return next((each for each in (path.with_suffix(".py"), path / "__init__.py") if each.is_file()), None)


@cache
def _imports(source: str) -> list[str]:
    """Return the modules of speechmill that Python source imports, with the packages that they lie in."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            # An imported name may be a module itself.
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    parts = [name.split(".") for name in names if name.split(".")[0] == "speechmill"]
    return sorted({".".join(part[:count]) for part in parts for count in range(1, len(part) + 1)})


if __name__ == "__main__":
    run_command(main)
