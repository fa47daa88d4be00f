"""ingest_text: download a text for language models, and write its sentences."""

import argparse
import itertools
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import zstandard
from pydantic import BaseModel

from speechmill.config.datasets import Download
from speechmill.config.texts import WIKIPEDIA_DATES, TextFormat
from speechmill.core.command import SpeechmillError, run_command
from speechmill.core.files import atomic_write, file_digest, read_json, write_json
from speechmill.corpus.download import download
from speechmill.corpus.download_record import downloaded, sidecar
from speechmill.corpus.sources.corpus import UnavailableError
from speechmill.corpus.sources.file_kinds import web_page
from speechmill.corpus.texts.files import Page, detect_format, open_text, read_articles, read_elements, read_lines
from speechmill.corpus.texts.sentences import split_sentences
from speechmill.corpus.texts.wikitext import wiki_paragraphs

_PAGES = 64
"""The number of pages that a process gets at a time."""


class IngestTextSettings(BaseModel):
    """The stage settings, from `texts.NAME`."""

    wikipedia: str | None = None
    format: Literal["auto", TextFormat] = "auto"
    element: str = "p"
    max_sentences: int | None = None


class TextLocation(BaseModel):
    """The path of a text on this machine, and the download that creates it."""

    path: Path
    download: Download | None = None


def fetch(location: TextLocation, wikipedia: str | None) -> dict[str, Any]:
    """Download the text if it is not at its path; return its `bytes`, `sha256` and, where it is known, its `url`.

    Raises:
        SpeechmillError: It cannot be downloaded, or has another size or digest than it should.
    """
    path, wanted = location.path.expanduser(), location.download
    if wanted is not None:
        if downloaded(path) and not downloaded(path, wanted.bytes, wanted.sha256):
            raise SpeechmillError(f"{path} was downloaded and has another size or sha256; delete it and run again")
        try:
            download(wanted, path, refuse=web_page)
        except UnavailableError as error:
            dates = WIKIPEDIA_DATES.format(wiki=wikipedia)
            advice = f"; dumps are kept for some months: set `date` to one of those at {dates}" if wikipedia else ""
            raise SpeechmillError(f"{error}{advice}") from error
    if not path.is_file():
        raise SpeechmillError(f"{path} does not exist; correct the `path` of the text")
    if downloaded(path):
        return dict(read_json(sidecar(path)))
    return {"bytes": path.stat().st_size, "sha256": file_digest(path)}


def sentences(
    path: Path, settings: IngestTextSettings, threads: int, counts: Counter[str]
) -> Generator[str, None, None]:
    """Yield the sentences of a text in the order of the file, and count what is read and left out.

    The wikitext of a dump is converted in `threads` processes. Memory does not depend on the size of the file.
    """
    with ExitStack() as stack:
        stream = stack.enter_context(open_text(path))
        kind = detect_format(stream) if settings.format == "auto" else settings.format
        if kind == "mediawiki":
            pool = ProcessPoolExecutor(threads)
            stack.callback(pool.shutdown, cancel_futures=True)
            pages = read_articles(stream, path, counts)
            yield from _in_processes(pool, _page_sentences, _batches(pages), 2 * threads)
            return
        paragraphs = read_lines(stream, path) if kind == "plain" else read_elements(stream, path, settings.element)
        for paragraph in paragraphs:
            counts["paragraphs"] += 1
            yield from split_sentences(paragraph)


def _page_sentences(pages: Iterable[Page]) -> list[str]:
    paragraphs = (each for page in pages for each in wiki_paragraphs(page.markup, page.left_out_namespaces))
    return [sentence for paragraph in paragraphs for sentence in split_sentences(paragraph)]


def _batches(pages: Iterator[Page]) -> Iterator[list[Page]]:
    while batch := list(itertools.islice(pages, _PAGES)):
        yield batch


def _in_processes(
    pool: ProcessPoolExecutor, function: Callable[[list[Page]], list[str]], batches: Iterable[list[Page]], ahead: int
) -> Iterator[str]:
    """Yield the results for all batches in their order; at most `ahead` batches are in memory at a time."""
    waiting: deque[Future[list[str]]] = deque()
    for batch in batches:
        waiting.append(pool.submit(function, batch))
        if len(waiting) > ahead:
            yield from waiting.popleft().result()
    while waiting:
        yield from waiting.popleft().result()


def write_sentences(path: Path, settings: IngestTextSettings, threads: int, file: Path) -> dict[str, Any]:
    """Write the sentences of a text to `file`, one per line, compressed with Zstandard; return the counts.

    `complete` is false if `max_sentences` ended the reading early.

    Raises:
        SpeechmillError: The file cannot be read, or contains no sentence.
    """
    counts: Counter[str] = Counter()
    with atomic_write(file) as temporary, zstandard.open(temporary, "wt", encoding="utf-8") as output:
        found = sentences(path, settings, threads, counts)
        for sentence in itertools.islice(found, settings.max_sentences):
            counts["sentences"] += 1
            output.write(sentence + "\n")
        complete = next(found, None) is None
        found.close()
        if not counts["sentences"]:
            raise SpeechmillError(f"{path} contains no sentence; check its `format`")
    return dict(counts) | {"complete": complete}


def main() -> None:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=IngestTextSettings.model_validate_json, required=True)
    parser.add_argument("--location", type=TextLocation.model_validate_json, required=True)
    parser.add_argument("--fingerprint", required=True, help="state of the source when the workflow was planned")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--sentences", type=Path, required=True)
    parser.add_argument("--record", type=Path, required=True)
    args = parser.parse_args()
    source = fetch(args.location, args.settings.wikipedia)
    counts = write_sentences(args.location.path.expanduser(), args.settings, args.threads, args.sentences)
    print(", ".join(f"{name}: {count:,}" for name, count in counts.items() if name != "complete"))
    if not counts["complete"]:
        print(f"the text has more sentences; `max_sentences` is {args.settings.max_sentences:,}")
    digests = {args.sentences.name: file_digest(args.sentences)}
    write_json({"fingerprint": args.fingerprint, "source": source, "counts": counts, "sha256": digests}, args.record)


if __name__ == "__main__":
    run_command(main)
