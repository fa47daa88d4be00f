"""Common Voice, releases 6 to 27: `{release}/{language}/clips/*.mp3` beside a TSV a split."""

import io
import re
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from speechmill.config.datasets import CommonVoice
from speechmill.core.command import SpeechmillError
from speechmill.corpus.sources.archive import open_tree
from speechmill.corpus.sources.corpus import Corpus, Published, merge_splits

_FILE = re.compile(r"(?P<home>(?:.*/)?(?P<language>[^/]+))/(?:clips/[^/]+|(?P<table>[^/]+)\.tsv)")
_NO_SPLITS = {"clip_durations", "reported", "unvalidated_sentences", "validated_sentences"}
"""Tables that lie beside the splits."""

_BOM = "\N{ZERO WIDTH NO-BREAK SPACE}"


@contextmanager
def open_common_voice(path: Path, settings: CommonVoice, splits: list[str], work: Path) -> Iterator[Corpus]:
    """Read a release: an archive with its members in any order, or a folder.

    The folder may be the language's own, the release's that has it, or the one where the release was unpacked.

    Raises SpeechmillError where the archive or folder is refused (see `open_tree`), lacks the language or a split, or
    a split's table is not one.
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
            raise _no_language(path, settings.language, languages)
        if len(homes) > 1:
            raise _several(path, settings.language, homes)
        for split in splits:
            if split not in tables:
                raise SpeechmillError(
                    f"{path} has no {split}.tsv; its splits are {', '.join(sorted(tables - _NO_SPLITS))}"
                )
        listed = {
            split: list(_published(tree.read(f"{split}.tsv") or b"", split, f"{path}: {split}.tsv", tree.names))
            for split in splits
        }
        yield Corpus(merge_splits(listed), lambda clip: tree.read(f"clips/{clip.file}"), tree.about)


def _language_folder(path: Path, language: str) -> Path:
    found: set[str] = set()
    for clips in ("clips", "*/clips", "*/*/clips"):
        homes = [folder.parent for folder in path.absolute().glob(clips) if folder.is_dir()]
        found.update(home.name for home in homes)
        named = [home for home in homes if home.name == language]
        if len(named) > 1:
            raise _several(path, language, {str(home) for home in named})
        if named:
            return named[0]
    raise _no_language(path, language, found)


def _no_language(path: Path, language: str, found: set[str]) -> SpeechmillError:
    return SpeechmillError(
        f"{path} has no folder for the language {language}; it has {', '.join(sorted(found)) or 'no language at all'}"
    )


def _several(path: Path, language: str, homes: set[str]) -> SpeechmillError:
    return SpeechmillError(
        f"{path} has the language {language} more than once, in {' and '.join(sorted(homes))}; let `path` name one"
    )


def _published(table: bytes, split: str, name: str, files: Collection[str]) -> Iterator[Published]:
    """The rows of a table in which nothing is quoted or missing, and only the sentence is free text.

    So a sentence may hold quotes and the words `null` and `NA`, what other readers take for the end of a line, and even
    TABs: what a row has too much is the sentence's.
    """
    rows = _rows(table, name)
    columns = next(rows, (0, [""]))[1]
    columns[0] = columns[0].removeprefix(_BOM)
    missing = {"client_id", "path", "sentence"} - set(columns)
    if missing:
        raise SpeechmillError(f"{name} lacks the columns {', '.join(sorted(missing))}")
    sentence, path = columns.index("sentence"), columns.index("path")
    # Releases differ in the spelling of the last column.
    accent = "accents" if "accents" in columns else "accent"
    described = [columns.index(c) if c in columns else None for c in ("client_id", "gender", "age", accent)]
    splits = (split,)
    for line, fields in rows:
        surplus = len(fields) - len(columns)
        if surplus < 0:
            raise SpeechmillError(
                f"{name}, line {line} has {len(fields)} of {len(columns)} columns; fetch the corpus again"
            )
        if surplus:
            fields[sentence : sentence + surplus + 1] = ["\t".join(fields[sentence : sentence + surplus + 1])]
        clip = fields[path]
        if not clip:
            raise SpeechmillError(f"{name}, line {line}: the clip has no `path`")
        # Old tables name clips without their ending.
        is_bare = f"clips/{clip}" not in files and f"clips/{clip}.mp3" in files
        # A speaker has many clips: one copy of what is the same in all of them.
        about = (None if i is None else sys.intern(fields[i]) or None for i in described)
        yield Published(clip, splits, f"{clip}.mp3" if is_bare else clip, fields[sentence], *about)


def _rows(table: bytes, name: str) -> Iterator[tuple[int, list[str]]]:
    """The number and fields of each line that is not empty; only LF or CR LF ends a line."""
    for number, line in enumerate(io.BytesIO(table), 1):
        try:
            text = line.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8")
        except UnicodeDecodeError as error:
            raise SpeechmillError(f"{name}, line {number} is not UTF-8 ({error}); fetch the corpus again") from error
        if text:
            yield number, text.split("\t")
