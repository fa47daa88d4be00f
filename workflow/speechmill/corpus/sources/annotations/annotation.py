"""What every reader of annotation files returns, and how it reads text."""

from pathlib import Path
from typing import NamedTuple

from speechmill.core.command import SpeechmillError
from speechmill.corpus.pieces import Piece
from speechmill.corpus.sources.manifests import read_lines


class Annotation(NamedTuple):
    """The text of a piece of a recording; texts without times are that of all of it.

    Attributes:
        location: Where it is, `{file}: {line, tier or annotation}`, for messages.
        tier, linguistic_type: Of ELAN; Praat has only tiers.
        participant: The speaker of an ELAN tier.
        speaker: The participant, or whom WebVTT and STM name.
        recording: The name of the recording, if the file contains it.
    """

    location: str
    text: str
    piece: Piece = Piece()
    tier: str = ""
    linguistic_type: str = ""
    participant: str = ""
    speaker: str = ""
    recording: str = ""


def read_whole_text(file: Path) -> str:
    """Return a text file in UTF-8 or UTF-16 with line feeds at the ends of its lines.

    Raises:
        SpeechmillError: The file is not text in these encodings.
    """
    return "".join(line for _, line in read_lines(file)).replace("\r\n", "\n").replace("\r", "\n")


def malformed(location: object, what: str, reason: object, advice: str) -> SpeechmillError:
    """Return the error that a file, or a line of it, is not what its format requires."""
    return SpeechmillError(f"{location} is not {what} ({reason}); {advice}")
