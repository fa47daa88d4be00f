"""ingest_pieces: make raw shards of the pieces that a model has cut from the recordings of another dataset."""

import argparse
import shutil
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from speechmill.core.command import printable, run_command
from speechmill.core.files import read_json, write_json
from speechmill.core.schemas import RAW
from speechmill.core.tables import read_rows, write_in_row_groups

_ROW_GROUP = 32

KEPT = "kept"
"""The name of the pieces that become clips, among the reasons for the others."""


class IngestPiecesSettings(BaseModel):
    """The stage settings."""

    shards: dict[str, int]
    min_score: float
    about: dict[str, Any]
    """How the pieces were made: the dataset `of`, the `stage`, and the model."""


def ingest_pieces(pieces: list[Path], settings: IngestPiecesSettings, raw: Path) -> dict[str, Any]:
    """Write the raw shards `raw/{split}/shard-{number}.parquet` and the summary `raw/source.json`, which is returned.

    Each table of `pieces`, `{split}/shard-{number}.parquet`, makes the raw shard of the same name. A piece whose score
    is below `min_score` has no audio there and the reason `score`, so that later stages count it as rejected. Parts of
    the recordings and of their transcripts that are no pieces are counted in the summary alone: `about.parts` has for
    the kept pieces, and for each reason, the number of pieces, their seconds and their words.
    """
    temporary = raw.with_name(f".{raw.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        parts: dict[str, dict[str, float]] = defaultdict(lambda: {"pieces": 0, "seconds": 0.0, "words": 0})
        published = dict.fromkeys(settings.shards, 0)
        for table in pieces:
            split = table.parent.name
            shard = temporary / split / table.name
            shard.parent.mkdir(parents=True, exist_ok=True)
            sizes = write_in_row_groups(_raw_rows(table, settings.min_score, parts), RAW, shard, _ROW_GROUP)
            published[split] += sum(sizes)
        source = {
            "available": True,
            "why": None,
            "published": published,
            "near_misses": {},
            "about": settings.about | {"min_score": settings.min_score, "parts": dict(sorted(parts.items()))},
        }
        write_json(source, temporary / "source.json")
        shutil.rmtree(raw, ignore_errors=True)
        temporary.rename(raw)
        return source
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _raw_rows(table: Path, min_score: float, parts: dict[str, dict[str, float]]) -> Iterator[dict[str, Any]]:
    """Yield the row of each piece for a raw shard, and add every part of the recordings to `parts`."""
    for piece in read_rows(table):
        start, end, score = piece.pop("start"), piece.pop("end"), piece["score"]
        rejected = piece["reason"] is None and score < min_score
        part = parts["score" if rejected else piece["reason"] or KEPT]
        part["pieces"] += 1
        part["seconds"] += end - start
        part["words"] += len(piece["sentence"].split())
        if piece["reason"] is None:
            row = piece | {"file": f"{piece['recording']} [{start:.2f} s – {end:.2f} s]"}
            if rejected:
                row |= {"encoded": None, "reason": "score", "detail": f"its score is {score:.2f}"}
            yield row


def format_parts(about: dict[str, Any]) -> list[str]:
    """Return a sentence on the recordings of a dataset that was made from them, and one for each part of them."""
    parts = about["parts"]
    total = sum(part["seconds"] for part in parts.values())
    names = {
        KEPT: "are clips",
        "score": f"have a score below {about['min_score']:g}",
        "no_text": "have no text in the transcript",
        "no_speech": "contain no speech",
        "not_in_audio": "of the transcript are not in the audio",
        "empty": "have an empty hypothesis",
    }
    sentences = [f"{total / 3600:,.2f} h of recordings in {about['of']}"]
    for reason, part in parts.items():
        amount = [f"{part['seconds'] / 3600:,.2f} h ({part['seconds'] / total:.1%})"] if part["seconds"] else []
        amount += [f"{part['words']:,} words"] if part["words"] else []
        sentences.append(f"{' with '.join(amount)} {names[reason]}, in {part['pieces']:,} parts")
    return sentences


def main() -> None:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=IngestPiecesSettings.model_validate_json, required=True)
    parser.add_argument("--pieces", type=Path, nargs="+", required=True)
    parser.add_argument("--status", type=Path, required=True, help="the status of the dataset with the recordings")
    parser.add_argument("--raw", type=Path, required=True)
    args = parser.parse_args()
    settings: IngestPiecesSettings = args.settings
    source = ingest_pieces(args.pieces, settings, args.raw)
    status = read_json(args.status)
    if not status["available"]:
        write_json(source | {"available": False, "why": status["why"]}, args.raw / "source.json")
    for sentence in format_parts(source["about"]):
        print(printable(f"{args.raw.name}: {sentence}"))


if __name__ == "__main__":
    run_command(main)
