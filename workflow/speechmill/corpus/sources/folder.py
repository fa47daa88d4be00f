"""A directory of recordings that are described by manifests or by their file names."""

import csv
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from speechmill.config.datasets import Folder, ValueMap
from speechmill.core.command import SpeechmillError
from speechmill.corpus.encoded import Encoded, read_encoded
from speechmill.corpus.sources.corpus import Corpus, SourceClip, merge_splits
from speechmill.corpus.sources.kaldi import KALDI_FILES, Entry, read_kaldi, read_lines


@contextmanager
def open_folder(path: Path, settings: Folder, splits: list[str], work: Path) -> Iterator[Corpus]:
    """Yield the corpus in a directory of recordings, which are read in location; `work` is not used.

    Raises:
        SpeechmillError: The directory, a manifest or a column does not exist, a line is malformed, a recording is
            outside the directory, a file name or line matches no split or value, an id belongs to two clips, or no
            file matches.
    """
    if not path.is_dir():
        raise SpeechmillError(f"{path} is not a directory; set the dataset's `path` to the directory of the recordings")
    path = path.resolve()
    listed: dict[str, list[SourceClip]] = {split: [] for split in splits}
    first: dict[str, tuple[str, SourceClip]] = {}
    known: set[str] = set()
    for entry in _from_manifests(path, settings, splits) if settings.manifest else _from_names(path, settings):
        known.update(entry.fields)
        split = _split(entry, settings)
        if split not in listed:
            continue
        clip = _clip(path, entry, settings, split)
        location, before = first.setdefault(clip.id, (entry.location, clip))
        if replace(before, splits=clip.splits) != clip:
            raise SpeechmillError(
                f"{entry.location}: the id {clip.id} belongs to {clip.file} with “{clip.sentence}”, but at {location}"
                f" to {before.file} with “{before.sentence}”, or the speakers differ; correct the lines, or set"
                " `columns.id` to a column that distinguishes the clips"
            )
        listed[split].append(clip)
    for name in {"sentence": "sentence"} | settings.columns:
        if known and _field(settings, name) not in known:
            raise SpeechmillError(
                f"{path}: `columns.{name}` reads the field `{_field(settings, name)}`, which does not exist; use one of"
                f" {', '.join(sorted(known))}"
            )
    empty = [split for split, clips in listed.items() if not clips]
    if empty:
        raise SpeechmillError(
            f"{path}: no recording belongs to the split {empty[0]}; check the dataset's `split` and `splits`"
        )

    def read(clip: SourceClip) -> Encoded | None:
        file = path / clip.file
        # Path.is_file() would raise for a name that is too long for the file system.
        if not os.path.isfile(file):  # noqa: PTH113
            return None
        try:
            return read_encoded(file)
        except OSError as error:
            raise SpeechmillError(f"{file} cannot be read ({error.strerror}); fix this and run again") from error

    yield Corpus(merge_splits(listed), read)


def _from_manifests(path: Path, settings: Folder, splits: list[str]) -> Iterator[Entry]:
    manifest = str(settings.manifest)
    if "{split}" not in manifest:
        yield from _from_manifest(path, manifest)
        return
    rule = settings.split
    named = rule.values if rule.field == "split" and rule.values else {}
    for split in splits:
        for value in named.get(split, [split]):
            for entry in _from_manifest(path, manifest.replace("{split}", value)):
                yield entry._replace(fields={"split": value} | entry.fields)


def _from_manifest(path: Path, name: str) -> Iterator[Entry]:
    manifest = path / name
    is_kaldi = manifest.is_dir()
    for file in [manifest, *(manifest / each for each in KALDI_FILES if is_kaldi)]:
        if not _is_below(path, os.path.realpath(file)):
            raise SpeechmillError(f"{file} is outside the directory {path}; put the manifest itself there")
    if is_kaldi:
        return read_kaldi(manifest)
    if not manifest.is_file():
        raise SpeechmillError(f"{manifest} does not exist; check the dataset's `manifest`")
    reader = _READERS.get(manifest.suffix)
    if reader is None:
        raise SpeechmillError(f"{manifest} is not a supported manifest; use {', '.join(_READERS)} or a Kaldi folder")
    return reader(manifest)


def _from_csv(manifest: Path) -> Iterator[Entry]:
    rows = csv.reader((line for _, line in read_lines(manifest)), strict=True)
    try:
        yield from _with_header(manifest, ((f"{manifest}: line {rows.line_num}", row) for row in rows))
    except csv.Error as error:
        raise SpeechmillError(f"{manifest}: line {rows.line_num} is not CSV ({error}); correct the line") from error


def _from_tsv(manifest: Path) -> Iterator[Entry]:
    # Unlike CSV, TSV is usually not quoted; in both, `null` and `NA` are ordinary words.
    lines = ((location, line.removesuffix("\n").removesuffix("\r")) for location, line in read_lines(manifest))
    return _with_header(manifest, ((location, line.split("\t") if line else []) for location, line in lines))


def _with_header(manifest: Path, rows: Iterator[tuple[str, list[str]]]) -> Iterator[Entry]:
    _, header = next(rows, ("", []))
    if not header or len(set(header)) < len(header):
        raise SpeechmillError(f"{manifest} must start with a line of distinct column names; add it")
    for location, row in rows:
        if row and len(row) != len(header):
            raise SpeechmillError(
                f"{location} has {len(row)} columns, but the first line of the file has {len(header)}; correct the line"
            )
        if row:
            yield Entry(location, dict(zip(header, row, strict=True)))


def _from_json_lines(manifest: Path) -> Iterator[Entry]:
    for location, line in read_lines(manifest):
        if not line.strip():
            continue
        try:
            found = _JSON.decode(line)
        except (ValueError, RecursionError) as error:
            raise SpeechmillError(f"{location} is not JSON ({error}); write one object per line") from error
        if not isinstance(found, dict):
            raise SpeechmillError(f"{location} is not a JSON object; write one object per line")
        fields = {
            key: value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False)
            for key, value in found.items()
        }
        # A part of a recording in a NeMo manifest; the entire recording with this text would be wrong unnoticed.
        if "audio_filepath" in fields and fields.get("offset", "").strip("0."):
            raise SpeechmillError(
                f"{location} is a part of a recording that starts at `offset`; use a Kaldi folder with `segments` for"
                " parts of recordings"
            )
        yield Entry(location, fields)


def _refuse(word: str) -> str:
    raise ValueError(f"{word} is not a JSON value")


# Numbers are kept as they are written.
_JSON = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=_refuse)

_READERS = {".csv": _from_csv, ".tsv": _from_tsv, ".jsonl": _from_json_lines, ".json": _from_json_lines}


def _from_names(path: Path, settings: Folder) -> Iterator[Entry]:
    parts = re.split(r"\{(\w+)\}", str(settings.pattern))
    # Literal text and fields alternate; a field matches as few characters as possible, and no slash.
    regex = re.compile("".join(re.escape(p) if i % 2 == 0 else f"(?P<{p}>[^/]+?)" for i, p in enumerate(parts)))
    found = False
    for folder, subfolders, files in os.walk(path):
        subfolders.sort()
        for name in sorted(files):
            relative = (Path(folder) / name).relative_to(path).as_posix()
            match = regex.fullmatch(relative)
            if match:
                found = True
                yield Entry(relative, {"path": relative} | match.groupdict())
    if not found:
        raise SpeechmillError(f"{path}: no file name matches the dataset's `pattern`, {settings.pattern}; correct it")


def _clip(path: Path, entry: Entry, settings: Folder, split: str) -> SourceClip:
    id_, name, sentence, *speaker = (_value(entry, column, settings) for column in _COLUMNS)
    file = _inside(path, name or "", entry.location)
    clip = SourceClip(id_ or file, (split,), file, sentence or "", *speaker, piece=entry.piece)
    try:
        "".join(entry.fields.values()).encode()
    except UnicodeEncodeError as error:
        raise SpeechmillError(
            f"{entry.location!a} contains text that UTF-8 cannot encode ({error.reason}); correct it"
        ) from error
    return clip


_COLUMNS = ("id", "path", "sentence", "speaker_id", "gender", "age", "accent")


def _inside(path: Path, name: str, location: str) -> str:
    """Return the name of a recording relative to the directory `path`, unchanged if it is relative."""
    if not name or "\0" in name:
        raise SpeechmillError(f"{location} names no recording; check the dataset's `columns.path`")
    real = os.path.realpath(path / name)
    if not _is_below(path, real):
        raise SpeechmillError(
            f"{location}: {name} is outside the directory {path}; put the recordings below the dataset's `path`"
        )
    return os.path.relpath(real, path) if Path(name).is_absolute() else name


def _is_below(path: Path, real: str) -> bool:
    return Path(real).is_relative_to(path)


def _source(settings: Folder, name: str) -> str | ValueMap:
    # The keys of `columns` are of a Literal type.
    source: str | ValueMap = settings.columns.get(name, name)  # type: ignore[call-overload]  # a str is looked up
    return source


def _field(settings: Folder, name: str) -> str:
    source = _source(settings, name)
    return source.field if isinstance(source, ValueMap) else source


def _value(entry: Entry, name: str, settings: Folder) -> str | None:
    source = _source(settings, name)
    field = _field(settings, name)
    if name == "path" and field not in entry.fields:
        raise SpeechmillError(
            f"{entry.location}: `columns.path` reads the field `{field}`, which does not exist; use one of"
            f" {', '.join(sorted(entry.fields))}"
        )
    value = entry.fields.get(field, "")
    if isinstance(source, ValueMap) and source.values is not None and (value or "" in source.values):
        if value not in source.values:
            raise SpeechmillError(
                f"{entry.location}: `columns.{name}.values` has no entry for {field} = {value}; add it"
            )
        return source.values[value]
    return value or None


def _split(entry: Entry, settings: Folder) -> str:
    rule = settings.split
    if rule.field not in entry.fields:
        raise SpeechmillError(
            f"{entry.location}: the field `{rule.field}` of `split.field` does not exist; use one of"
            f" {', '.join(sorted(entry.fields))}"
        )
    value = entry.fields[rule.field]
    if rule.values is None:
        return value
    for split, values in rule.values.items():
        if value in values:
            return split
    if rule.default is None:
        raise SpeechmillError(
            f"{entry.location}: `split.values` has no entry for {rule.field} = {value}; add it, or set `split.default`"
        )
    return rule.default
