"""Generate the JSON schema and the reference of the configuration: `python -m speechmill.config.document`."""

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
    """Return the JSON schema of the configuration as YAML."""
    head = "# Generated from workflow/speechmill/config by `python -m speechmill.config.document`; do not edit.\n"
    return head + yaml.safe_dump(Config.model_json_schema(), allow_unicode=True, sort_keys=False, width=120)


def reference() -> str:
    """Return Markdown tables of all keys, section by section, with type, default and description."""
    document = Config.model_json_schema()
    lines: list[str] = []
    _section("", document, document, lines)
    return "\n".join(lines).strip() + "\n"


def with_reference(page: str) -> str:
    """Return the text of `config/README.md` with the reference between its two marks replaced."""
    head, tail = page[: page.index(_BEGIN) + len(_BEGIN)], page[page.index(_END) :]
    return f"{head}\n\n{reference()}\n{tail}"


def _section(path: str, node: dict[str, Any], document: dict[str, Any], lines: list[str]) -> None:
    inner: list[tuple[str, dict[str, Any]]] = []
    if path:
        lines += [f"### `{path}`", "", node.get("description", "").split("\n")[0], ""]
    lines += ["| key | type | default | description |", "|:--|:--|:--|:--|"]
    for key, field in node["properties"].items():
        required = key in node.get("required", [])
        default = "required" if required else f"`{json.dumps(field.get('default'), ensure_ascii=False)}`"
        if not required and "default" not in field:
            default = "empty"
        types, sections = _types(field, document)
        if sections and not required:
            default = "defaults below" if isinstance(field.get("default"), dict | list) else default
        text = field.get("description", "").replace("|", "\\|")
        lines.append(f"| `{key}` | {' or '.join(types)} | {default} | {text} |")
        prefix = f"{path}.{key}" if path else key
        inner += [(prefix + suffix, section) for suffix, section in sections]
    lines.append("")
    for inner_path, section in inner:
        _section(inner_path, section, document, lines)


def _types(field: dict[str, Any], document: dict[str, Any]) -> tuple[list[str], list[tuple[str, dict[str, Any]]]]:
    """Return the types of a field, and the sections it contains, each with the suffix of its path."""
    if "$ref" in field:
        section = document["$defs"][field["$ref"].rsplit("/", 1)[1]]
        return ["section"], [("", section)]
    choices = field.get("oneOf") or field.get("anyOf")
    if choices:
        types, sections = [], []
        for choice in choices:
            found, below = _types(choice, document)
            types += [kind for kind in found if kind not in types]
            sections += [
                (f" ({s['properties']['source']['const']}){suffix}" if "source" in s["properties"] else suffix, s)
                for suffix, s in below
            ]
        return types, sections
    if "const" in field or "enum" in field:
        return [", ".join(f"`{value}`" for value in field.get("enum", [field.get("const")]))], []
    if field.get("type") == "array" and "items" in field:
        types, sections = _types(field["items"], document)
        return [f"list of {' or '.join(types)}"], [(f"[]{suffix}", section) for suffix, section in sections]
    if field.get("type") == "object" and ("additionalProperties" in field or "patternProperties" in field):
        values = field.get("additionalProperties") or next(iter(field["patternProperties"].values()))
        types, sections = _types(values, document) if isinstance(values, dict) else (["any value"], [])
        return [f"mapping to {' or '.join(types)}"], [(f".NAME{suffix}", section) for suffix, section in sections]
    names = {
        "string": "text",
        "integer": "integer",
        "number": "number",
        "boolean": "boolean",
        "null": "null",
    }
    return [names.get(str(field.get("type")), "any value")], []


if __name__ == "__main__":
    SCHEMA.write_text(schema(), encoding="utf-8")
    REFERENCE.write_text(with_reference(REFERENCE.read_text(encoding="utf-8")), encoding="utf-8")
