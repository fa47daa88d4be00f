"""Ingest stage: reads a corpus from its source once and writes raw shards of encoded clips."""

import argparse
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from speechmill.config.datasets import CommonVoice, Download, Folder, IngestSettings, Zeroth
from speechmill.core.command import SpeechmillError, run_command
from speechmill.core.files import atomic_folder, write_json
from speechmill.core.progress import progress
from speechmill.core.schemas import RAW
from speechmill.core.tables import write_in_row_groups
from speechmill.corpus.audio import UnreadableAudioError
from speechmill.corpus.download import download
from speechmill.corpus.download_record import downloaded
from speechmill.corpus.encoded import Encoded, sha256
from speechmill.corpus.pieces import cut
from speechmill.corpus.sources.common_voice import open_common_voice
from speechmill.corpus.sources.corpus import Corpus, SourceClip, UnavailableError
from speechmill.corpus.sources.folder import open_folder
from speechmill.corpus.sources.spool import Spool, open_spool
from speechmill.corpus.sources.zeroth import open_zeroth

_ROW_GROUP = 32


class SourceLocation(BaseModel):
    """The path of a corpus on this host, None for a dataset on the Hub, and the download that creates it."""

    path: Path | None
    download: Download | None = None


def ingest(location: SourceLocation, settings: IngestSettings, fingerprint: str, raw: Path) -> None:
    """Write every clip of the corpus to `raw/{split}/shard-{number}.parquet`, and a summary to `raw/source.json`.

    The clips of a split are distributed to its shards in turn, so that the shards have equal sizes and each is a fair
    sample. A clip of several splits is in the first of them. A listed clip without a file, or one that cannot be read,
    has null for its bytes, so that later stages count it. An optional corpus that is unavailable yields empty shards.

    A recording that does not fit into memory is copied to a file beside its shard. Recordings of which clips are pieces
    are decoded one after the other, and their pieces are kept on the disk until they are in the shards.
    """
    with atomic_folder(raw) as temporary:
        source = _ingest(location, settings, temporary, raw.name)
        write_json({"fingerprint": fingerprint} | source, temporary / "source.json")


def _ingest(location: SourceLocation, settings: IngestSettings, folder: Path, name: str) -> dict[str, Any]:
    available, why = True, None
    try:
        with open_corpus(location, settings, folder) as corpus:
            listed = {split: sum(split in clip.splits for clip in corpus.clips) for split in settings.splits}
            about = corpus.about
            similar = corpus.near_misses(_write_shards(corpus, settings, folder))
    except UnavailableError as error:
        if not settings.optional:
            raise
        available, why = False, f"{error}; once it is available, delete results/raw/{name} and run snakemake again"
        listed, about, similar = dict.fromkeys(settings.splits, 0), {}, {}
        _write_shards(Corpus([], lambda clip: None), settings, folder)
        print(f"continuing without an optional dataset: {why}")
    return {"available": available, "why": why, "published": listed, "near_misses": similar, "about": about}


def open_corpus(location: SourceLocation, settings: IngestSettings, work: Path) -> AbstractContextManager[Corpus]:
    """Return a context manager that yields the corpus at a location; `work` is a folder for temporary files.

    Raises:
        UnavailableError: The corpus does not exist, or access is denied.
        SpeechmillError: The source refuses it.
    """
    source, splits = settings.source, settings.splits
    path = None if location.path is None else location.path.expanduser()
    if path is not None and not path.exists():
        if location.download is None:
            raise UnavailableError(f"{path} does not exist; set the dataset's `path` to the corpus")
        download(location.download, path)
    wanted = location.download
    if wanted and path and downloaded(path) and not downloaded(path, wanted.bytes, wanted.sha256):
        raise SpeechmillError(f"{path} was downloaded and no longer matches `download`; delete it and run again")
    if isinstance(source, CommonVoice):
        return open_common_voice(_require(path), source, splits, work)
    if isinstance(source, Zeroth):
        return open_zeroth(_require(path), source, splits, work)
    if isinstance(source, Folder):
        return open_folder(_require(path), source, splits, work)
    # Importing `datasets` takes longer than reading a small archive.
    from speechmill.corpus.sources.hub import open_hub

    return open_hub(path, source, splits, work)


def _require(path: Path | None) -> Path:
    if path is None:
        raise SpeechmillError("this source needs the dataset's `path`; set it")
    return path


def _write_shards(corpus: Corpus, settings: IngestSettings, folder: Path) -> list[SourceClip]:
    """Write the raw shards, and return the clips whose files are missing."""
    missing: list[SourceClip] = []
    by_split: dict[str, list[SourceClip]] = {split: [] for split in settings.splits}
    for clip in corpus.clips:
        by_split[clip.splits[0]].append(clip)
    with _open_clips(corpus, folder) as read:
        for split, clips in by_split.items():
            count = settings.shards[split]
            for number in range(count):
                shard = folder / split / f"shard-{number:05d}.parquet"
                rows = _rows(read, clips[number::count], shard, missing)
                write_in_row_groups(rows, RAW, shard, _ROW_GROUP)
    return missing


@contextmanager
def _open_clips(corpus: Corpus, work: Path) -> Iterator[Callable[[SourceClip], Encoded | None]]:
    """Cut all clips that are pieces, and yield a function that reads any clip as `Corpus.read` reads a recording."""
    by_recording: dict[str, list[SourceClip]] = {}
    for clip in corpus.clips:
        if clip.piece is not None:
            by_recording.setdefault(clip.file, []).append(clip)
    failed: dict[str, UnreadableAudioError] = {}
    with open_spool(work) as spool:
        for clips in progress(by_recording.values(), desc="cutting", unit="recording", disable=not by_recording):
            failed |= _cut(corpus, clips, spool, work)

        def read(clip: SourceClip) -> Encoded | None:
            if clip.id in failed:
                raise failed[clip.id]
            return corpus.read(clip) if clip.piece is None else spool.encoded(clip.id)

        yield read


def _cut(corpus: Corpus, clips: list[SourceClip], spool: Spool, work: Path) -> dict[str, UnreadableAudioError]:
    """Store the clips, which are pieces of one recording, in `spool`, and return the errors of the others by id."""
    failed: dict[str, UnreadableAudioError] = {}
    pieces = [clip.piece for clip in clips if clip.piece is not None]
    try:
        recording = corpus.read(clips[0])
        if recording is not None:
            for clip, found in zip(clips, cut(recording, clips[0].file, pieces, work), strict=True):
                if isinstance(found, UnreadableAudioError):
                    failed[clip.id] = found
                else:
                    spool.add(clip.id, found)
    except UnreadableAudioError as error:
        return {clip.id: error for clip in clips}
    return failed


def _rows(
    read: Callable[[SourceClip], Encoded | None], clips: list[SourceClip], shard: Path, missing: list[SourceClip]
) -> Iterator[dict[str, Any]]:
    for number, clip in enumerate(clips):
        row: dict[str, Any] = {
            "id": clip.id,
            "splits": list(clip.splits),
            "file": clip.file if clip.piece is None else f"{clip.file} {clip.piece}",
            "sentence": clip.sentence,
            "speaker_id": clip.speaker_id,
            "gender": clip.gender,
            "age": clip.age,
            "accent": clip.accent,
        }
        if clip.piece is not None:
            row |= clip.piece._asdict() | {"recording": clip.file}
        try:
            encoded = read(clip)
        except UnreadableAudioError as error:
            row |= {"reason": error.reason, "detail": str(error)}
        else:
            if encoded is None:
                missing.append(clip)
            if isinstance(encoded, Path):
                file = shard.with_name(f"{shard.stem}-{number:05d}")
                shutil.copyfile(encoded, file)
                row |= {"encoded_file": file.name, "encoded_file_sha256": sha256(file)}
            else:
                row["encoded"] = encoded
        yield row


def main() -> None:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=IngestSettings.model_validate_json, required=True)
    parser.add_argument("--location", type=SourceLocation.model_validate_json, required=True)
    parser.add_argument("--staged", type=Path, nargs="*", default=[], help="local copy that snakemake has staged")
    parser.add_argument("--fingerprint", required=True, help="state of the source when the workflow was planned")
    parser.add_argument("--raw", type=Path, required=True)
    args = parser.parse_args()
    location = SourceLocation(path=args.staged[0]) if args.staged else args.location
    ingest(location, args.settings, args.fingerprint, args.raw)


if __name__ == "__main__":
    run_command(main)
