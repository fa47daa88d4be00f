"""A directory of recordings, described by manifests or by the names of its files."""

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
from speechmill.corpus.sources.corpus import Corpus, Published, merge_splits
from speechmill.corpus.sources.kaldi import KALDI_FILES, Entry, Segment, cut, read_kaldi, read_lines


@contextmanager
def open_folder(path: Path, settings: Folder, splits: list[str], work: Path) -> Iterator[Corpus]:
    """Read a directory of recordings; `work` is not used, since the files stay where they are.

    Raises SpeechmillError where the directory, a manifest or a column is absent, a line is not of its manifest's kind,
    a recording lies outside the directory, a file name or line does not fit the splits or values, one id stands for
    two clips, or nothing at all fits.
    """
    if not path.is_dir():
        raise SpeechmillError(
            f"{path} is not a directory; the dataset's `path` must say which one holds the recordings"
        )
    path = path.resolve()
    listed: dict[str, list[Published]] = {split: [] for split in splits}
    segments: dict[str, tuple[str, Segment]] = {}
    first: dict[str, tuple[str, Published]] = {}
    known: set[str] = set()
    for entry in _from_manifests(path, settings, splits) if settings.manifest else _from_names(path, settings):
        known.update(entry.fields)
        split = _split(entry, settings)
        if split not in listed:
            continue
        clip, file = _published(path, entry, settings, split)
        place, before = first.setdefault(clip.id, (entry.place, clip))
        if replace(before, splits=clip.splits) != clip:
            raise SpeechmillError(
                f"{entry.place}: the id {clip.id} stands for {clip.file} with “{clip.sentence}”, and at {place} for"
                f" {before.file} with “{before.sentence}”, or what they say of the speaker differs; make the lines"
                " agree, or say in `columns.id` what tells the clips apart"
            )
        if entry.segment is not None:
            segments[clip.id] = file, entry.segment
        listed[split].append(clip)
    for name in {"sentence": "sentence"} | settings.columns:
        if known and _field(settings, name) not in known:
            raise SpeechmillError(
                f"{path}: `columns.{name}` reads the field `{_field(settings, name)}`, but there are only"
                f" {', '.join(sorted(known))}"
            )
    empty = [split for split, clips in listed.items() if not clips]
    if empty:
        raise SpeechmillError(
            f"{path}: no recording belongs to the split {empty[0]}; see the dataset's `split` and `splits`"
        )

    def read(clip: Published) -> bytes | None:
        name, segment = segments.get(clip.id, (clip.file, None))
        file = path / name
        # Not Path.is_file(), which raises where a name is too long for the disk.
        if not os.path.isfile(file):  # noqa: PTH113
            return None
        try:
            with file.open("rb") as recording:
                return recording.read() if segment is None else cut(recording, segment)
        except OSError as error:
            raise SpeechmillError(f"{file} cannot be read ({error.strerror}); see to it, and run again") from error

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
            raise SpeechmillError(f"{file} is not in the directory {path}; put the manifest itself there")
    if is_kaldi:
        return read_kaldi(manifest)
    if not manifest.is_file():
        raise SpeechmillError(f"{manifest}: there is no such manifest; see the dataset's `manifest`")
    reader = _READERS.get(manifest.suffix)
    if reader is None:
        raise SpeechmillError(
            f"{manifest} is no manifest that can be read: it must end in {', '.join(_READERS)}, or be a Kaldi folder"
        )
    return reader(manifest)


def _from_csv(manifest: Path) -> Iterator[Entry]:
    rows = csv.reader((line for _, line in read_lines(manifest)), strict=True)
    try:
        yield from _with_header(manifest, ((f"{manifest}: line {rows.line_num}", row) for row in rows))
    except csv.Error as error:
        raise SpeechmillError(f"{manifest}: line {rows.line_num} is not CSV ({error}); mend the line") from error


def _from_tsv(manifest: Path) -> Iterator[Entry]:
    # A TSV is not quoted as a rule, a CSV is; in both, `null` and `NA` are words.
    lines = ((place, line.removesuffix("\n").removesuffix("\r")) for place, line in read_lines(manifest))
    return _with_header(manifest, ((place, line.split("\t") if line else []) for place, line in lines))


def _with_header(manifest: Path, rows: Iterator[tuple[str, list[str]]]) -> Iterator[Entry]:
    _, header = next(rows, ("", []))
    if not header or len(set(header)) < len(header):
        raise SpeechmillError(f"{manifest} must begin with a line of column names, each once")
    for place, row in rows:
        if row and len(row) != len(header):
            raise SpeechmillError(
                f"{place} has {len(row)} columns, and the first line of the file has {len(header)}; mend the line"
            )
        if row:
            yield Entry(place, dict(zip(header, row, strict=True)))


def _from_json_lines(manifest: Path) -> Iterator[Entry]:
    for place, line in read_lines(manifest):
        if not line.strip():
            continue
        try:
            found = _JSON.decode(line)
        except (ValueError, RecursionError) as error:
            raise SpeechmillError(f"{place} is not JSON ({error}); a line must hold one object") from error
        if not isinstance(found, dict):
            raise SpeechmillError(f"{place} is not a JSON object; a line must hold one")
        fields = {
            key: value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False)
            for key, value in found.items()
        }
        # NeMo's piece of a recording; the whole with the text of a piece would be wrong in silence.
        if "audio_filepath" in fields and fields.get("offset", "").strip("0."):
            raise SpeechmillError(
                f"{place} is a piece of a recording, from `offset` on; pieces are read out of a Kaldi folder with"
                " `segments`"
            )
        yield Entry(place, fields)


def _refuse(word: str) -> str:
    raise ValueError(f"{word} is no value of JSON")


# Numbers stay as they are written.
_JSON = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=_refuse)

_READERS = {".csv": _from_csv, ".tsv": _from_tsv, ".jsonl": _from_json_lines, ".json": _from_json_lines}


def _from_names(path: Path, settings: Folder) -> Iterator[Entry]:
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
                yield Entry(relative, {"path": relative} | match.groupdict())
    if not found:
        raise SpeechmillError(f"{path}: no file is named like the dataset's `pattern`, {settings.pattern}")


def _published(path: Path, entry: Entry, settings: Folder, split: str) -> tuple[Published, str]:
    """The clip of an entry, and its recording's name in the directory `path`."""
    id_, name, sentence, *speaker = (_value(entry, column, settings) for column in _COLUMNS)
    file = _inside(path, name or "", entry.place)
    clip = Published(
        id_ or file, (split,), file if entry.segment is None else f"{file} {entry.segment}", sentence or "", *speaker
    )
    try:
        "".join(entry.fields.values()).encode()
    except UnicodeEncodeError as error:
        raise SpeechmillError(f"{entry.place!a} holds what is no text in UTF-8 ({error.reason}); mend it") from error
    return clip, file


_COLUMNS = ("id", "path", "sentence", "speaker_id", "gender", "age", "accent")


def _inside(path: Path, name: str, place: str) -> str:
    """The recording's name relative to the directory `path`, as it is written where it is relative already."""
    if not name or "\0" in name:
        raise SpeechmillError(f"{place} names no recording; see the dataset's `columns.path`")
    real = os.path.realpath(path / name)
    if not _is_below(path, real):
        raise SpeechmillError(
            f"{place}: {name} is not in the directory {path}; put the recordings below the dataset's `path`"
        )
    return os.path.relpath(real, path) if Path(name).is_absolute() else name


def _is_below(path: Path, real: str) -> bool:
    return Path(real).is_relative_to(path)


def _source(settings: Folder, name: str) -> str | ValueMap:
    # A Literal key is looked up by its string.
    source: str | ValueMap = settings.columns.get(name, name)  # type: ignore[call-overload]  # see above
    return source


def _field(settings: Folder, name: str) -> str:
    source = _source(settings, name)
    return source.field if isinstance(source, ValueMap) else source


def _value(entry: Entry, name: str, settings: Folder) -> str | None:
    source = _source(settings, name)
    field = _field(settings, name)
    if name == "path" and field not in entry.fields:
        raise SpeechmillError(
            f"{entry.place}: `columns.path` reads the field `{field}`, but there are only"
            f" {', '.join(sorted(entry.fields))}"
        )
    value = entry.fields.get(field, "")
    if isinstance(source, ValueMap) and source.values is not None and (value or "" in source.values):
        if value not in source.values:
            raise SpeechmillError(f"{entry.place}: `columns.{name}.values` says nothing of {field} = {value}")
        return source.values[value]
    return value or None


def _split(entry: Entry, settings: Folder) -> str:
    rule = settings.split
    if rule.field not in entry.fields:
        raise SpeechmillError(
            f"{entry.place}: the dataset's `split.field` is `{rule.field}`, but there are only"
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
            f"{entry.place}: `split.values` has no place for {rule.field} = {value}, and there is no `split.default`"
        )
    return rule.default
