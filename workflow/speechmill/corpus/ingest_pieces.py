"""ingest_pieces: make raw shards of the pieces that a model has cut from the recordings of another dataset."""

import argparse
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from speechmill.core.command import SpeechmillError, printable, run_command
from speechmill.core.files import atomic_folder, read_json, write_json
from speechmill.core.formatting import duration
from speechmill.core.schemas import RAW
from speechmill.core.selection import is_selected
from speechmill.core.tables import read_rows, read_table, write_in_row_groups

_ROW_GROUP = 32

KEPT = "kept"
"""The pieces that become clips, among the reasons why others do not."""

BELOW = "score"
"""The reason why a piece with a score below the threshold becomes no clip."""

_PART_NAMES = {
    KEPT: "clips",
    BELOW: "score below {min_score:g}",
    "pause": "pauses between clips",
    "no_text": "speech without text",
    "no_audio": "text that is not in the audio",
    "different": "speech and text that do not match",
    "no_pause": "not separated by a pause from what is left out",
    "short": "shorter than the shortest clip",
    "long": "longer than the longest clip, without a pause",
    "vocabulary": "transcripts mostly outside the vocabulary of the model",
    "no_speech": "audio without speech",
    "empty": "speech with an empty hypothesis",
    "unknown": "speech with an unknown token in the hypothesis",
}


class IngestPiecesSettings(BaseModel):
    """The stage settings."""

    min_score: float
    about: dict[str, Any]
    """How the pieces were made: the dataset `of`, the `stage`, and the model, or the run and its decoder."""


def ingest_pieces(
    pieces: list[Path], settings: IngestPiecesSettings, raw: Path, why: str | None = None
) -> dict[str, Any]:
    """Write the raw shards `raw/{split}/shard-{number}.parquet` and the summary `raw/source.json`, which is returned.

    Each table of `pieces`, `{split}/shard-{number}.parquet`, makes the raw shard of the same name. A piece whose score
    is below `min_score` has no audio there and the reason `score`, so that later stages count it as rejected. Parts of
    the recordings and of their transcripts that are no pieces are counted in the summary alone: `about.parts` is what
    `count_parts` returns. `why` says why the recordings are unavailable, if they are.

    Raises:
        SpeechmillError: No piece was cut from the recordings of a split.
    """
    tables: dict[str, list[Path]] = {}
    for table in pieces:
        tables.setdefault(table.parent.name, []).append(table)
    about = settings.about | {"min_score": settings.min_score, "parts": count_parts(pieces, settings.min_score)}
    published = {}
    with atomic_folder(raw) as temporary:
        for split, of_split in tables.items():
            sizes: list[int] = []
            for table in of_split:
                rows = _raw_rows(table, settings.min_score)
                sizes += write_in_row_groups(rows, RAW, temporary / split / table.name, _ROW_GROUP)
            published[split] = sum(sizes)
            if not published[split] and (parts := count_parts(of_split, settings.min_score)):
                raise _no_clip_error(raw.name, split, about | {"parts": parts})
        source = {"available": why is None, "why": why, "published": published, "near_misses": {}, "about": about}
        write_json(source, temporary / "source.json")
    return source


def _no_clip_error(dataset: str, split: str, about: Mapping[str, Any]) -> SpeechmillError:
    vocabulary = (
        " The log of the stage segment lists the characters that the vocabulary lacks; to replace them, set"
        f" datasets.{dataset}.text"
    )
    return SpeechmillError(
        f"no clip was cut from the recordings of {about['of']}-{split}: {format_parts(about)}. Check that each"
        " transcript belongs to its recording, and that the model is one for its language, or remove the split from"
        f" datasets.{dataset}.splits.{vocabulary if 'vocabulary' in about['parts'] else ''}"
    )


def _raw_rows(table: Path, min_score: float) -> Iterator[dict[str, Any]]:
    """Yield the row of each piece for a raw shard."""
    for piece in read_rows(table):
        if piece["reason"] is not None:
            continue
        row = piece | {"file": f"{piece['recording']} [{piece['start']:.2f} s – {piece['end']:.2f} s]"}
        if _part(piece, min_score) == BELOW:
            row |= {
                "encoded": None,
                "reason": BELOW,
                "detail": f"its score is {piece['score']:.2f}, the lowest to keep is {min_score:g}",
            }
        yield row


def count_parts(pieces: Iterable[Path], min_score: float) -> dict[str, dict[str, Any]]:
    """Return the parts that the recordings and the transcripts of a dataset consist of.

    Args:
        pieces: The tables of pieces.
        min_score: The lowest score of a piece that is kept.

    Returns:
        For `KEPT` pieces, for those `BELOW` the threshold, and for each reason for which a part is no piece: the
        number of `parts`, their `seconds` and their `words`. Kept pieces are first, the others by their reason.
    """
    counts: dict[str, dict[str, Any]] = {}
    for table in pieces:
        for piece in read_table(table, ["start", "end", "sentence", "score", "reason"]).to_pylist():
            part = counts.setdefault(_part(piece, min_score), {"parts": 0, "seconds": 0.0, "words": 0})
            part["parts"] += 1
            part["seconds"] += piece["end"] - piece["start"]
            part["words"] += len((piece["sentence"] or "").split())
    for part in counts.values():
        part["seconds"] = round(part["seconds"], 3)
    return {name: counts[name] for name in sorted(counts, key=lambda name: (name != KEPT, name != BELOW, name))}


def _part(piece: Mapping[str, Any], min_score: float) -> str:
    if piece["reason"] is not None:
        return str(piece["reason"])
    return KEPT if piece["score"] >= min_score else BELOW


def part_name(part: str, about: Mapping[str, Any]) -> str:
    """Return the display name of a part that `count_parts` returns; `about` is that of the dataset."""
    return _PART_NAMES[part].format(min_score=about["min_score"]) if part in _PART_NAMES else part


def format_parts(about: Mapping[str, Any]) -> str:
    """Return a sentence on what the recordings of a dataset that was made from them consist of."""
    total = sum(part["seconds"] for part in about["parts"].values())
    amounts = [f"{part_name(name, about)}: {_amount(part, total)}" for name, part in about["parts"].items()]
    return f"{_duration(total)} of recordings in {about['of']}: {'; '.join(amounts) or 'none'}"


def _amount(part: Mapping[str, Any], total: float) -> str:
    amounts = [f"{part['parts']:,} {'part' if part['parts'] == 1 else 'parts'}"]
    if part["seconds"]:
        amounts.append(f"{_duration(part['seconds'])} ({part['seconds'] / total:.1%})")
    if part["words"]:
        amounts.append(f"{part['words']:,} {'word' if part['words'] == 1 else 'words'}")
    return ", ".join(amounts)


def _duration(seconds: float) -> str:
    return f"{seconds:,.1f} s" if seconds < 60 else duration(seconds)


def transcriber(selection: Path, summary: Path, decoder: str) -> dict[str, Any]:
    """Return the selected step of a run, and its error rates by `decoder` on the set that it is selected on.

    Args:
        selection: The run's `selection.json`.
        summary: The run's `summary.parquet`.
        decoder: The decoder that transcribes.
    """
    selected = read_json(selection)
    rates = next(
        (
            {"wer": row["wer"], "cer": row["cer"]}
            for row in read_table(summary).to_pylist()
            if is_selected(row, selected) and (row["set"], row["decoder"]) == (selected["set"], decoder)
        ),
        {},
    )
    return {"step": selected["step"], "set": selected["set"], **rates}


def main() -> None:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=IngestPiecesSettings.model_validate_json, required=True)
    parser.add_argument("--pieces", type=Path, nargs="+", required=True)
    parser.add_argument("--status", type=Path, required=True, help="the status of the dataset with the recordings")
    parser.add_argument("--selection", type=Path, nargs="*", help="selection.json of the run that transcribed, if any")
    parser.add_argument("--summary", type=Path, nargs="*", help="the scores of that run")
    parser.add_argument("--raw", type=Path, required=True)
    args = parser.parse_args()
    settings: IngestPiecesSettings = args.settings
    if args.selection:
        settings.about |= transcriber(args.selection[0], args.summary[0], settings.about["decoder"])
    source = ingest_pieces(args.pieces, settings, args.raw, read_json(args.status)["why"])
    print(printable(f"{args.raw.name}: {format_parts(source['about'])}"))


if __name__ == "__main__":
    run_command(main)
