"""The conda environments have the versions of requirements.lock, and the packages that their stages import."""

import ast
import os
import re
import sys
from collections.abc import Mapping
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path
from unittest.mock import patch

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from speechmill.core.command import SpeechmillError
from speechmill.core.environment import set_for_jobs
from speechmill.dag.versions import modules_of

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENTS = sorted((ROOT / "envs").glob("*.yaml"))
# The platform of the environments, on whatever this test runs.
TARGET = {"python_version": "3.11", "python_full_version": "3.11.9", "sys_platform": "linux"}


def locked_versions() -> dict[str, str]:
    """Each package of the lock file that a Linux machine with Python 3.11 installs, as `==version`."""
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    entries = [Requirement(line.rstrip(" \\")) for line in lines if line and line[0] not in " #"]
    return {
        canonicalize_name(entry.name): str(entry.specifier)
        for entry in entries
        if entry.marker is None or entry.marker.evaluate(TARGET)
    }


def dependencies(environment: Path) -> tuple[list[str], list[Requirement]]:
    """The conda packages of an environment, and its Python packages."""
    listed = yaml.safe_load(environment.read_text())["dependencies"]
    conda = [entry for entry in listed if isinstance(entry, str)]
    pip = [Requirement(name) for entry in listed if isinstance(entry, dict) for name in entry["pip"]]
    return conda, pip


def test_environments_are_known() -> None:
    assert {path.stem for path in ENVIRONMENTS} == {"speak", "data", "train", "card"}


@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=lambda path: path.stem)
def test_python_packages_are_pinned_as_locked(environment: Path) -> None:
    locked = locked_versions()
    _, packages = dependencies(environment)

    assert packages
    # An unpinned package has the specifier "", which no entry of the lock file has.
    assert {p.name: str(p.specifier) for p in packages} == {
        p.name: locked.get(canonicalize_name(p.name)) for p in packages
    }


@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=lambda path: path.stem)
def test_system_programs_come_from_conda_forge(environment: Path) -> None:
    content = yaml.safe_load(environment.read_text())
    conda, _ = dependencies(environment)

    assert content["channels"] == ["conda-forge", "nodefaults"]
    assert "python=3.11" in conda
    assert "pip" in conda


def stages() -> dict[str, str]:
    """The environment that the rule of each stage names."""
    rules = "".join(path.read_text() for path in (ROOT / "workflow" / "rules").glob("*.smk"))
    # Within one rule, since some have an environment and run no stage.
    found = re.findall(
        r'"../../envs/(\w+)\.yaml"(?:(?!\n(?:rule|checkpoint) ).)*?python -m speechmill\.\w+\.(\w+)', rules, re.DOTALL
    )
    return {stage: environment for environment, stage in found}


@cache
def imported_names(module: Path) -> set[str]:
    """The names of the top-level modules that a file imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


@cache
def installed_packages() -> Mapping[str, list[str]]:
    """The packages that install each top-level module."""
    return packages_distributions()


def imported_packages(stage: str) -> set[str]:
    """The installed packages that the module of a stage imports, directly or through other modules."""
    names = set[str]().union(*map(imported_names, modules_of(stage).values()))
    known = installed_packages()
    # A package that is not installed under every Python goes by the name of its module.
    return {
        canonicalize_name(known.get(name, [name])[0]) for name in names - set(sys.stdlib_module_names) - {"speechmill"}
    }


@pytest.mark.parametrize("stage", sorted(stages()))
def test_environment_has_what_its_stages_import(stage: str) -> None:
    _, packages = dependencies(ROOT / "envs" / f"{stages()[stage]}.yaml")
    assert imported_packages(stage) <= {canonicalize_name(package.name) for package in packages}


def test_environments_list_their_stages() -> None:
    for environment in ENVIRONMENTS:
        # The comment at the top, up to the line on versions.
        head = environment.read_text().partition("# Python packages")[0]
        listed = set(re.findall(r"\w+", head.partition(":")[2]))
        assert listed == {stage for stage, named in stages().items() if named == environment.stem}, environment.name


def test_a_checkout_with_a_colon_in_its_path_is_refused() -> None:
    with (
        patch.dict(os.environ),
        pytest.raises(SpeechmillError, match="/a:b/workflow contains `:`, which separates folders in PYTHONPATH"),
    ):
        set_for_jobs("/a:b/workflow")
