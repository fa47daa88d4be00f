"""The recordings of a folder with their annotation files: one entry for each annotation, or for each recording."""

import os
import sys
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath

from speechmill.config.datasets import AnnotationFormat, Annotations
from speechmill.core.command import SpeechmillError
from speechmill.core.progress import progress
from speechmill.corpus.near_miss import near_misses
from speechmill.corpus.pieces import Piece
from speechmill.corpus.sources.annotations.annotation import Annotation
from speechmill.corpus.sources.annotations.elan import read_elan
from speechmill.corpus.sources.annotations.nist import read_ctm, read_stm
from speechmill.corpus.sources.annotations.plain_text import read_plain_text
from speechmill.corpus.sources.annotations.subtitles import read_srt, read_vtt
from speechmill.corpus.sources.annotations.textgrid import read_textgrid
from speechmill.corpus.sources.manifests import Entry

_AUDIO_ENDINGS = {
    *(".aac", ".aif", ".aifc", ".aiff", ".amr", ".au", ".caf", ".flac", ".m4a", ".mp2", ".mp3", ".oga", ".ogg"),
    *(".opus", ".sph", ".w64", ".wav", ".weba", ".wma", ".wv"),
}

_READERS: dict[AnnotationFormat, Callable[[Path], list[Annotation]]] = {
    "text": read_plain_text,
    "elan": read_elan,
    "textgrid": read_textgrid,
    "srt": read_srt,
    "vtt": read_vtt,
    "ctm": read_ctm,
    "stm": read_stm,
}


def is_recording(name: str) -> bool:
    """Return whether a file is a recording, by the ending of its name, where no pattern selects the recordings."""
    return PurePosixPath(name).suffix.lower() in _AUDIO_ENDINGS


def read_annotated(path: Path, settings: Annotations, recordings: list[Entry], names: list[str]) -> Iterator[Entry]:
    """Yield an entry for each annotation with text, or for each recording with text if these are not cut.

    An entry has the fields of its recording and `id`, `recording`, `folder`, `sentence`, `tier`, `participant`,
    `speaker` and `speaker_id`. A recording and its annotation file have the same name; their case and their Unicode
    normal form do not matter. The numbers of recordings, files and annotations that are left out are printed.

    Args:
        path: The folder.
        settings: Which files have the annotations, and which of these are the sentences.
        recordings: The recordings, with the fields of their names.
        names: The names of all files in the folder.

    Raises:
        SpeechmillError: A file is malformed, has several tiers, or belongs to several recordings; or no recording has
            an annotation.
    """
    selected = {entry.fields["path"] for entry in recordings}
    ending = settings.ending.lower()
    files = [name for name in names if name.lower().endswith(ending) and name not in selected]
    if not files:
        raise SpeechmillError(f"{path}: no file name ends in {settings.ending}; check the dataset's `annotations`")
    found, unknown = _by_recording(path, settings, _Recordings(path, selected), files)
    left_out = _LeftOut(path)
    for name, where in unknown.items():
        left_out.add("recordings that annotation files name or belong to do not exist", where, name)
    for entry in recordings:
        annotations = found.get(entry.fields["path"])
        if annotations is None:
            left_out.add(f"recordings have no annotations in a file that ends in {settings.ending}", entry.location)
            continue
        for annotation in annotations:
            if not annotation.text:
                left_out.add("annotations have no text", annotation.location)
        yield from _entries(entry, [each for each in annotations if each.text], settings.cut)
    similar = near_misses(
        {name: name for name in unknown}, (name for name in names if not name.lower().endswith(ending))
    )
    if not found:
        example = f"; there is {next(iter(similar.values()))}" if similar else ""
        raise SpeechmillError(
            f"{path}: none of the {len(recordings)} recordings belongs to one of the {len(files)} files that end in"
            f" {settings.ending}, such as {files[0]}{example}; correct the names, or the dataset's `annotations`, or"
            " set `pattern`"
        )
    left_out.report(similar)


def _by_recording(
    path: Path, settings: Annotations, recordings: "_Recordings", files: list[str]
) -> tuple[dict[str, list[Annotation]], dict[str, str]]:
    """Return the annotations of each recording, and the location of each recording that does not exist, by name."""
    read = _READERS[settings.file_format]
    found: defaultdict[str, list[Annotation]] = defaultdict(list)
    unknown: dict[str, str] = {}
    tiers: Counter[str] = Counter()
    has_chosen = False
    for name in progress(files, desc="annotations", unit="file"):
        file = path / name
        if not os.path.realpath(file).startswith(f"{path}/"):
            raise SpeechmillError(f"{file} is outside the directory {path}; put the file itself there")
        try:
            annotations = read(file)
        except OSError as error:
            raise SpeechmillError(f"{file} cannot be read ({error.strerror}); fix this and run again") from error
        tiers.update(each.tier for each in annotations if each.text)
        chosen = _chosen(file, annotations, settings)
        has_chosen = has_chosen or bool(chosen) or not annotations
        stem = name[: len(name) - len(settings.ending)]
        by_name: defaultdict[str, list[Annotation]] = defaultdict(list)
        if settings.file_format in ("ctm", "stm"):
            for annotation in chosen:
                by_name[annotation.recording].append(annotation)
            belonging = {each: recordings.named(each, name) for each in by_name}
        else:
            by_name[stem] = chosen
            belonging = {stem: recordings.beside(stem)}
        for each, recording in belonging.items():
            if recording is None:
                unknown[each] = str(file)
            else:
                found[recording] += by_name[each]
    if not has_chosen:
        raise SpeechmillError(
            f"{path}: no file that ends in {settings.ending} has one of the dataset's `annotations.tiers` or"
            f" `annotations.linguistic_types`; the tiers are {_listed(tiers)}"
        )
    return dict(found), unknown


def _chosen(file: Path, annotations: list[Annotation], settings: Annotations) -> list[Annotation]:
    """Return the annotations of the chosen tiers; those of the only tier with text if none is chosen."""
    if settings.tiers or settings.linguistic_types:
        tiers, types = ({_normal(name) for name in names} for names in (settings.tiers, settings.linguistic_types))
        return [each for each in annotations if _normal(each.tier) in tiers or _normal(each.linguistic_type) in types]
    with_text = Counter(each.tier for each in annotations if each.text)
    if len(with_text) > 1:
        raise SpeechmillError(
            f"{file} has several tiers with text, {_listed(with_text)}; set the dataset's `annotations.tiers` to those"
            " with the sentences"
        )
    return annotations


def _listed(tiers: Counter[str]) -> str:
    return ", ".join(f"`{name}` ({count} annotations)" for name, count in tiers.most_common()) or "without text"


def _entries(recording: Entry, annotations: list[Annotation], cut: bool) -> Iterator[Entry]:
    """Yield the entries of a recording with annotations."""
    pieces: defaultdict[tuple[Piece, str, str], list[Annotation]] = defaultdict(list)
    for each in annotations if cut else sorted(annotations, key=lambda each: each.piece.start):
        pieces[(each.piece, each.tier, each.speaker) if cut else (Piece(), "", "")].append(each)
    file = PurePosixPath(recording.fields["path"])
    folder = "" if file.parent == PurePosixPath() else str(file.parent)
    for (piece, tier, speaker), group in pieces.items():
        name = recording.fields.get("id", str(file))
        fields = {
            "sentence": (" " if cut else "\n").join(each.text for each in group),
            "recording": file.stem,
            "folder": folder,
            "tier": _common(each.tier for each in group),
            "participant": _common(each.participant for each in group),
            "speaker": _common(each.speaker for each in group),
        }
        fields |= {"speaker_id": fields["speaker"]} | recording.fields
        if piece == Piece():
            yield Entry(recording.location, fields)
        else:
            # The same also if there are other annotations at the same time, now or later.
            fields["id"] = " ".join(filter(None, [name, str(piece), tier or speaker]))
            yield Entry(group[0].location, fields, piece)


def _common(values: Iterable[str]) -> str:
    """Return the only one of the values; an empty one if there are several."""
    distinct = set(values)
    return distinct.pop() if len(distinct) == 1 else ""


class _Recordings:
    """The recordings of a folder, by their names without the ending."""

    def __init__(self, path: Path, names: Iterable[str]) -> None:
        self._path = path
        self._by_path: defaultdict[str, list[str]] = defaultdict(list)
        self._by_name: defaultdict[str, list[str]] = defaultdict(list)
        for name in names:
            stem = _without_ending(name)
            self._by_path[_normal(stem).casefold()].append(name)
            self._by_name[_normal(stem).casefold().rpartition("/")[2]].append(name)

    def beside(self, stem: str) -> str | None:
        """Return the recording with this path without its ending; None if there is none."""
        found = self._by_path.get(_normal(stem).casefold(), [])
        return self._only([each for each in found if _without_ending(each) == stem] or found, stem)

    def named(self, name: str, file: str) -> str | None:
        """Return the recording that an annotation file names, in its folder or in any other one."""
        for stem in dict.fromkeys([name, _without_ending(name)]):
            found = self.beside(str(PurePosixPath(file).parent / stem)) or self.beside(stem)
            found = found or self._only(self._by_name.get(_normal(stem).casefold(), []), stem)
            if found is not None:
                return found
        return None

    def _only(self, found: list[str], stem: str) -> str | None:
        if len(found) > 1:
            raise SpeechmillError(
                f"{self._path}: {' and '.join(sorted(found))} may both be the recording with the annotations of {stem};"
                " move one of them, or set the dataset's `pattern` to the names of the recordings"
            )
        return found[0] if found else None


def _without_ending(name: str) -> str:
    return name[: len(name) - len(PurePosixPath(name).suffix)]


def _normal(name: str) -> str:
    return unicodedata.normalize("NFC", name)


class _LeftOut:
    """Counts of what is left out, with the first of each kind."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._examples: defaultdict[str, list[tuple[str, str | None]]] = defaultdict(list)

    def add(self, what: str, where: str, name: str | None = None) -> None:
        """Count one of a kind; `name` is that of a recording that does not exist."""
        self._examples[what].append((where, name))

    def report(self, similar: dict[str, str]) -> None:
        """Print the counts; `similar` are the files with names similar to those of recordings that do not exist."""
        for what, examples in self._examples.items():
            where, name = next((each for each in examples if each[1] in similar), examples[0])
            example = f"{name!a} in {where}" if name is not None else where
            hint = f" (there is {similar[name]})" if name in similar else ""
            print(f"{self._path}: {len(examples)} {what}, such as {example}{hint}; they are left out", file=sys.stderr)
