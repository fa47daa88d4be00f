"""The report of a finished run, opened in a browser."""

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pytest
from browser import Page, new_page
from working_copy import NOTHING_TO_DO, WorkingCopy, faulty_config

RUN = "results/runs/demo_ru"

# The headings of the pages, and the pictures, that the report must show.
PAGES = {
    "results/runs.html": "All runs side by side",
    "results/data/demo_ru/audit.html": "Spoken Russian digits demo-1.0",
    f"{RUN}/card.html": "wav2vec2 Russian digits demo",
    f"{RUN}/worst/demo_ru-dev.html": "Spoken Russian digits demo-1.0 dev: the worst clips",
    f"{RUN}/worst/demo_ru-test.html": "Spoken Russian digits demo-1.0 test: the worst clips",
}
PICTURES = {f"{RUN}/model/plots/{plot}.png" for plot in ("loss", "wer", "breakdown", "robustness", "reliability")}
PICTURES |= {f"{RUN}/lm/surface.png"}

pytestmark = pytest.mark.slow


@contextmanager
def opened(file: Path) -> Iterator[Page]:
    """Open a report in a browser, on its overview."""
    with new_page() as page:
        page.open(file.as_uri())
        page.until("document.querySelector('#rulegraph :is(canvas, svg)')")
        yield page


@pytest.fixture(scope="module")
def report(finished: WorkingCopy) -> Iterator[Page]:
    """The report of the finished run, in a browser that all tests share."""
    with opened(finished.folder / "report.html") as page:
        yield page


def click(report: Page, selector: str, text: str) -> None:
    """Click the only element with this text."""
    found = (
        f"[...document.querySelectorAll({json.dumps(selector)})]"
        f".filter(each => each.textContent.trim() === {json.dumps(text)})"
    )
    report.until(f"{found}.length === 1")
    report.evaluate(f"{found}[0].click()")


def results(report: Page) -> dict[str, Any]:
    """Return the metadata of each result in the report."""
    found = report.evaluate(
        "Object.fromEntries(Object.entries(results).map(([path, { data_uri, ...rest }]) => [path, rest]))"
    )
    return dict(found)


def show(report: Page, path: str) -> None:
    """Open a result as a reader does, with the eye icon beside its description."""
    report.evaluate("app.setView({ navbarMode: 'menu', content: 'stats' })")
    report.until("!document.querySelector('iframe')")
    report.evaluate(f"app.showResultInfo({json.dumps(path)})")
    report.until(f"document.querySelector('nav').textContent.includes({json.dumps(path)})")
    report.evaluate("document.querySelector('nav tbody a').click()")


def test_report_opens_with_an_overview_and_rules(report: Page) -> None:
    assert report.evaluate("document.querySelector('.prose h1').textContent") == "From speech to models"
    rules = {node["rule"] for node in report.evaluate("rulegraph_spec.data[0].values")}
    assert {"ingest_dataset", "audit", "finetune", "evaluate", "card", "worst", "runs_table"} <= rules
    assert report.evaluate("document.querySelector('#rulegraph :is(canvas, svg)').clientWidth") > 100
    menu = report.evaluate("[...document.querySelectorAll('nav .p-3 li a')].map(link => link.textContent.trim())")
    assert menu == ["Workflow", "Statistics", "About", "All runs", "Data", "Runs"]


def test_each_result_has_a_caption(report: Page) -> None:
    found = results(report)
    assert {*PAGES, *PICTURES} <= {*found}
    for path, result in found.items():
        assert len(result["caption"]) > 50, path
        assert "system-message" not in result["caption"], path
    assert "system-message" not in report.evaluate("workflow_desc")


def test_each_category_lists_its_results(report: Page) -> None:
    for category in ("All runs", "Data", "Runs"):
        report.evaluate("app.setView({ navbarMode: 'menu' })")
        click(report, "nav .p-3 a", category)
        report.until("document.querySelectorAll('nav tbody a').length >= 2")
    whats = "[...document.querySelectorAll('nav tbody tr')].map(row => row.cells[1].textContent)"
    assert {"model card", "loss over steps", "worst clips of demo_ru-test"} <= {*report.evaluate(whats)}


@pytest.mark.parametrize(("path", "heading"), PAGES.items())
def test_each_page_opens(report: Page, path: str, heading: str) -> None:
    show(report, path)
    report.until_shown(heading)
    pictures = "[...document.images].map(image => image.decode().then(() => image.naturalWidth))"
    assert all(report.evaluate(f"Promise.all({pictures})", inside=True))


@pytest.mark.parametrize("path", sorted(PICTURES))
def test_each_picture_opens(report: Page, path: str) -> None:
    show(report, path)
    report.until("document.querySelector('#app img:not(nav img)')?.naturalWidth > 300")


def test_worst_clips_play(report: Page) -> None:
    path = f"{RUN}/worst/demo_ru-test.html"
    show(report, path)
    report.until_shown(PAGES[path])
    seconds = report.evaluate(
        "Promise.all([...document.querySelectorAll('audio')].map(audio => new Promise((done, fail) => {"
        " audio.onloadedmetadata = () => done(audio.duration); audio.onerror = fail; audio.load(); })))",
        inside=True,
    )
    assert len(seconds) == 2
    assert all(0.3 < each < 10 for each in seconds)


def test_page_of_three_megabytes_opens(finished: WorkingCopy, tmp_path: Path) -> None:
    path = f"{RUN}/worst/demo_ru-test.html"
    page = (finished.folder / path).read_bytes()
    larger = page + b"<!--" + bytes(10) * 300_000 + b"-->"
    before, after = (base64.b64encode(each).decode() for each in (page, larger))
    text = (finished.folder / "report.html").read_text(encoding="utf-8")
    assert text.count(before) == 1
    (tmp_path / "report.html").write_text(text.replace(before, after), encoding="utf-8")
    with opened(tmp_path / "report.html") as report:
        show(report, path)
        report.until_shown(PAGES[path])
        assert report.errors == []


def test_overview_links_every_page_and_picture(report: Page) -> None:
    links = report.evaluate(
        "(() => { const box = document.createElement('div'); box.innerHTML = workflow_desc;"
        " return [...box.querySelectorAll('a')].map(link => link.href); })()"
    )
    assert len(links) == len(PAGES) + len(PICTURES)
    report.evaluate("app.setView({ navbarMode: 'menu', content: 'rulegraph' })")
    click(report, ".prose a", "model card")
    report.until_shown(PAGES[f"{RUN}/card.html"])
    assert "The model card of" in report.evaluate("document.querySelector('nav').textContent")


def test_caption_of_all_runs_links_the_cards(report: Page) -> None:
    report.evaluate("app.showResultInfo('results/runs.html')")
    click(report, "nav .prose a", "The card of demo_ru")
    report.until_shown(PAGES[f"{RUN}/card.html"])


def test_report_loads_nothing_remote_and_logs_no_error(report: Page) -> None:
    assert {urlparse(address).scheme for address in report.requests} <= {"file", "data", "blob"}
    assert report.errors == []


def test_later_report_equals_the_first(changed: WorkingCopy, report: Page) -> None:
    run = changed.snakemake(faulty_config(), "--report", "later.html", "--report-after-run")
    assert NOTHING_TO_DO in run.output
    with opened(changed.folder / "later.html") as page:
        for part in ("Object.keys(rules)", "rulegraph_spec.data[0].values.map(node => node.rule)"):
            assert sorted(page.evaluate(part)) == sorted(report.evaluate(part))
        assert results(page) == results(report)
