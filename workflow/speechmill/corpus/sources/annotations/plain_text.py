"""Plain text files with the transcript of a recording."""

from pathlib import Path

from speechmill.corpus.sources.annotations.annotation import Annotation, read_whole_text


def read_plain_text(file: Path) -> list[Annotation]:
    """Return the text of a file, with its lines, as one annotation of the complete recording."""
    return [Annotation(str(file), read_whole_text(file).strip())]
