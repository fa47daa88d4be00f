"""Common Voice archives: `{release}/{language}/clips/*.mp3` beside a TSV a split, in any order in the tar."""

import csv
import io
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any

from tqdm import tqdm

from speechmill.command import SpeechmillError
from speechmill.config.datasets import CommonVoice
from speechmill.progress import progress
from speechmill.sources.corpus import Corpus, Published, merge_splits, read_listing


@contextmanager
def open_common_voice(path: Path, settings: CommonVoice, splits: list[str], work: Path) -> Iterator[Corpus]:
    """Read the archive once, as a stream.

    The clips go end to end into one unnamed file in `work`, because an archive may list them after it holds them; so a
    hundred thousand files are never made, and a member's name, whatever it is, is never a path here.

    Raises SpeechmillError where the archive is cut short or not an archive, or lacks the language or a split.
    """
    tables: dict[str, bytes] = {}
    places: dict[str, tuple[int, int]] = {}
    languages: set[str] = set()
    with tempfile.TemporaryFile(dir=work) as spool:
        try:
            with (
                progress(total=path.stat().st_size, unit="B", unit_scale=True, desc=path.name) as bar,
                tarfile.open(fileobj=_Shown(path.open("rb"), bar), mode="r|*") as archive,
            ):
                for member in archive:
                    parts = PurePosixPath(member.name).parts
                    file = archive.extractfile(member) if member.isreg() else None
                    if file is None or len(parts) < 3:
                        continue
                    languages.add(parts[1])
                    if parts[1] != settings.language:
                        continue
                    if len(parts) == 4 and parts[2] == "clips":
                        places[parts[3]] = _append(spool, file)
                    elif len(parts) == 3 and parts[2].endswith(".tsv"):
                        tables[parts[2].removesuffix(".tsv")] = file.read()
                # An archive ends in two blocks of zeros; one that was cut between two members ends the loop as well.
                if archive.fileobj is not None and not archive.fileobj.read(1):
                    raise EOFError("it has no end")
        except (tarfile.ReadError, EOFError, zlib.error, OSError) as error:
            raise SpeechmillError(
                f"{path} cannot be read to its end ({error}): it is cut short or not an archive; fetch it again"
            ) from error
        if settings.language not in languages:
            found = ", ".join(sorted(languages)) or "no language at all"
            raise SpeechmillError(f"{path} has no folder for the language {settings.language}; it has {found}")
        for split in splits:
            if split not in tables:
                raise SpeechmillError(f"{path} has no {split}.tsv; its splits are {', '.join(sorted(tables))}")

        def read(clip: Published) -> bytes | None:
            if clip.file not in places:
                return None
            offset, size = places[clip.file]
            spool.seek(offset)
            return spool.read(size)

        yield Corpus(merge_splits({split: _published(split, tables[split], path) for split in splits}), read)


class _Shown(io.RawIOBase):
    """The archive, showing how much of it has been read."""

    def __init__(self, file: IO[bytes], bar: "tqdm[Any]") -> None:
        self._file, self._bar = file, bar

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._bar.update(len(data))
        return data

    def close(self) -> None:
        self._file.close()
        super().close()


def _append(spool: IO[bytes], file: IO[bytes]) -> tuple[int, int]:
    start = spool.tell()
    while chunk := file.read(1 << 20):
        spool.write(chunk)
    return start, spool.tell() - start


def _published(split: str, table: bytes, path: Path) -> list[Published]:
    # Sentences hold stray quotes and the words `null` and `NA`: nothing in these files is quoted or missing.
    frame = read_listing(io.BytesIO(table), f"{path}: {split}.tsv", sep="\t", quoting=csv.QUOTE_NONE)
    missing = {"client_id", "path", "sentence"} - set(frame.columns)
    if missing:
        raise SpeechmillError(f"{path}: {split}.tsv lacks the columns {', '.join(sorted(missing))}")
    # Releases differ in the spelling of this column.
    accent = next((name for name in ("accents", "accent") if name in frame.columns), None)

    def column(name: str | None) -> list[str | None]:
        return [value or None for value in frame[name]] if name in frame.columns else [None] * len(frame)

    return [
        Published(file, (split,), file, sentence, speaker, gender, age, accent_)
        for file, sentence, speaker, gender, age, accent_ in zip(
            frame["path"],
            frame["sentence"],
            column("client_id"),
            column("gender"),
            column("age"),
            column(accent),
            strict=True,
        )
    ]
