"""The schema and the reference of the configuration, written from its types: `python -m speechmill.config.document`."""

import json
from pathlib import Path
from typing import Any

import yaml

from speechmill.config.root import Config

_ROOT = Path(__file__).parents[3]
SCHEMA = _ROOT / "workflow" / "schemas" / "config.schema.yaml"
REFERENCE = _ROOT / "config" / "README.md"
_BEGIN, _END = "<!-- reference: begin -->", "<!-- reference: end -->"


def schema() -> str:
    """The JSON schema of the configuration, as YAML."""
    head = "# Written by `python -m speechmill.config.document` from workflow/speechmill/config; change it there.\n"
    return head + yaml.safe_dump(Config.model_json_schema(), allow_unicode=True, sort_keys=False, width=120)


def reference() -> str:
    """Every key of the configuration with its kind, its default and what it is for, section by section."""
    document = Config.model_json_schema()
    lines: list[str] = []
    _section("", document, document, lines)
    return "\n".join(lines).strip() + "\n"


def with_reference(page: str) -> str:
    """The page `config/README.md` with the reference between its two marks."""
    head, tail = page[: page.index(_BEGIN) + len(_BEGIN)], page[page.index(_END) :]
    return f"{head}\n\n{reference()}\n{tail}"


def _section(place: str, node: dict[str, Any], document: dict[str, Any], lines: list[str]) -> None:
    inner: list[tuple[str, dict[str, Any]]] = []
    if place:
        lines += [f"### `{place}`", "", node.get("description", "").split("\n")[0], ""]
    lines += ["| key | kind | default | what it is |", "|:--|:--|:--|:--|"]
    for key, field in node["properties"].items():
        required = key in node.get("required", [])
        default = "needed" if required else f"`{json.dumps(field.get('default'), ensure_ascii=False)}`"
        if not required and "default" not in field:
            default = "empty"
        kinds, sections = _kinds(field, document)
        if sections and not required:
            default = "its defaults" if field.get("default") is not None else default
        text = field.get("description", "").replace("|", "\\|")
        lines.append(f"| `{key}` | {' or '.join(kinds)} | {default} | {text} |")
        prefix = f"{place}.{key}" if place else key
        inner += [(prefix + suffix, section) for suffix, section in sections]
    lines.append("")
    for inner_place, section in inner:
        _section(inner_place, section, document, lines)


def _kinds(field: dict[str, Any], document: dict[str, Any]) -> tuple[list[str], list[tuple[str, dict[str, Any]]]]:
    """What kinds of value a field takes, and the sections below it with what is added to its place."""
    if "$ref" in field:
        section = document["$defs"][field["$ref"].rsplit("/", 1)[1]]
        return ["section"], [("", section)]
    choices = field.get("oneOf") or field.get("anyOf")
    if choices:
        kinds, sections = [], []
        for choice in choices:
            found, below = _kinds(choice, document)
            kinds += [kind for kind in found if kind not in kinds]
            sections += [
                (f" ({s['properties']['source']['const']}){suffix}" if "source" in s["properties"] else suffix, s)
                for suffix, s in below
            ]
        return kinds, sections
    if "const" in field or "enum" in field:
        return [", ".join(f"`{value}`" for value in field.get("enum", [field.get("const")]))], []
    if field.get("type") == "array" and "items" in field:
        kinds, sections = _kinds(field["items"], document)
        return [f"list of {' or '.join(kinds)}"], [(f"[]{suffix}", section) for suffix, section in sections]
    if field.get("type") == "object" and ("additionalProperties" in field or "patternProperties" in field):
        values = field.get("additionalProperties") or next(iter(field["patternProperties"].values()))
        kinds, sections = _kinds(values, document) if isinstance(values, dict) else (["any value"], [])
        return [f"mapping to {' or '.join(kinds)}"], [(f".NAME{suffix}", section) for suffix, section in sections]
    names = {
        "string": "text",
        "integer": "whole number",
        "number": "number",
        "boolean": "true or false",
        "null": "null",
    }
    return [names.get(str(field.get("type")), "any value")], []


if __name__ == "__main__":
    SCHEMA.write_text(schema(), encoding="utf-8")
    REFERENCE.write_text(with_reference(REFERENCE.read_text(encoding="utf-8")), encoding="utf-8")
