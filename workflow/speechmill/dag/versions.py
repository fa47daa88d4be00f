"""A digest of the code that a stage runs, so that an edit runs the stage again and a comment does not."""

import ast
import hashlib
from collections.abc import Collection
from functools import cache
from pathlib import Path

_ROOT = Path(__file__).parent.parent


def code_digest(stage: str, *files: str, without: Collection[str] = ()) -> str:
    """sha256 over the syntax trees, without docstrings, of a stage's module and all of speechmill that it imports.

    `files`, paths from the folder `workflow`, count with every byte. The modules `without` do not count, nor what only
    they import.
    """
    digest = hashlib.sha256()
    for module in sorted(modules_of(stage, without)):
        digest.update(f"{module}\n{_tree(module)}\n".encode())
    for file in files:
        digest.update((_ROOT / file).read_bytes())
    return digest.hexdigest()[:16]


def modules_of(stage: str, without: Collection[str] = ()) -> set[str]:
    """A stage's module and all modules of speechmill that it imports, directly or through others but `without`."""
    left_out = {f"speechmill.{module}" for module in without}
    found: set[str] = set()
    waiting = [f"speechmill.{stage}"]
    while waiting:
        module = waiting.pop()
        if module not in found | left_out and _file(module) is not None:
            found.add(module)
            waiting += _imports(module)
    return found


def _file(module: str) -> Path | None:
    path = _ROOT.joinpath(*module.split("."))
    return next((p for p in (path.with_suffix(".py"), path / "__init__.py") if p.is_file()), None)


@cache
def _parsed(module: str) -> ast.Module:
    path = _file(module)
    assert path is not None
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def _imports(module: str) -> list[str]:
    names: set[str] = set()
    for node in ast.walk(_parsed(module)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            # A name that is imported may be a module itself.
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    # Importing a module runs the packages that it lies in.
    parts = [name.split(".") for name in names if name.split(".")[0] == "speechmill"]
    return sorted({".".join(p[:i]) for p in parts for i in range(1, len(p) + 1)})


@cache
def _tree(module: str) -> str:
    tree = _parsed(module)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            # Strings that stand alone document; they do nothing.
            node.body = [b for b in node.body if not (isinstance(b, ast.Expr) and isinstance(b.value, ast.Constant))]
    return ast.dump(tree)
