"""The table PIECES, which the stages `segment` and `transcribe` write."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from speechmill.core.schemas import PIECES, SAMPLE_RATE
from speechmill.core.tables import write_in_row_groups

_ROW_GROUP = 32


class Amount(NamedTuple):
    """The length of parts of recordings, and the number of words of their sentences."""

    seconds: float
    words: int


def part_of(recording: Mapping[str, Any], start: int, end: int) -> dict[str, Any]:
    """Return the columns of PIECES that a part has from its recording, a row of ROWS, and from its samples there."""
    return {key: recording[key] for key in ("splits", "speaker_id", "gender", "age", "accent")} | {
        "id": f"{recording['id']}-{start * 1000 // SAMPLE_RATE:08d}-{end * 1000 // SAMPLE_RATE:08d}",
        "recording": recording["id"],
        "start": start / SAMPLE_RATE,
        "end": end / SAMPLE_RATE,
    }


def write_pieces(parts: Iterable[dict[str, Any]], pieces: Path) -> dict[str, Amount]:
    """Write the rows of PIECES as the table `pieces`; return how much is `pieces`, and how much each other reason."""
    seconds: Counter[str] = Counter()
    words: Counter[str] = Counter()

    def counted() -> Iterator[dict[str, Any]]:
        for part in parts:
            reason = part["reason"] or "pieces"
            seconds[reason] += part["end"] - part["start"]
            words[reason] += len(part["sentence"].split())
            yield part

    write_in_row_groups(counted(), PIECES, pieces, _ROW_GROUP)
    return {reason: Amount(seconds[reason], words[reason]) for reason in sorted(seconds)}
