"""ingest: a corpus as published, read once, into raw shards of encoded clips."""

import argparse
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from speechmill.config.datasets import CommonVoice, Download, Folder, IngestSettings, Zeroth
from speechmill.core.command import SpeechmillError, run_command
from speechmill.core.tables import RAW, write_in_row_groups, write_json
from speechmill.corpus.download import download
from speechmill.corpus.download_record import downloaded
from speechmill.corpus.sources.common_voice import open_common_voice
from speechmill.corpus.sources.corpus import Corpus, Published, UnavailableError
from speechmill.corpus.sources.folder import open_folder
from speechmill.corpus.sources.zeroth import open_zeroth

_ROW_GROUP = 32


class SourceLocation(BaseModel):
    """Where a corpus lies on this host, and how it gets there; None for a dataset on the Hub."""

    path: Path | None
    download: Download | None = None


def ingest(place: SourceLocation, settings: IngestSettings, fingerprint: str, raw: Path) -> None:
    """Write every clip that the corpus publishes under `raw/{split}/shard-{number}.parquet`, and `raw/source.json`.

    The clips of a split are dealt out to its shards in turn, so that shards are equally large and each is a fair
    sample; a clip that several splits have is in the first. A listed clip without a file is there too, with
    null for its bytes: what is missing is counted later. An optional corpus that cannot be had leaves empty shards.
    """
    beside = raw.with_name(f".{raw.name}.part")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        source = _fill(place, settings, beside, raw.name)
        write_json({"fingerprint": fingerprint} | source, beside / "source.json")
        shutil.rmtree(raw, ignore_errors=True)
        beside.rename(raw)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _fill(place: SourceLocation, settings: IngestSettings, folder: Path, name: str) -> dict[str, Any]:
    available, why = True, None
    try:
        with _opened(place, settings, folder) as corpus:
            published = {split: sum(split in clip.splits for clip in corpus.clips) for split in settings.splits}
            about = corpus.about
            _write(corpus, settings, folder)
    except UnavailableError as error:
        if not settings.optional:
            raise
        available, why = False, f"{error}; once it can be had, delete results/raw/{name} and run snakemake again"
        published, about = dict.fromkeys(settings.splits, 0), {}
        _write(Corpus([], lambda clip: None), settings, folder)
        print(f"going on without an optional dataset: {why}")
    return {"available": available, "why": why, "listed": published, "about": about}


def _opened(place: SourceLocation, settings: IngestSettings, work: Path) -> AbstractContextManager[Corpus]:
    source, splits = settings.source, settings.splits
    path = None if place.path is None else place.path.expanduser()
    if path is not None and not path.exists():
        if place.download is None:
            raise UnavailableError(
                f"{path}: there is nothing here; the dataset's `path` must say where the corpus lies"
            )
        download(place.download, path)
    asked = place.download
    if asked and path and downloaded(path) and not downloaded(path, asked.bytes, asked.sha256):
        raise SpeechmillError(f"{path} was fetched, and is not what `download` asks for any more: delete it")
    if isinstance(source, CommonVoice):
        return open_common_voice(_needed(path), source, splits, work)
    if isinstance(source, Zeroth):
        return open_zeroth(_needed(path), source, splits, work)
    if isinstance(source, Folder):
        return open_folder(_needed(path), source, splits, work)
    # Importing `datasets` takes longer than reading a small archive.
    from speechmill.corpus.sources.hub import open_hub

    return open_hub(path, source, splits, work)


def _needed(path: Path | None) -> Path:
    if path is None:
        raise SpeechmillError("the dataset's `path` is needed for this source")
    return path


def _write(corpus: Corpus, settings: IngestSettings, folder: Path) -> None:
    by_split: dict[str, list[Published]] = {split: [] for split in settings.splits}
    for clip in corpus.clips:
        by_split[clip.splits[0]].append(clip)
    for split, clips in by_split.items():
        count = settings.shards[split]
        for number in range(count):
            shard = folder / split / f"shard-{number:05d}.parquet"
            write_in_row_groups(_rows(corpus, clips[number::count]), RAW, shard, _ROW_GROUP)


def _rows(corpus: Corpus, clips: list[Published]) -> Iterator[dict[str, Any]]:
    for clip in clips:
        yield {
            "id": clip.id,
            "splits": list(clip.splits),
            "file": clip.file,
            "encoded": corpus.read(clip),
            "sentence": clip.sentence,
            "speaker_id": clip.speaker_id,
            "gender": clip.gender,
            "age": clip.age,
            "accent": clip.accent,
        }


def main() -> None:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=IngestSettings.model_validate_json, required=True)
    parser.add_argument("--location", type=SourceLocation.model_validate_json, required=True)
    parser.add_argument("--staged", type=Path, nargs="*", default=[], help="where snakemake has put the corpus")
    parser.add_argument("--fingerprint", required=True, help="what lay there when the workflow was planned")
    parser.add_argument("--raw", type=Path, required=True)
    args = parser.parse_args()
    place = SourceLocation(path=args.staged[0]) if args.staged else args.location
    ingest(place, args.settings, args.fingerprint, args.raw)


if __name__ == "__main__":
    run_command(main)
