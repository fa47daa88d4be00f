"""TextGrid files of Praat (https://www.fon.hum.uva.nl/praat/manual/TextGrid_file_formats.html)."""

import re
from pathlib import Path
from typing import Any

from praatio.utilities.errors import PraatioException
from praatio.utilities.textgrid_io import parseTextgridStr

from speechmill.corpus.pieces import Piece
from speechmill.corpus.sources.annotations.annotation import Annotation, malformed, read_whole_text

_ADVICE = "open it in Praat and save it again"

# The class, name, start and end of a tier, and how many intervals or points it has, in the short and the long format.
_TIER = re.compile(
    r'^\s*(?:class = )?"(?:IntervalTier|TextTier)"\s+(?:name = )?"(?:[^"]|"")*"\s+(?:xmin = )?\S+\s+(?:xmax = )?\S+\s+'
    r"(?:(?:intervals|points): size = )?(\d+)",
    re.MULTILINE,
)


def read_textgrid(file: Path) -> list[Annotation]:
    """Return the intervals of all tiers, and the points, which begin and end at the same time.

    Raises:
        SpeechmillError: The file is not text, or not a TextGrid, or is truncated.
    """
    # Without a line feed at its end, praatio omits the last interval.
    text = read_whole_text(file) + "\n"
    try:
        tiers = parseTextgridStr(text, includeEmptyIntervals=True)["tiers"]
        found = [_annotation(file, tier["name"], entry) for tier in tiers for entry in tier["entries"]]
    except (PraatioException, ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
        raise malformed(file, "a TextGrid", error, _ADVICE) from error
    expected = [int(number) for number in _TIER.findall(text)]
    # In the JSON format of praatio, tiers do not state their size.
    if expected and expected != [len(tier["entries"]) for tier in tiers]:
        reason = f"{len(found)} of {sum(expected)} intervals and points can be read"
        raise malformed(file, "a complete TextGrid", reason, _ADVICE)
    return found


def _annotation(file: Path, tier: str, entry: tuple[Any, ...]) -> Annotation:
    *times, text = entry
    start, end = float(times[0]), float(times[-1])
    return Annotation(f"{file}: tier {tier}, {start} s", " ".join(text.split()), Piece(start, end), tier=tier)
