import html.parser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from speechmill.report.markdown import Markdown, code_block, code_span, escape, join, table

FSI, PDI = "\u2068", "\u2069"

RENDERER = MarkdownIt("commonmark").enable(["table", "strikethrough"])


class Page(html.parser.HTMLParser):
    """The text of rendered Markdown, the text of its code, and its other elements."""

    def __init__(self, markdown: str) -> None:
        super().__init__()
        self.text, self.code, self.elements = "", [""], list[str]()
        self._in_code = False
        self.feed(RENDERER.render(markdown))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in_code = tag == "code"
        if self._in_code:
            self.code.append("")
        else:
            self.elements.append(tag)

    def handle_endtag(self, tag: str) -> None:
        self._in_code = False

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._in_code:
            self.code[-1] += data


# The contents of the examples of CommonMark 0.31, section 6.1, and other text with Markdown or HTML in it.
CODE = [
    "foo", "foo ` bar", "``", " ``  ", " a", "foo   bar ", "foo\\", "foo`bar", "foo `` bar", "*foo*", "[not a `link",
    '<a href="', "<https://foo.bar.", "foo``", "```", "yo`l", "`", "a|b", "<b>", "[x](y)", "&amp;", "$a$", "~~a~~",
    "\\", "\\`",
]  # fmt: skip


@pytest.mark.parametrize("text", CODE)
def test_code_span_shows_any_text(text: str) -> None:
    for before, after in (("", ""), ("`a` ", " → `b` 1 of 2"), ("- ", ""), ("# ", "")):
        page = Page(f"{before}{code_span(text)}{after}")
        assert text in page.code
        assert set(page.elements) <= {"p", "ul", "li", "h1"}


@given(st.text(alphabet="``` \\ab*_<>[]()!|&#~$", min_size=1, max_size=12).filter(str.strip))
def test_code_span_shows_generated_text(text: str) -> None:
    page = Page(f"x {code_span(text)} y")
    assert (page.code[1:], page.elements) == ([text], ["p"])


def test_fence_is_longer_than_backticks_in_text() -> None:
    assert code_span("yo`l") == "`` yo`l ``"
    assert code_span("`") == "`` ` ``"
    assert code_span("a``b`") == "``` a``b` ```"
    assert code_span(" a ") == "`  a  `"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\u0301", "`◌\u0301`"),
        ("\u064b", "`◌\u064b`"),
        (" ", "`␣`"),
        ("\u00a0", "`U+00A0`"),
        ("\u200f", "`U+200F`"),
        ("\u200b\u200b", "`U+200B U+200B`"),
        ("a\u202eb", "`aU+202Eb`"),
        ("a\x00b", "`aU+0000b`"),
        ("a\n\nb", "`a  b`"),
        ("می\u200cروم", f"{FSI}`می\u200cروم`{PDI}"),
        ("", "(empty)"),
    ],
)
def test_code_span_makes_characters_visible(text: str, shown: str) -> None:
    assert code_span(text) == shown


def test_isolates_stand_outside_the_code_span() -> None:
    pair = join(" → ", map(code_span, ["كتاب", "كتب"]))
    assert f"{pair} 1 of 2" == f"{FSI}`كتاب`{PDI} → {FSI}`كتب`{PDI} 1 of 2"


# Contexts in which the card shows text, with the elements that they consist of.
CONTEXTS = {
    "{}": ["p"], "see {}, {} and": ["p"], "- {}": ["ul", "li"], "# {}": ["h1"], "- x\n- {}\n": ["ul", "li", "li"],
    "text\n\n{}:\n- a": ["p", "p", "ul", "li"], "[{}](https://x)": ["p", "a"],
}  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        "a`b", "a|b", "*x*", "_x_", "__x__", "a_b", "<b>x</b>", "<script>alert(1)</script>", "[x](y)", "![x](y)", "[x]",
        "&amp;", "&#35;", "A & B", "# x", "#", "C #", "- x", "+ x", "---", "===", "1. x", "10) x", "> x", "~~x~~",
        "```", "~~~", "\\", "a\\|b", "\\*x\\*", "<https://x>", "<!-- x -->", "<?x?>", "[x]: y", "$x$", "8.0", "-0.5",
        "5e-05", "(a, b)",
    ],
)  # fmt: skip
def test_escaped_text_is_shown_as_it_is(text: str) -> None:
    for context, elements in CONTEXTS.items():
        page = Page(context.replace("{}", escape(text)))
        expected = Page(context.replace("{}", "word"))
        assert page.elements == elements, context
        assert page.text == expected.text.replace("word", text), context
    cells = Page(table([["Set", "Why"], [text, "b"]]))
    assert (cells.elements.count("td"), "code" in cells.elements) == (2, False)
    assert text in cells.text


@given(st.text(alphabet="`\\ab1*_<>[]()!|&#~$.-+=:; ", min_size=1, max_size=12).filter(str.strip))
def test_generated_text_is_shown_as_it_is(text: str) -> None:
    shown = " ".join(text.split())
    for context, elements in CONTEXTS.items():
        page = Page(context.replace("{}", escape(text)))
        assert page.elements == elements, context
        assert page.text.strip() == Page(context.replace("{}", "word")).text.replace("word", shown).strip(), context


@pytest.mark.parametrize("text", ["Common Voice 8.0 dev", "learning_rate", "betas=(0.9,0.999)", "x86_64", "a/b-c.d"])
def test_plain_words_stay_readable(text: str) -> None:
    assert escape(text) == text


def test_lines_and_controls_do_not_leave_the_line() -> None:
    assert escape(" a\n\n# b\r\n\tc\u2028d\x00 ") == "a \\# b c d"
    assert escape("\u0301x") == "◌\u0301x"
    assert escape("كتاب*") == f"{FSI}كتاب\\*{PDI}"


def test_markdown_is_not_escaped_again() -> None:
    assert escape(Markdown("*x*")) == "*x*"
    assert escape(escape("*x*")) == "\\*x\\*"
    assert join(", ", [Markdown("*x*"), "*y*"]) == "*x*, \\*y\\*"


def test_table_cells_keep_columns() -> None:
    rows = [["Set", "Why"], ["a|b", code_span("c|d")], ["a\\|b", "e\n\nf"]]
    page = Page(table(rows))
    assert page.elements.count("td") == 4
    assert page.code[1:] == ["c|d"]
    assert all(text in page.text for text in ("a|b", "a\\|b", "e f"))


@pytest.mark.parametrize("text", ["a", "```", "a\n````\nb", "~~~", "<b>", "## x"])
def test_code_block_shows_any_text(text: str) -> None:
    page = Page(f"before:\n\n{code_block(text, 'python')}\n\n## After\n")
    assert page.elements == ["p", "pre", "h2"]
    assert page.code[1:] == [f"{text}\n"]
