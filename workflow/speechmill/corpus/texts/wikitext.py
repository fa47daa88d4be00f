"""The running text of a page of a wiki, from its markup."""

import re
from collections.abc import Collection, Iterator

import mwparserfromhell
from mwparserfromhell.nodes import ExternalLink, HTMLEntity, Tag, Text, Wikilink
from mwparserfromhell.wikicode import Wikicode

# What the contents of these elements are: formulas, code, footnotes, pictures, tables.
_LEFT_OUT = {
    *("ce", "chem", "code", "gallery", "graph", "hiero", "imagemap", "indicator", "mapframe", "maplink", "math"),
    *("pre", "ref", "references", "score", "source", "style", "syntaxhighlight", "table", "templatestyles", "timeline"),
}
_LIST_ITEM = "\0"
_EMPTY_BRACKETS = re.compile(r"\s*[(（[][\s,;:.–—-]*[)）\]]")


def wiki_paragraphs(markup: str, left_out_namespaces: Collection[str]) -> Iterator[str]:
    """Yield the paragraphs of a page as plain text: of links the visible text, of formatted text its content.

    Templates, tables, footnotes, headings, list items, files and categories are left out.

    Args:
        markup: The wikitext of the page.
        left_out_namespaces: The names, in lower case, of the namespaces of files and categories in this wiki.
    """
    text = _plain(mwparserfromhell.parse(markup), left_out_namespaces)
    for line in text.splitlines():
        paragraph = _EMPTY_BRACKETS.sub("", line).strip()
        if paragraph and not paragraph.startswith(_LIST_ITEM):
            yield paragraph


def _plain(code: Wikicode | None, left_out: Collection[str]) -> str:
    return "".join(_node(node, left_out) for node in code.nodes) if code else ""


def _node(node: object, left_out: Collection[str]) -> str:
    if isinstance(node, Text):
        return str(node.value)
    if isinstance(node, HTMLEntity):
        return str(node.normalize())
    if isinstance(node, ExternalLink):
        return _plain(node.title, left_out)
    if isinstance(node, Wikilink):
        namespace, colon, _ = str(node.title).strip().partition(":")
        # Only a file has several parameters, under whatever name of its namespace.
        is_file = colon and (namespace.strip().lower() in left_out or "|" in str(node.text or ""))
        return "" if is_file else _plain(node.text or node.title, left_out)
    if isinstance(node, Tag):
        name = str(node.tag).strip().lower()
        if name == "br":
            return "\n"
        if node.wiki_markup and name in ("li", "dt", "dd"):
            return _LIST_ITEM
        return "" if name in _LEFT_OUT else _plain(node.contents, left_out)
    return ""
