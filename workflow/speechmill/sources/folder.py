"""A directory of recordings, described by a manifest or by the names of its files."""

import csv
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from speechmill.command import SpeechmillError
from speechmill.config.datasets import Folder, ValueMap
from speechmill.sources.corpus import Corpus, Published, merge_splits, read_listing


@contextmanager
def open_folder(path: Path, settings: Folder, splits: list[str], work: Path) -> Iterator[Corpus]:
    """Read a directory of recordings; `work` is not used, since the files stay where they are.

    Raises SpeechmillError where the directory, the manifest or a column is absent, a file name does not fit the
    pattern's splits or values, or nothing at all fits.
    """
    records = _from_manifest(path, settings) if settings.manifest else _from_names(path, settings)
    listed: dict[str, list[Published]] = {split: [] for split in splits}
    for record in records:
        split = _split(record, settings)
        if split in listed:
            values = {name: _value(record, name, settings) for name in _COLUMNS}
            file = values.pop("path") or ""
            sentence = values.pop("sentence") or ""
            listed[split].append(Published(file, (split,), file, sentence, **values))
    empty = [split for split, clips in listed.items() if not clips]
    if empty:
        raise SpeechmillError(
            f"{path}: no recording belongs to the split {empty[0]}; see the dataset's `split` and `splits`"
        )

    def read(clip: Published) -> bytes | None:
        file = path / clip.file
        return file.read_bytes() if file.is_file() else None

    yield Corpus(merge_splits(listed), read)


_COLUMNS = ("path", "sentence", "speaker_id", "gender", "age", "accent")


def _from_manifest(path: Path, settings: Folder) -> Iterator[dict[str, str]]:
    manifest = path / str(settings.manifest)
    if not manifest.is_file():
        raise SpeechmillError(f"{manifest}: there is no such manifest; see the dataset's `manifest`")
    # A TSV is not quoted as a rule, a CSV is; in both, `null` and `NA` are words.
    is_tsv = manifest.suffix == ".tsv"
    frame = read_listing(
        manifest,
        str(manifest),
        sep="\t" if is_tsv else ",",
        quoting=csv.QUOTE_NONE if is_tsv else csv.QUOTE_MINIMAL,
    )
    needed = {settings.split.field} | {_field(settings, name) for name in ("path", "sentence")}
    for name in sorted(needed - set(frame.columns)):
        raise SpeechmillError(
            f"{manifest}: there is no column `{name}`; it has {', '.join(frame.columns)}; see the dataset's `columns`"
            " and `split`"
        )
    for record in frame.to_dict("records"):
        yield {str(key): str(value) for key, value in record.items()}


def _from_names(path: Path, settings: Folder) -> Iterator[dict[str, str]]:
    parts = re.split(r"\{(\w+)\}", str(settings.pattern))
    # Alternately literal text and a field; a field holds anything but a slash, as little as possible.
    regex = re.compile("".join(re.escape(p) if i % 2 == 0 else f"(?P<{p}>[^/]+?)" for i, p in enumerate(parts)))
    found = False
    for folder, subfolders, files in os.walk(path):
        subfolders.sort()
        for name in sorted(files):
            relative = (Path(folder) / name).relative_to(path).as_posix()
            match = regex.fullmatch(relative)
            if match:
                found = True
                yield {"path": relative} | match.groupdict()
    if not found:
        raise SpeechmillError(f"{path}: no file is named like the dataset's `pattern`, {settings.pattern}")


def _field(settings: Folder, name: str) -> str:
    source = settings.columns.get(name, name)  # type: ignore[call-overload]  # a Literal key looked up by its string
    return source.field if isinstance(source, ValueMap) else str(source)


def _value(record: dict[str, str], name: str, settings: Folder) -> str | None:
    source = settings.columns.get(name, name)  # type: ignore[call-overload]  # a Literal key looked up by its string
    field = _field(settings, name)
    if field not in record:
        if name in settings.columns or name == "sentence":
            raise SpeechmillError(
                f"{record['path']}: `columns.{name}` reads the field `{field}`, but there are only"
                f" {', '.join(sorted(record))}"
            )
        return None
    value = record[field]
    if isinstance(source, ValueMap) and source.values is not None:
        if value not in source.values:
            raise SpeechmillError(f"{record['path']}: `columns.{name}.values` says nothing of {field} = {value}")
        return source.values[value]
    return value or None


def _split(record: dict[str, str], settings: Folder) -> str:
    rule = settings.split
    if rule.field not in record:
        raise SpeechmillError(f"the dataset's `split.field` is `{rule.field}`, but there are only {', '.join(record)}")
    value = record[rule.field]
    if rule.values is None:
        return value
    for split, values in rule.values.items():
        if value in values:
            return split
    if rule.otherwise is None:
        raise SpeechmillError(
            f"{record.get('path', 'a recording')}: `split.values` has no place for {rule.field} = {value}, and there is"
            " no `split.otherwise`"
        )
    return rule.otherwise
