"""The version of each stage, which decides whether its results are current."""

import hashlib
import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import yaml

VERSIONS = Path(__file__).parents[2] / "stage_versions.yaml"
"""The file with the version of every stage."""

ADOPTED_RELEASE = "SPEECHMILL_ADOPT"
"""The environment variable with the release whose results `make adopt` marks as current."""


def stage_version(stage: str) -> int:
    """Return the version of a stage.

    Rules have it among their parameters: a stage runs again when its version is raised, and not when its code changes
    in a way that changes no result. `speechmill.dag.versions` raises versions and checks that none was forgotten.

    While the results of an earlier release are adopted, a version that was raised since then counts as the one before,
    so that the stage runs again afterwards.
    """
    entry = _versions()[stage]
    adopted = os.environ.get(ADOPTED_RELEASE)
    raised_since = adopted is not None and _as_numbers(entry["since"]) > _as_numbers(adopted)
    return int(entry["version"]) - raised_since


def library_versions(environment: str) -> str:
    """Return a digest of the packages and versions of an environment, the file of this name in `envs`."""
    path = VERSIONS.parents[1] / "envs" / f"{environment}.yaml"
    packages = yaml.safe_load(path.read_text(encoding="utf-8"))["dependencies"]
    return hashlib.sha256(json.dumps(packages).encode()).hexdigest()[:16]


@cache
def _versions() -> dict[str, dict[str, Any]]:
    versions: dict[str, dict[str, Any]] = yaml.safe_load(VERSIONS.read_text(encoding="utf-8"))
    return versions


def _as_numbers(release: str) -> list[int]:
    return [int(part) for part in release.split(".")]
