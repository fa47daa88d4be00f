"""suspicious: the training clips whose sentences fit their audio least, as a page to listen to and a file to edit.

The file, `suspicious.csv`, gets corrected sentences in the column `correction`, or `yes` in the column `exclude`, and
is then named as `clips.corrections` of a run.
"""

import argparse
import csv
from collections import Counter
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel

from speechmill.config.evaluation import ErrorRate
from speechmill.core.command import run_command
from speechmill.core.files import TEMPLATES, write_text
from speechmill.core.flac import encode_flac
from speechmill.core.page import STYLE, data_url, page_environment
from speechmill.core.tables import read_table
from speechmill.model.clip_reader import ClipReader
from speechmill.scoring.alignment import align_characters, align_words

_TEMPLATE = TEMPLATES / "suspicious.html.j2"

# Longer clips are shown without audio, which the page contains itself.
_MAX_AUDIO_SECONDS = 120

_COLUMNS = ("dataset", "split", "id", "score", "sentence", "hypothesis", "correction", "exclude")


class SuspiciousSettings(BaseModel):
    """The stage settings."""

    clips: int
    """The number of clips on the page and in the file."""
    metric: ErrorRate
    """Whether words or characters are compared."""
    languages: dict[str, str]
    """The language of each training dataset."""
    redistribute: list[str]
    """The training datasets whose terms allow their audio to be redistributed, as a page that contains it may be."""


def most_suspicious(rows: Sequence[dict[str, Any]], number: int) -> list[dict[str, Any]]:
    """Return at most `number` scored rows of `scores.parquet`: those with the lowest scores, the lowest first."""
    scored = [row for row in rows if row["score"] is not None]
    return sorted(scored, key=lambda row: (row["score"], row["dataset"], row["id"]))[:number]


def format_csv(rows: Sequence[dict[str, Any]]) -> str:
    """Return `suspicious.csv` for rows of `scores.parquet`, with empty columns `correction` and `exclude`."""
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for row in rows:
        values = row | {"score": f"{row['score']:.4f}", "correction": "", "exclude": ""}
        writer.writerow([values[name] for name in _COLUMNS])
    return text.getvalue()


def prepare_clips(
    rows: Sequence[dict[str, Any]], clips: pa.Table, shards: Sequence[Path], settings: SuspiciousSettings
) -> list[dict[str, Any]]:
    """Return `rows` with what the page shows: `pairs`, the aligned words or characters, `language`, and `audio`.

    `audio` is a `data:` URL, or None where the clip is longer than two minutes or may not be redistributed.
    """
    align = align_words if settings.metric == "wer" else align_characters
    aligned = align([row["reference"] for row in rows], [row["hypothesis"] for row in rows])
    chosen = clips.filter(pc.is_in(clips["id"], pa.array([row["id"] for row in rows], pa.string())))
    position = {(clip["dataset"], clip["id"]): i for i, clip in enumerate(chosen.to_pylist())}
    reader = ClipReader(chosen, shards)

    def audio(row: dict[str, Any]) -> str | None:
        if row["dataset"] not in settings.redistribute or row["seconds"] > _MAX_AUDIO_SECONDS:
            return None
        return data_url(encode_flac(reader.samples(position[row["dataset"], row["id"]])), "audio/flac")

    return [
        row | {"pairs": pairs, "language": settings.languages[row["dataset"]], "audio": audio(row)}
        for row, pairs in zip(rows, aligned, strict=True)
    ]


def render_page(run: str, clips: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]], metric: ErrorRate) -> str:
    """Return the HTML page for the clips of `prepare_clips`; `rows` are those of all training clips."""
    unscored = Counter(row["reason"] for row in rows if row["reason"] is not None)
    return (
        page_environment()
        .from_string(_TEMPLATE.read_text(encoding="utf-8"))
        .render(run=run, clips=clips, total=len(rows), unscored=sorted(unscored.items()), metric=metric, style=STYLE)
    )


def main() -> None:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", required=True)
    parser.add_argument("--settings", type=SuspiciousSettings.model_validate_json, required=True)
    parser.add_argument("--scores", type=Path, required=True)
    parser.add_argument("--clips", type=Path, required=True, help="the training clips")
    parser.add_argument("--shards", type=Path, nargs="+", required=True)
    parser.add_argument("--page", type=Path, required=True)
    parser.add_argument("--ids", type=Path, required=True, help="the CSV file to write")
    args = parser.parse_args()
    settings: SuspiciousSettings = args.settings
    rows = read_table(args.scores).to_pylist()
    selected = most_suspicious(rows, settings.clips)
    # With a byte order mark, by which spreadsheets recognise UTF-8.
    write_text("\ufeff" + format_csv(selected), args.ids)
    clips = prepare_clips(selected, read_table(args.clips), args.shards, settings)
    write_text(render_page(args.run, clips, rows, settings.metric), args.page)


if __name__ == "__main__":
    run_command(main)
