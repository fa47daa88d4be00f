"""Pages made of hostile text, in a browser: no script of the text runs, and no other file is read."""

import base64
from pathlib import Path

import pytest
from browser import new_page

from speechmill.core.page import content_policy
from speechmill.report import card
from speechmill.report.markdown import escape

pytestmark = pytest.mark.slow

# A picture of one pixel.
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def hostile(secret: Path) -> str:
    """Return text that, where it is taken for HTML or Markdown, sets the title of a page and shows a file."""
    return (
        "<script>document.title = 'ran'</script><img src=x onerror=\"document.title = 'ran'\">"
        f'<img src="{secret}"><iframe src="{secret.as_uri()}"></iframe>![]({secret}) ![x]({secret.as_uri()})'
        " [x](javascript:document.title='ran') <svg onload=\"document.title = 'ran'\">"
    )


def test_card_of_hostile_text_runs_no_script_and_reads_no_file(tmp_path: Path) -> None:
    secret, file = tmp_path / "secret.png", tmp_path / "card.html"
    secret.write_bytes(PNG)
    text = hostile(secret)
    # As a name, which is escaped, and as the description, which the author of the configuration writes in Markdown.
    file.write_text(card.page(f"---\na: b\n---\n# {escape(text)}\n\n{text}\n", tmp_path))
    assert base64.b64encode(PNG).decode() not in file.read_text()
    with new_page() as page:
        page.open(file.as_uri())
        page.evaluate("document.querySelectorAll('a').forEach((link) => link.click())")
        assert page.evaluate("document.title") == ""
        assert page.requests == [file.as_uri()]
        assert page.errors == []


def test_content_policy_stops_unescaped_text(tmp_path: Path) -> None:
    secret, file, own = tmp_path / "secret.png", tmp_path / "page.html", "document.title += 'own'"
    secret.write_bytes(PNG)
    policy = f'<meta http-equiv="Content-Security-Policy" content="{content_policy(own)}">'
    file.write_text(f"<!doctype html>{policy}<title></title><p>{hostile(secret)}<script>{own}</script>")
    with new_page() as page:
        page.open(file.as_uri())
        assert page.evaluate("document.title") == "own"
        assert not page.evaluate("[...document.images].some((image) => image.naturalWidth)")
