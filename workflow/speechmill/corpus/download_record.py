"""Whether an archive was fetched by us; apart from the fetching, because planning asks this and imports little."""

import json
from pathlib import Path


def sidecar(path: Path) -> Path:
    """The file beside the archive `path` that says where it was fetched, its `bytes` and its `sha256`."""
    return path.with_name(f"{path.name}.json")


def downloaded(path: Path, size: int | None = None, sha256: str | None = None) -> bool:
    """Whether the archive at `path` was fetched, with that size and digest where they are given.

    One that was put there by hand was not.
    """
    try:
        about = json.loads(sidecar(path).read_text(encoding="utf-8"))
        return (
            isinstance(about, dict)
            and about.get("bytes") == path.stat().st_size
            and size in (None, about["bytes"])
            and sha256 in (None, about.get("sha256"))
        )
    except (OSError, ValueError):
        return False
