"""Common Voice, releases 6 to 27: `{release}/{language}/clips/*.mp3` beside one TSV per split."""

import io
import re
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from speechmill.config.datasets import CommonVoice
from speechmill.core.command import SpeechmillError
from speechmill.corpus.sources.archive import open_tree
from speechmill.corpus.sources.corpus import Corpus, SourceClip, merge_splits

_FILE = re.compile(r"(?P<home>(?:.*/)?(?P<language>[^/]+))/(?:clips/[^/]+|(?P<table>[^/]+)\.tsv)")
_NO_SPLITS = {"clip_durations", "reported", "unvalidated_sentences", "validated_sentences"}
"""Other tables in the same folder."""

_BOM = "\N{ZERO WIDTH NO-BREAK SPACE}"


@contextmanager
def open_common_voice(path: Path, settings: CommonVoice, splits: list[str], work: Path) -> Iterator[Corpus]:
    """Yield a release from an archive, with its members in any order, or from a folder.

    The folder may be that of the language, that of the release, or the one into which the release was unpacked.

    Raises:
        SpeechmillError: The archive or folder is refused (see `open_tree`), lacks the language or a split, or the
            table of a split is invalid.
    """
    root, within = (_language_folder(path, settings.language), f"{settings.language}/") if path.is_dir() else (path, "")
    homes: set[str] = set()
    languages: set[str] = set()
    tables: set[str] = set()

    def keep(name: str) -> str | None:
        match = _FILE.fullmatch(f"{within}{name}")
        if match is None:
            return None
        languages.add(match["language"])
        if match["language"] != settings.language:
            return None
        homes.add(match["home"])
        if match["table"]:
            tables.add(match["table"])
            if match["table"] not in splits:
                return None
        return match[0].removeprefix(f"{match['home']}/")

    with open_tree(root, work, keep) as tree:
        if not homes:
            raise _missing_language(path, settings.language, languages)
        if len(homes) > 1:
            raise _duplicate_language(path, settings.language, homes)
        for split in splits:
            if split not in tables:
                raise SpeechmillError(
                    f"{path} has no {split}.tsv; use one of its splits, {', '.join(sorted(tables - _NO_SPLITS))}"
                )
        listed = {
            split: list(_clips(tree.read(f"{split}.tsv") or b"", split, f"{path}: {split}.tsv", tree.names))
            for split in splits
        }
        yield Corpus(merge_splits(listed), lambda clip: tree.encoded(f"clips/{clip.file}"), tree.about)


def _language_folder(path: Path, language: str) -> Path:
    found: set[str] = set()
    for clips in ("clips", "*/clips", "*/*/clips"):
        homes = [folder.parent for folder in path.absolute().glob(clips) if folder.is_dir()]
        found.update(home.name for home in homes)
        named = [home for home in homes if home.name == language]
        if len(named) > 1:
            raise _duplicate_language(path, language, {str(home) for home in named})
        if named:
            return named[0]
    raise _missing_language(path, language, found)


def _missing_language(path: Path, language: str, found: set[str]) -> SpeechmillError:
    return SpeechmillError(
        f"{path} has no folder for the language {language}, only for {', '.join(sorted(found)) or 'none'}"
    )


def _duplicate_language(path: Path, language: str, homes: set[str]) -> SpeechmillError:
    return SpeechmillError(
        f"{path} contains {language} more than once, in {' and '.join(sorted(homes))}; set `path` to one of them"
    )


def _clips(table: bytes, split: str, name: str, files: Collection[str]) -> Iterator[SourceClip]:
    """Yield the clips of a table in which nothing is quoted or null, and only the sentence is free text.

    A sentence may therefore contain quotes, the words `null` and `NA`, other line separators than LF, and even TABs:
    surplus fields of a row belong to the sentence.
    """
    rows = _rows(table, name)
    columns = next(rows, (0, [""]))[1]
    columns[0] = columns[0].removeprefix(_BOM)
    missing = {"client_id", "path", "sentence"} - set(columns)
    if missing:
        raise SpeechmillError(f"{name} lacks the columns {', '.join(sorted(missing))}; download the corpus again")
    sentence, path = columns.index("sentence"), columns.index("path")
    # Releases differ in the name of the last column.
    accent = "accents" if "accents" in columns else "accent"
    described = [columns.index(c) if c in columns else None for c in ("client_id", "gender", "age", accent)]
    splits = (split,)
    for line, fields in rows:
        surplus = len(fields) - len(columns)
        if surplus < 0:
            raise SpeechmillError(
                f"{name}, line {line} has {len(fields)} of {len(columns)} columns; download the corpus again"
            )
        if surplus:
            fields[sentence : sentence + surplus + 1] = ["\t".join(fields[sentence : sentence + surplus + 1])]
        clip = fields[path]
        if not clip:
            raise SpeechmillError(f"{name}, line {line}: the clip has no `path`; download the corpus again")
        # Old tables list clips without the file extension.
        is_bare = f"clips/{clip}" not in files and f"clips/{clip}.mp3" in files
        # Interned, because a speaker has many clips with the same values.
        about = (None if i is None else sys.intern(fields[i]) or None for i in described)
        yield SourceClip(clip, splits, f"{clip}.mp3" if is_bare else clip, fields[sentence], *about)


def _rows(table: bytes, name: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the number and fields of each line that is not empty; only LF and CR LF end a line."""
    for number, line in enumerate(io.BytesIO(table), 1):
        try:
            text = line.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8")
        except UnicodeDecodeError as error:
            raise SpeechmillError(f"{name}, line {number} is not UTF-8 ({error}); download the corpus again") from error
        if text:
            yield number, text.split("\t")
