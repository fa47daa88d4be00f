"""The style and the content policy of HTML pages, and the style of plots."""

import base64
import hashlib
from functools import cache
from pathlib import Path

import jinja2
import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font

from speechmill.core.direction import EXPLICIT_FORMATTING, isolate, on_dotted_circle
from speechmill.core.files import atomic_write

STYLE = """<style>
body { font: 16px/1.5 sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em; color: #222 }
table { display: block; max-width: 100%; overflow-x: auto; border-collapse: collapse; margin-bottom: 1em }
th, td { border: 1px solid #ccc; padding: 0.2em 0.6em } small { color: #595959 } a { color: #0063a5 }
img { max-width: 100% } pre { background: #f4f4f4; padding: 1em; overflow-x: auto }
</style>"""

# Source: Okabe and Ito, Color Universal Design, 2008.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]
"""Colours that are distinguishable with any kind of colour vision."""

# Longer labels do not fit beside a plot.
_MAX_LABEL = 60


def page_environment() -> jinja2.Environment:
    """Return an environment for the templates of HTML pages, which escapes all values.

    The filter `isolate` is for titles, and for attributes, where the element `bdi` cannot be used; `on_dotted_circle`
    shows a combining mark that stands alone.
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(isolate=isolate, on_dotted_circle=on_dotted_circle)
    environment.globals.update(content_policy=content_policy)
    return environment


def content_policy(script: str = "") -> str:
    """Return the policy of a page with which a browser runs only `script`, and loads nothing that the page lacks.

    All text in a page is escaped; this is a second barrier. Source: Content Security Policy Level 3, section 2.3.1.
    """
    allowed = "'none'"
    if script:
        allowed = f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; media-src data:;"
        " base-uri 'none'; form-action 'none'"
    )


def data_url(content: bytes, media_type: str = "image/png") -> str:
    """Return an image or a recording as a `data:` URL, so that a page contains it itself."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure to `path` as a PNG file, atomically, and close it."""
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    plt.close(figure)


def plot_label(text: str, alternative: str) -> str:
    """Return `text` as a label that Matplotlib draws as it is, or `alternative` if `is_drawable` is false."""
    # An even number of dollar signs would delimit mathematics.
    return text.replace("$", r"\$") if is_drawable(text) else alternative


def is_drawable(text: str) -> bool:
    """Return whether a plot can show `text`: it is not too long, and Matplotlib's own font has its characters.

    Legends omit labels that begin with an underscore.
    """
    shown = set(text) - EXPLICIT_FORMATTING
    return len(text) <= _MAX_LABEL and not text.startswith("_") and _font_characters().issuperset(map(ord, shown))


@cache
def _font_characters() -> frozenset[int]:
    """Return the code points of Matplotlib's default font, which is part of the package on every machine."""
    return frozenset(FT2Font(f"{mpl.get_data_path()}/fonts/ttf/DejaVuSans.ttf").get_charmap())
