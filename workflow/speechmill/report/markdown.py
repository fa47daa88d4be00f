"""Markdown from text that can contain anything: words and characters of a corpus, names of a configuration.

The syntax is that of CommonMark 0.31 with tables and strikethrough of GitHub Flavored Markdown, which the Hub renders.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence

from speechmill.core.direction import EXPLICIT_FORMATTING, code_point, isolate, on_dotted_circle


class Markdown(str):
    """Markdown, which is inserted into other Markdown unchanged; any other string is plain text and is escaped."""

    __slots__ = ()


_LINE_END = re.compile(r"\r\n|[\t-\r\x1c-\x1f\x85\u2028\u2029]")

# Control characters and unpaired surrogates.
_CONTROLS = ("Cc", "Cs")

# A letter or digit on both sides leaves an underscore plain, and a sign at the start of a line makes lists, quotations,
# headings and rules. `$` delimits mathematics on GitHub and on the Hub.
_SPECIAL = re.compile(r"[\\`*\[\]<|~$]|(?<![^\W_])_|_(?![^\W_])|&(?=[#\w])|(?<![^ ])#|^[-+=](?!\d)|^>")
_LIST_NUMBER = re.compile(r"^(\d{1,9})([.)])(?= |$)")

# A backslash keeps `|` within a cell, also in a code span.
_CELL_DELIMITER = re.compile(r"(?<!\\)\|")


def escape(text: str) -> Markdown:
    """Return Markdown that shows plain text in a line, or `text` itself if it is Markdown.

    Line ends become spaces, control characters are removed, and a combining mark at the start is put on a dotted
    circle. Right-to-left text is isolated.
    """
    if isinstance(text, Markdown):
        return text
    line = re.sub(" +", " ", _LINE_END.sub(" ", text)).strip(" ")
    line = on_dotted_circle("".join(each for each in line if unicodedata.category(each) not in _CONTROLS))
    return Markdown(isolate(_LIST_NUMBER.sub(r"\1\\\2", _SPECIAL.sub(r"\\\g<0>", line))))


def join(separator: str, parts: Iterable[str]) -> Markdown:
    """Return Markdown in which `separator`, which is not escaped, stands between the parts."""
    return Markdown(separator.join(map(escape, parts)))


def code_span(text: str) -> Markdown:
    """Return a code span that shows a word, a character or a name, or `(empty)` for an empty string.

    Its fence is longer than any run of backticks in the text (CommonMark, section 6.1). A single space is shown as `␣`,
    other characters that cannot be seen by their code points, and a combining mark at the start on a dotted circle.
    Right-to-left text is isolated, with the isolating characters outside the code span.
    """
    if not text:
        return Markdown("(empty)")
    shown = _visible(text)
    fence = "`" * (_longest_run(shown) + 1)
    # One space is stripped from each side of a code span if there is one on both sides.
    padding = " " if "`" in shown or (shown[0] == shown[-1] == " " and shown.strip(" ")) else ""
    span = f"{fence}{padding}{shown}{padding}{fence}"
    return Markdown(isolate(span))


def code_block(text: str, language: str = "") -> Markdown:
    """Return a fenced code block of `text`, whose fence is longer than any run of backticks in the text."""
    fence, lines = "`" * max(3, _longest_run(text) + 1), text.removesuffix("\n")
    return Markdown(f"{fence}{language}\n{lines}\n{fence}")


def table(rows: Sequence[Sequence[str]]) -> Markdown:
    """Return a padded table with centred columns; the first row is the heading, and cells are escaped."""
    cells = [[_CELL_DELIMITER.sub(r"\\|", escape(cell)) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    rule = "|" + "|".join(":" + "-" * width + ":" for width in widths) + "|"
    return Markdown("\n".join([lines[0], rule, *lines[1:]]))


def _visible(text: str) -> str:
    if text == " ":
        return "␣"
    if all(unicodedata.category(character)[0] in "CZ" for character in text):
        return " ".join(map(code_point, text))
    line = _LINE_END.sub(" ", text)
    hidden = {each for each in line if each in EXPLICIT_FORMATTING or unicodedata.category(each) in _CONTROLS}
    return on_dotted_circle("".join(code_point(each) if each in hidden else each for each in line))


def _longest_run(text: str) -> int:
    """Return the length of the longest run of backticks."""
    return max(map(len, re.findall("`+", text)), default=0)
