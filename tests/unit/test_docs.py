"""Links, commands, make targets, rules, modules and keys in the documentation exist."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from speechmill.config.root import Config, load

ROOT = Path(__file__).parents[2]
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "config" / "README.md", *DOCS]
pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())

FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# Names with dots that are no keys: files, and attributes of libraries.
NO_KEY = re.compile(
    r"(transformers|datasets|speechmill)\."
    r"|.*\.(cfg|csv|html|json|jsonl|md|parquet|py|safetensors|sh|smk|toml|tsv|txt|yaml|lock)$"
)
SCHEMA = Config.model_json_schema()


def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def prose(page: Path) -> str:
    return FENCED.sub("", text(page))


def inline(page: Path) -> list[str]:
    return re.findall(r"`([^`\n]+)`", prose(page))


def code(page: Path) -> str:
    """The code of a page, one line each: blocks of commands, and text in backticks."""
    indented = re.findall(r"^ {4}(\S.*)$", prose(page), re.MULTILINE)
    blocks = [body for language, body in FENCED.findall(text(page)) if language == "sh"]
    return "\n".join([*blocks, *indented, *inline(page)])


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub derives from a page's headings."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", text(page)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def names(pattern: str, *files: Path) -> set[str]:
    return {name for file in files for name in re.findall(pattern, text(file), re.MULTILINE)}


@pages
def test_links_lead_to_existing_files_and_headings(page: Path) -> None:
    links = re.findall(r"\]\(([^)]+)\)", prose(page))
    for link in (each for each in links if "://" not in each):
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_readme_links_every_page() -> None:
    links = set(re.findall(r"\]\(([^)#]+)[^)]*\)", text(ROOT / "README.md")))
    assert {page.relative_to(ROOT).as_posix() for page in [*DOCS, ROOT / "config" / "README.md"]} <= links


def test_every_recipe_is_listed() -> None:
    links = re.findall(r"\]\(\.\./(config/[^)]+\.yaml)\)", text(ROOT / "docs" / "recipes.md"))
    recipes = {path.relative_to(ROOT).as_posix() for path in (ROOT / "config" / "recipes").glob("*.yaml")}
    assert recipes <= set(links)


@pages
def test_commands_use_existing_targets_and_files(page: Path) -> None:
    rule_files = [ROOT / "workflow/Snakefile", *ROOT.glob("workflow/rules/*.smk")]
    rules = names(r"^(?:rule|checkpoint|use rule \w+ as) (\w+)", *rule_files)
    targets = names(r"^([a-z-]+):", ROOT / "Makefile")
    commands = code(page)
    for module in re.findall(r"python -P -m speechmill\.([\w.]+)", commands):
        path = ROOT / "workflow" / "speechmill" / module.replace(".", "/")
        file = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
        assert file.is_file(), module
        assert "def main(" in text(file), module
    assert set(re.findall(r"(?:^|\n)make ([a-z-]+)", commands)) <= targets
    assert set(re.findall(r"(?:^|\n)(?:\.venv/bin/)?snakemake ([a-z_]+)\b", commands)) <= rules
    written = set(inline(page))
    for option, values in re.findall(r"--(configfile|profile)((?: [\w./]+)+)", commands):
        for value in values.split():
            path = ROOT / value
            known = path.is_file() if option == "configfile" else (path / "config.yaml").is_file()
            assert known or value in written or re.search(r"\b[A-Z]+\b", value), value


def test_stage_table_names_rule_files_and_modules() -> None:
    table = [line for line in text(ROOT / "README.md").splitlines() if ".smk`" in line]
    named = {name for line in table for name in re.findall(r"`([\w./]+)`", line)}
    rule_files = {path.name for path in (ROOT / "workflow" / "rules").glob("*.smk")} - {"common.smk", "library.smk"}
    assert {name for name in named if name.endswith(".smk")} == rule_files
    for name in named - rule_files:
        assert (ROOT / "workflow" / "speechmill" / name).exists(), name


def test_contributing_names_existing_files() -> None:
    folders = (ROOT, ROOT / "workflow" / "speechmill")
    for path in inline(ROOT / "CONTRIBUTING.md"):
        # A name in capitals stands for any name, and logs are written by runs.
        if re.fullmatch(r"[\w.-]+/[\w./-]*", path) and not re.match(r"logs/|.*\b[A-Z]+\b", path):
            assert any((folder / path).exists() for folder in folders), path


def test_contributing_describes_every_package() -> None:
    layers = tomllib.loads(text(ROOT / "pyproject.toml"))["tool"]["importlinter"]["contracts"][0]["layers"]
    packages = [package for layer in reversed(layers) for package in layer.split(" | ")]
    described = re.findall(r"^\| `(\w+)` \|", text(ROOT / "CONTRIBUTING.md"), re.MULTILINE)
    assert sorted(described) == sorted(packages)


def test_reference_has_a_table_of_every_section() -> None:
    parts = re.split(r"^#+ ", text(ROOT / "config" / "README.md"), flags=re.MULTILINE)
    tables = [set(re.findall(r"^\| `(\w+)` \|", part, re.MULTILINE)) for part in parts]
    for name, section in SCHEMA["$defs"].items():
        assert "properties" not in section or set(section["properties"]) in tables, name


@pytest.mark.parametrize("page", [ROOT / "README.md", *DOCS], ids=lambda page: page.name)
def test_named_keys_exist(page: Path) -> None:
    for word in inline(page):
        if re.fullmatch(r"[a-z_]+(\.[a-z_]+)+", word) and not NO_KEY.match(word):
            nested: Any = None
            for key in reversed(word.split(".")):
                nested = {key: nested}
            assert is_known(nested), word
        elif re.match(r"[a-z_]+: ", word):
            assert is_known(yaml.safe_load(word)), word


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_shown_configurations_have_known_keys(page: Path) -> None:
    for language, body in FENCED.findall(text(page)):
        shown = yaml.safe_load(body) if language == "yaml" else None
        if shown and {"datasets", "runs"} <= set(shown):
            load(shown)
        elif shown:
            assert is_known(shown), body


@pytest.mark.parametrize(
    "unknown", [{"finetune": {"learning_rat": 1}}, {"runs": {"mine": {"evaluation": {"set": []}}}}, {"no_such_key": 1}]
)
def test_unknown_keys_are_noticed(unknown: dict[str, Any]) -> None:
    assert not is_known(unknown)


def is_known(shown: Any) -> bool:
    """Whether a section of the configuration has all these keys; their values do not matter."""
    return any(fits(shown, section) for section in (SCHEMA, *SCHEMA["$defs"].values()) if "properties" in section)


def fits(shown: Any, node: Any) -> bool:
    if isinstance(shown, list):
        return all(any(fits(each, alike) for each_of in choices(node) for alike in items(each_of)) for each in shown)
    if not isinstance(shown, dict):
        return True
    return any(all(fits_key(key, value, each) for key, value in shown.items()) for each in choices(node))


def fits_key(key: str, value: Any, node: dict[str, Any]) -> bool:
    if "properties" in node:
        return key in node["properties"] and fits(value, node["properties"][key])
    # A mapping with arbitrary names.
    inner = [*node.get("patternProperties", {}).values(), node.get("additionalProperties", False)]
    return any(each is True or (isinstance(each, dict) and fits(value, each)) for each in inner)


def items(node: dict[str, Any]) -> Iterator[Any]:
    if "items" in node:
        yield node["items"]


def choices(node: Any) -> Iterator[dict[str, Any]]:
    """The alternatives of a node of the schema."""
    if "$ref" in node:
        yield from choices(SCHEMA["$defs"][node["$ref"].rsplit("/", 1)[1]])
    several = node.get("anyOf", []) + node.get("oneOf", [])
    for each in several:
        yield from choices(each)
    if not several and "$ref" not in node:
        yield node
