"""The style of HTML pages and plots."""

import base64
from pathlib import Path

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

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


def data_url(png: bytes) -> str:
    """Return a PNG image as a `data:` URL, so that a page contains the image itself."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure to `path` as a PNG file, atomically, and close it."""
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    plt.close(figure)
