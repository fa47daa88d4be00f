"""The record of a downloaded archive; a module of its own because planning needs it and should import little."""

import json
from pathlib import Path


def sidecar(path: Path) -> Path:
    """Return the path of the file beside the archive `path` that records its `url`, `bytes` and `sha256`."""
    return path.with_name(f"{path.name}.json")


def downloaded(path: Path, size: int | None = None, sha256: str | None = None) -> bool:
    """Return whether `path` is a downloaded archive of this size and digest; an archive put there has no record."""
    try:
        record = json.loads(sidecar(path).read_text(encoding="utf-8"))
        is_same_file = record["bytes"] == path.stat().st_size
        return is_same_file and size in (None, record["bytes"]) and sha256 in (None, record.get("sha256"))
    except (OSError, ValueError, TypeError, KeyError):
        return False
