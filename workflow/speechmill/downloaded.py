"""Whether an archive was fetched by us; apart from the fetching, because planning asks this and imports little."""

import json
from pathlib import Path


def sidecar(path: Path) -> Path:
    """The file beside the archive `path` that says where it was fetched, its `bytes` and its `sha256`."""
    return path.with_name(f"{path.name}.json")


def downloaded(path: Path) -> bool:
    """Whether the archive at `path` is one that `download` put there, by its size; one put there by hand is not."""
    try:
        about = json.loads(sidecar(path).read_text(encoding="utf-8"))
        return path.is_file() and isinstance(about, dict) and about.get("bytes") == path.stat().st_size
    except (OSError, ValueError):
        return False
