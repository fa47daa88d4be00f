"""ingest: a corpus as published, read once, into raw shards of encoded clips."""

import argparse
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from speechmill.command import SpeechmillError, run_command
from speechmill.config.datasets import CommonVoice, IngestSettings
from speechmill.sources.common_voice import open_common_voice
from speechmill.sources.corpus import Corpus, Published
from speechmill.sources.folder import open_folder
from speechmill.tables import RAW, write_in_row_groups, write_json

_ROW_GROUP = 32


def ingest(path: Path, settings: IngestSettings, fingerprint: str, raw: Path) -> None:
    """Write every clip that the corpus at `path` publishes under `raw/{split}/shard-{number}.parquet`.

    The clips of a split are dealt out to its shards in turn, so that shards are equally large and each is a fair
    sample; a clip that several splits have is in the first. A listed clip without a file is there too, with
    null for its bytes: what is missing is counted later.
    """
    if not path.exists():
        raise SpeechmillError(f"{path}: there is nothing here; the dataset's `path` must say where the corpus lies")
    beside = raw.with_name(f".{raw.name}.part")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    source = settings.source
    opened = (
        open_common_voice(path, source, settings.splits, beside)
        if isinstance(source, CommonVoice)
        else open_folder(path, source, settings.splits, beside)
    )
    with opened as corpus:
        for split in settings.splits:
            clips = [clip for clip in corpus.clips if clip.splits[0] == split]
            count = settings.shards[split]
            for number in range(count):
                shard = beside / split / f"shard-{number:05d}.parquet"
                write_in_row_groups(_rows(corpus, clips[number::count]), RAW, shard, _ROW_GROUP)
    write_json({"fingerprint": fingerprint}, beside / "source.json")
    shutil.rmtree(raw, ignore_errors=True)
    beside.rename(raw)


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
    parser.add_argument("--path", type=Path, required=True)
    parser.add_argument("--fingerprint", required=True, help="what `path` held when the workflow was planned")
    parser.add_argument("--raw", type=Path, required=True)
    args = parser.parse_args()
    ingest(args.path, args.settings, args.fingerprint, args.raw)


if __name__ == "__main__":
    run_command(main)
