"""TextGrid files of Praat (https://www.fon.hum.uva.nl/praat/manual/TextGrid_file_formats.html)."""

import re
from pathlib import Path
from typing import Any

from praatio.utilities.errors import PraatioException
from praatio.utilities.textgrid_io import parseTextgridStr

from speechmill.corpus.pieces import Piece
from speechmill.corpus.sources.annotations.annotation import Annotation, malformed, read_whole_text

_ADVICE = "open it in Praat and save it again"

# How many tiers there are, in the short and the long format; the JSON format of praatio does not say that.
_SIZE = re.compile(r"<exists>\s+(?:size = )?(\d+)")

# The class, name, start and end of a tier, and how many intervals or points it has.
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
    size, sizes = _SIZE.search(text), [int(number) for number in _TIER.findall(text)]
    if size is not None and (int(size[1]) != len(tiers) or sizes != [len(tier["entries"]) for tier in tiers]):
        raise malformed(file, "a complete TextGrid", "it has fewer tiers, intervals or points than it says", _ADVICE)
    return found


def _annotation(file: Path, tier: str, entry: tuple[Any, ...]) -> Annotation:
    *times, text = entry
    start, end = float(times[0]), float(times[-1])
    return Annotation(f"{file}: tier {tier}, {start} s", " ".join(text.split()), Piece(start, end), tier=tier)
