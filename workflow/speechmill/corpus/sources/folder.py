"""A directory of recordings that are described by manifests, by annotation files or by their file names."""

import errno
import os
import re
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from speechmill.config.datasets import TABLES, Column, Folder, SplitRule
from speechmill.core.command import SpeechmillError
from speechmill.corpus.encoded import Encoded, read_encoded
from speechmill.corpus.near_miss import near_misses
from speechmill.corpus.sources.annotations.annotated import is_recording, read_annotated
from speechmill.corpus.sources.corpus import Corpus, SourceClip, merge_splits
from speechmill.corpus.sources.fields import column_fields, column_value, missing_field
from speechmill.corpus.sources.kaldi import KALDI_FILES, read_kaldi
from speechmill.corpus.sources.manifests import Entry, read_json_lines, read_table
from speechmill.corpus.sources.piece_columns import Span, Spans, read_span

_NO_FILE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)


@contextmanager
def open_folder(path: Path, settings: Folder, splits: list[str], work: Path) -> Iterator[Corpus]:
    """Yield the corpus in a directory of recordings, which are read in location; `work` is not used.

    Raises:
        SpeechmillError: The directory, a manifest or a column does not exist, a line or an annotation file is
            malformed, a recording is outside the directory, a file name or line matches no split or value, an id
            belongs to two clips, or no file matches.
    """
    if not path.is_dir():
        raise SpeechmillError(f"{path} is not a directory; set the dataset's `path` to the directory of the recordings")
    path = path.resolve()
    listed: dict[str, list[SourceClip]] = {split: [] for split in splits}
    spans = Spans()
    first: dict[str, tuple[str, SourceClip]] = {}
    known: set[str] = set()
    for entry in _entries(path, settings, splits):
        known.update(entry.fields)
        split = _split(entry, settings, splits)
        if split not in listed:
            continue
        clip, span = _clip(path, entry, settings, split)
        location, before = first.setdefault(clip.id, (entry.location, clip))
        if replace(before, splits=clip.splits) != clip:
            raise SpeechmillError(
                f"{entry.location}: the id {clip.id} belongs to {clip.file} with “{clip.sentence}”, but at {location}"
                f" to {before.file} with “{before.sentence}”, or the speakers differ; correct the lines, or set"
                " `columns.id` to a column that distinguishes the clips"
            )
        if span is not None:
            spans.add(clip.id, clip.file, span)
        listed[split].append(clip)
    for column in ("sentence", *settings.columns):
        for field in column_fields(settings, column):
            if known and field not in known:
                raise missing_field(str(path), f"columns.{column}", field, known)
    empty = [split for split, clips in listed.items() if not clips]
    if empty:
        raise SpeechmillError(
            f"{path}: no recording belongs to the split {empty[0]}; check the dataset's `split` and `splits`"
        )

    def read(clip: SourceClip) -> Encoded | None:
        file = path / clip.file
        try:
            return read_encoded(file) if stat.S_ISREG(file.stat().st_mode) else None
        except OSError as error:
            if error.errno in _NO_FILE:
                return None
            raise SpeechmillError(f"{file} cannot be read ({error.strerror}); fix this and run again") from error

    def similar(missing: list[SourceClip]) -> dict[str, str]:
        found = (f"{folder}/{name}" for folder, _, names in os.walk(path) for name in names)
        return near_misses({clip.id: clip.file for clip in missing}, (os.path.relpath(file, path) for file in found))

    clips = merge_splits(listed)
    yield Corpus([replace(clip, piece=spans.find(clip.id, path / clip.file)) for clip in clips], read, similar)


def _entries(path: Path, settings: Folder, splits: list[str]) -> Iterator[Entry]:
    if settings.manifest is not None:
        return _from_manifests(path, settings, splits)
    # Names of a pattern with a slash are in folders, which may be links.
    names = list(_files(path, (settings.pattern or "").count("/")))
    if settings.annotations is None:
        return _from_names(path, str(settings.pattern), names)
    if settings.pattern is None:
        recordings = [Entry(name, {"path": name}) for name in names if is_recording(name)]
    else:
        recordings = list(_from_names(path, settings.pattern, names))
    return read_annotated(path, settings.annotations, recordings, names)


def _from_manifests(path: Path, settings: Folder, splits: list[str]) -> Iterator[Entry]:
    manifest = str(settings.manifest)
    if "{split}" not in manifest:
        yield from _from_manifest(path, manifest, settings)
        return
    rule = settings.split
    named = rule.values if rule.field == "split" and rule.values else {}
    for split in splits:
        for value in named.get(split, [split]):
            for entry in _from_manifest(path, manifest.replace("{split}", value), settings):
                yield entry._replace(fields={"split": value} | entry.fields)


def _from_manifest(path: Path, name: str, settings: Folder) -> Iterator[Entry]:
    manifest = path / name
    is_kaldi = manifest.is_dir()
    for file in [manifest, *(manifest / each for each in KALDI_FILES if is_kaldi)]:
        if not _is_below(path, os.path.realpath(file)):
            raise SpeechmillError(f"{file} is outside the directory {path}; put the manifest itself there")
    if is_kaldi:
        return read_kaldi(manifest)
    if not manifest.is_file():
        raise SpeechmillError(f"{manifest} does not exist; check the dataset's `manifest`")
    suffix = manifest.suffix.lower()
    if suffix in TABLES:
        return read_table(manifest, settings.separator, settings.column_names)
    if suffix in _JSON_LINES:
        return read_json_lines(manifest)
    supported = ", ".join((*TABLES, *_JSON_LINES))
    raise SpeechmillError(f"{manifest} is not a supported manifest; use {supported} or a Kaldi folder")


_JSON_LINES = (".jsonl", ".json")


def _from_names(path: Path, pattern: str, names: list[str]) -> Iterator[Entry]:
    parts = re.split(r"\{(\w+)\}", pattern)
    # Literal text and fields alternate; a field matches as few characters as possible, and no slash.
    stem, dot, ending = parts[-1].rpartition(".")
    last = re.escape(stem + dot) + f"(?i:{re.escape(ending)})" if dot else re.escape(parts[-1])
    regex = re.compile(
        "".join(re.escape(p) if i % 2 == 0 else f"(?P<{p}>[^/]+?)" for i, p in enumerate(parts[:-1])) + last
    )
    found, left_out = False, []
    for relative in names:
        match = regex.fullmatch(relative)
        if match:
            found = True
            yield Entry(relative, {"path": relative} | match.groupdict())
        elif dot and relative.lower().endswith(f".{ending}".lower()):
            left_out.append(relative)
    if not found:
        raise SpeechmillError(f"{path}: no file name matches the dataset's `pattern`, {pattern}; correct it")
    if left_out:
        print(
            f"{path}: {len(left_out)} files end in .{ending}, but do not match the dataset's `pattern`, such as"
            f" {left_out[0]!a}; they are left out",
            file=sys.stderr,
        )


def _files(path: Path, depth: int) -> Iterator[str]:
    """Yield the files below `path`, relative to it, in an order that does not depend on the disk.

    Links to folders are followed, if they are at most `depth` folders deep, and not if they lead back to a folder that
    contains them.
    """
    for folder, subfolders, files in os.walk(path, onerror=_warn, followlinks=True):
        inside = Path(folder).relative_to(path)
        real = Path(os.path.realpath(folder))
        subfolders[:] = sorted(
            name
            for name in subfolders
            if not os.path.islink(f"{folder}/{name}")  # noqa: PTH114 (a million folders)
            or (len(inside.parts) < depth and not real.is_relative_to(os.path.realpath(f"{folder}/{name}")))
        )
        for name in sorted(files):
            yield (inside / name).as_posix()


def _warn(error: OSError) -> None:
    print(f"{error.filename} cannot be read ({error.strerror}); its files are left out", file=sys.stderr)


def _clip(path: Path, entry: Entry, settings: Folder, split: str) -> tuple[SourceClip, Span | None]:
    """Return the clip of an entry, and the piece of its recording that the entry describes."""
    try:
        "".join(entry.fields.values()).encode()
    except UnicodeEncodeError as error:
        raise SpeechmillError(
            f"{entry.location!a} contains text that UTF-8 cannot encode ({error.reason}); correct it"
        ) from error
    id_, name, sentence, *speaker = (column_value(entry, column, settings) for column in _COLUMNS)
    file = _inside(path, name or "", entry.location)
    span = read_span(entry, settings)
    piece = None if span is None else span.piece
    clip = SourceClip(
        id_ or (file if span is None else span.name(file)), (split,), file, sentence or "", *speaker, piece=piece
    )
    return clip, span


_COLUMNS: tuple[Column, ...] = ("id", "path", "sentence", "speaker_id", "gender", "age", "accent")


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


def _split(entry: Entry, settings: Folder, splits: list[str]) -> str:
    rule = settings.split
    if rule == SplitRule(field="split") and "split" not in entry.fields and len(splits) == 1:
        return splits[0]
    if rule.field not in entry.fields:
        raise missing_field(entry.location, "split.field", rule.field, entry.fields)
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
