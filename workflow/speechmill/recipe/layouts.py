"""How a folder gives the text, the speakers and the splits of its recordings, as the keys of a dataset.

What is found here is read by the readers of the workflow itself, so that a recipe has exactly what was reported.
"""

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from num2words import num2words

from speechmill.config.datasets import TABLES
from speechmill.core.command import SpeechmillError
from speechmill.core.languages import languages_of
from speechmill.corpus.sources.annotations.annotated import is_recording
from speechmill.corpus.sources.manifests import Entry, columns_by_separator, read_json_lines, read_table
from speechmill.recipe.characters import number_language
from speechmill.recipe.tiers import TIER_READERS, choose_tiers

_SENTENCE = (
    *("sentence", "transcript", "transcription", "text", "normalized_text", "normalised_text", "raw_text"),
    *("utterance", "words", "phrase", "transcript_text", "label"),
)
_SPEAKER = (
    *("speaker_id", "speaker", "client_id", "spk", "spk_id", "speakerid", "user_id", "user", "reader", "reader_id"),
    *("voice", "participant", "talker"),
)
_SPLIT = ("split", "set", "subset", "partition")
_SPLIT_NAMES = {"train": 0, "training": 0, "dev": 1, "valid": 1, "validation": 1, "val": 1, "test": 2, "eval": 2}
"""Names of splits, and whether each is for training (0), for development (1) or for the test (2)."""

# With times, in the order of preference; other endings are plain text.
_TIMED = (".eaf", ".textgrid", ".srt", ".vtt")
_LISTING = (".stm", ".ctm")
_COMMON_VOICE = re.compile(r"(?:.*/)?(?P<language>[^/]+)/(?:clips/[^/]+|(?P<table>[^/]+)\.tsv)")
_ZEROTH = re.compile(r"(?:[^/]+/)?(?P<split>[a-z0-9]+)_data_\d+/[^/]+/[^/]+/[^/]+\.trans\.txt")
_ROWS = 200
_FIELDS = re.compile(r"[_\-.]")


@dataclass(frozen=True)
class Layout:
    """How a folder or an archive describes its recordings.

    Attributes:
        text: How the text is given, for display.
        section: The keys of the dataset that describe the source.
        splits: The splits of the corpus.
        speakers: How the speakers are known, for display; None if they are not.
        has_text: Whether the recordings have text.
    """

    text: str
    section: dict[str, Any]
    splits: list[str] = field(default_factory=lambda: ["train"])
    speakers: str | None = None
    has_text: bool = True

    def split_for(self, purpose: int) -> str | None:
        """Return the split for training (0), for development (1) or for the test (2), if the corpus has one."""
        return next((split for split in self.splits if _SPLIT_NAMES.get(split) == purpose), None)


def find_layout(path: Path, names: list[str], language: str) -> Layout:
    """Return how the folder or archive at `path`, whose files have these names, describes its recordings.

    Raises:
        SpeechmillError: There are no recordings, or an archive is not that of a published corpus.
    """
    recordings = [name for name in names if is_recording(name)]
    if not recordings:
        raise SpeechmillError(
            f"{path} contains no recordings, which are files that end in .wav, .flac, .mp3 and similar; set FOLDER to"
            " the folder of the recordings"
        )
    published = _common_voice(path, names, language) or _zeroth(names)
    if published is not None:
        return published
    if not path.is_dir():
        raise SpeechmillError(
            f"{path} is an archive that is neither of Common Voice nor of Zeroth; unpack it, and set FOLDER to the"
            " folder"
        )
    found = (
        _kaldi(names)
        or _tables(path, names, recordings)
        or _annotations(path, names, recordings)
        or _labels(recordings, language)
    )
    return found or _without_text(recordings)


def _common_voice(path: Path, names: list[str], language: str) -> Layout | None:
    tables: defaultdict[str, set[str]] = defaultdict(set)
    clips: set[str] = set()
    # The folder may be that of the language.
    for match in (_COMMON_VOICE.fullmatch(f"{path.name}/{name}") for name in names):
        if match is not None and match["table"]:
            tables[match["language"]].add(match["table"])
        elif match is not None:
            clips.add(match["language"])
    found = sorted(each for each in clips if "train" in tables[each])
    if not found:
        return None
    # The name of the folder is a locale, such as sv-SE.
    chosen = [language] if language in found else languages_of(language, found)
    if not chosen:
        raise SpeechmillError(
            f"{path} is a Common Voice release without the language {language}; set LANGUAGE to one of"
            f" {', '.join(found)}"
        )
    splits = [split for split in _SPLIT_NAMES if split in {"train", "dev", "test"} & tables[chosen[0]]]
    section = {"source": "common_voice", "language": chosen[0]}
    return Layout("the tables of Common Voice", section, splits, "the column client_id of the tables")


def _zeroth(names: list[str]) -> Layout | None:
    splits = sorted({match["split"] for match in map(_ZEROTH.fullmatch, names) if match}, key=_by_purpose)
    if not splits:
        return None
    return Layout("the .trans.txt files of Zeroth", {"source": "zeroth"}, splits, "the folders of Zeroth")


def _by_purpose(split: str) -> tuple[int, str]:
    return _SPLIT_NAMES.get(split, 9), split


def _kaldi(names: list[str]) -> Layout | None:
    listed = set(names)
    homes = [name.rpartition("/")[0] for name in names if PurePosixPath(name).name == "wav.scp"]
    homes = [home for home in homes if f"{home}/text".lstrip("/") in listed]
    if not homes:
        return None
    manifest, splits = _one_of_each_split(homes) or (homes[0] or ".", ["train"])
    speakers = all(f"{home}/utt2spk".lstrip("/") in listed for home in homes)
    section = {"source": "folder", "manifest": manifest}
    return Layout("a Kaldi data folder", section, splits, "utt2spk of the Kaldi folder" if speakers else None)


def _one_of_each_split(names: list[str]) -> tuple[str, list[str]] | None:
    """Return a name with `{split}` and the splits, if some of the names differ only in the name of the split."""
    by_name: defaultdict[str, set[str]] = defaultdict(set)
    for name in names:
        for match in re.finditer(rf"(?<![a-zA-Z])({'|'.join(_SPLIT_NAMES)})(?![a-zA-Z])", name):
            by_name[f"{name[: match.start()]}{{split}}{name[match.end() :]}"].add(match[0])
    best = max(by_name, key=lambda each: len(by_name[each]), default=None)
    # One table alone needs no pattern.
    if best is None or len(by_name[best]) < 2 or not any(_SPLIT_NAMES[each] == 0 for each in by_name[best]):
        return None
    return best, sorted(by_name[best], key=_by_purpose)


@dataclass(frozen=True)
class _Table:
    """A table whose rows name recordings: how it is read, which columns mean what, and the number of its rows."""

    name: str
    reading: dict[str, Any]
    columns: dict[str, str]
    split: str | None
    rows: int
    splits: list[str]


def _tables(path: Path, names: list[str], recordings: list[str]) -> Layout | None:
    stems = set(map(_stem, recordings))
    candidates = [
        name
        for name in names
        if PurePosixPath(name).suffix.lower() in (*TABLES, ".json", ".jsonl")
        and _stem(name) not in stems
        and name.count("/") <= 3
    ]
    files = _Files(path, recordings)
    found = [table for name in candidates[:_ROWS] if (table := _table(path / name, name, files)) is not None]
    if not found:
        return None
    best = max(found, key=lambda table: table.rows)
    alike = [table.name for table in found if table.columns == best.columns and table.reading == best.reading]
    manifest, splits = _one_of_each_split(alike) or (best.name, best.splits or ["train"])
    section: dict[str, Any] = {"source": "folder", "manifest": manifest, **best.reading}
    columns = {column: source for column, source in best.columns.items() if column != source}
    if columns:
        section["columns"] = columns
    if best.split and "{split}" not in manifest:
        section["split"] = {"field": best.split}
    speakers = f"the column {best.columns['speaker_id']} of the table" if "speaker_id" in best.columns else None
    return Layout(f"the table {manifest}", section, splits, speakers)


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


class _Files:
    """The recordings of a folder by their name, and by the last part of it with and without its ending."""

    def __init__(self, path: Path, recordings: list[str]) -> None:
        self._path = path.resolve()
        self._names = set(recordings)
        self._by_end: dict[str, str] = {}
        for name in recordings:
            pure = PurePosixPath(name)
            for key in (pure.name, pure.stem):
                self._by_end.setdefault(key, name)

    def find(self, value: str) -> tuple[str, str] | None:
        """Return what precedes and what follows `value` in the name of a recording; None if there is none."""
        if value in self._names:
            return "", ""
        if value.startswith("/"):
            return ("", "") if Path(value).is_relative_to(self._path) and Path(value).is_file() else None
        name = self._by_end.get(value.rpartition("/")[2])
        if name is None or not value:
            return None
        before, found, after = name.rpartition(value)
        return (before, after) if found else None


def _table(file: Path, name: str, files: _Files) -> _Table | None:
    """Return how a table is read, or None if the file is not a table of recordings with their text."""
    try:
        rows, reading = _rows(file)
    except (SpeechmillError, OSError):
        return None
    path, first = _path_column(rows, files)
    if path is None:
        return None
    if first is None and "column_names" in reading:
        # The first row names no recording: it is the header.
        header = {each: value.strip() for each, value in rows[0].items()}
        if not all(header.values()) or len(set(header.values())) < len(header):
            return None
        del reading["column_names"]
        rows = [{header[each]: value for each, value in row.items()} for row in rows[1:]]
        path = re.sub(r"column\d+", lambda match: header[match[0]], path)
    sentence = _named(rows[0], _SENTENCE) or _longest_text(rows, files)
    if sentence is None:
        return None
    columns = {"path": path, "sentence": sentence}
    if speaker := _named(rows[0], _SPEAKER):
        columns["speaker_id"] = speaker
    split = _named(rows[0], _SPLIT)
    splits = sorted({row[split] for row in rows} - {""}, key=_by_purpose) if split else []
    if not set(splits) <= set(_SPLIT_NAMES) or "train" not in splits:
        split, splits = None, []
    return _Table(name, reading, columns, split, len(rows), splits)


def _rows(file: Path) -> tuple[list[dict[str, str]], dict[str, Any]]:
    """Return the rows of a table, its first one included, and the keys that say how it is read."""
    reading: dict[str, Any] = {}
    entries: Iterator[Entry]
    if file.suffix.lower() in (".json", ".jsonl"):
        entries = read_json_lines(file)
    else:
        counts = columns_by_separator(file)
        separator = max(counts, key=lambda each: counts[each])
        if counts[separator] < 2:
            raise SpeechmillError(f"{file} has one column")
        if separator != ("\t" if file.suffix.lower() == ".tsv" else ","):
            reading["separator"] = separator
        reading["column_names"] = [f"column{number}" for number in range(1, counts[separator] + 1)]
        entries = read_table(file, separator, reading["column_names"])
    rows = [entry.fields for entry in entries]
    if not rows:
        raise SpeechmillError(f"{file} is empty")
    return rows, reading


def _path_column(rows: list[dict[str, str]], files: _Files) -> tuple[str | None, str | None]:
    """Return the source of the column `path`, and the same for the first row alone."""
    sample = [rows[0], *rows[1 :: max(1, len(rows) // _ROWS)]]
    found: Counter[str] = Counter()
    first = None
    for number, row in enumerate(sample):
        for column, value in row.items():
            around = files.find(value)
            if around is not None:
                before, after = around
                source = column if around == ("", "") else f"{before}{{{column}}}{after}"
                found[source] += 1
                first = source if number == 0 else first
    if not found:
        return None, None
    source, count = found.most_common(1)[0]
    return (source, first) if count > len(sample) / 2 or count == len(sample) - 1 > 0 else (None, None)


def _named(row: Iterable[str], names: tuple[str, ...]) -> str | None:
    by_name = {column.strip().lower(): column for column in row}
    return next((by_name[name] for name in names if name in by_name), None)


def _longest_text(rows: list[dict[str, str]], files: _Files) -> str | None:
    """Return the column with the most letters; the last of those that are nearly equal, as in LJSpeech."""
    letters = {
        column: sum(map(str.isalpha, "".join(row.get(column, "") for row in rows[:_ROWS])))
        for column in rows[0]
        if files.find(rows[0][column]) is None
    }
    most = max(letters.values(), default=0)
    return next((column for column in reversed(letters) if most and letters[column] > 0.9 * most), None)


def _annotations(path: Path, names: list[str], recordings: list[str]) -> Layout | None:
    stems = set(map(_stem, recordings))
    beside: Counter[str] = Counter()
    for name in names:
        if not is_recording(name) and _stem(name) in stems:
            beside[PurePosixPath(name).suffix] += 1
    for ending in sorted(beside, key=lambda each: -beside[each]):
        if ending.lower() in _TIMED:
            return _timed(path, ending, names, recordings)
    for listing in _LISTING:
        for name in names:
            if name.lower().endswith(listing):
                return _beside(PurePosixPath(name).suffix, recordings, "pieces with times")
    texts = {ending: count for ending, count in beside.items() if ending.lower() in (".txt", ".lab", ".text", ".trn")}
    if texts:
        return _beside(max(texts, key=lambda each: texts[each]), recordings, "the text of a complete recording")
    return None


def _timed(path: Path, ending: str, names: list[str], recordings: list[str]) -> Layout:
    if ending.lower() not in TIER_READERS:
        return _beside(ending, recordings, "pieces with times")
    tiers = choose_tiers(path, [name for name in names if name.lower().endswith(ending.lower())])
    section: dict[str, Any] = {"source": "folder", "annotations": {"ending": ending} | tiers.keys}
    if tiers.speakers is not None and tiers.speakers != "speaker":
        section["columns"] = {"speaker_id": tiers.speakers}
    chosen = f", of the tiers {', '.join(tiers.names)}" if tiers.names else ""
    speakers = None if tiers.speakers is None else f"the {tiers.speakers} of each annotation"
    return Layout(f"{ending} files{chosen}", section, speakers=speakers)


def _beside(ending: str, recordings: list[str], what: str) -> Layout:
    section: dict[str, Any] = {"source": "folder", "annotations": {"ending": ending}}
    if ending.lower() == ".stm":
        return Layout(f"{ending} files ({what})", section, speakers="the STM file")
    speakers = _speaker_folders(recordings)
    if speakers:
        section["columns"] = {"speaker_id": "folder"}
    return Layout(f"a {ending} file beside each recording ({what})", section, speakers=speakers)


def _speaker_folders(recordings: list[str]) -> str | None:
    """Return how the speakers are known if each has a folder."""
    folders = Counter(name.rpartition("/")[0] for name in recordings)
    last = {folder.rpartition("/")[2].lower() for folder in folders}
    if len(folders) < 2 or "" in folders or last & {*_SPLIT_NAMES, "wav", "wavs", "audio", "clips"}:
        return None
    return "the name of the folder of each recording; if folders are not speakers, remove this line"


@dataclass(frozen=True)
class _Pattern:
    """A pattern that fits the names of nearly all recordings, and the values of its fields in each name."""

    parts: list[str]
    values: list[tuple[str, ...]]

    def named(self, names: dict[int, str]) -> str:
        """Return the pattern with these names for its fields, by their number."""
        fields = (f"{{{names.get(number, f'field{number + 1}')}}}" for number in range(len(self.parts) - 1))
        return "".join(itertools.chain(*zip(self.parts, (*fields, ""), strict=True)))


def _labels(recordings: list[str], language: str) -> Layout | None:
    """Return the layout of recordings whose names have a number that is spoken, as in `{digit}_{speaker}_{take}.wav`.

    It is a field with a few whole numbers, each of which occurs with every value of another field.
    """
    pattern = _pattern(recordings)
    code = number_language(language)
    if pattern is None or code is None:
        return None
    columns = list(zip(*pattern.values, strict=True))
    distinct = [sorted(set(column)) for column in columns]
    words = [number for number, values in enumerate(distinct) if 2 <= len(values) <= 101 and _are_numbers(values)]
    voices = [
        number
        for number, values in enumerate(distinct)
        if 2 <= len(values) < len(recordings) / 2 and not all(map(str.isdigit, values))
    ]
    label = min(words, key=lambda number: len(distinct[number]), default=None)
    if label is None or not voices or len(columns) < 3:
        return None
    voice = max(voices, key=lambda number: len(distinct[number]))
    pairs = {(values[label], values[voice]) for values in pattern.values}
    if len(pairs) < 0.8 * len(distinct[label]) * len(distinct[voice]):
        return None
    section = {
        "source": "folder",
        "pattern": pattern.named({label: "number", voice: "speaker"}),
        "columns": {
            "sentence": {
                "field": "number",
                "values": {value: num2words(int(value), lang=code) for value in distinct[label]},
            },
            "speaker_id": "speaker",
        },
    }
    return Layout("a number in each file name, spelled out", section, speakers="a part of each file name")


def _are_numbers(values: list[str]) -> bool:
    return all(value.isdecimal() and len(value) <= 3 and str(int(value)) == value for value in values)


def _pattern(recordings: list[str]) -> _Pattern | None:
    """Return the pattern of the names, if all have the same number of fields with the same separators."""
    parsed = [_FIELDS.split(name) for name in recordings]
    between = {tuple(_FIELDS.findall(name)) for name in recordings}
    if len(between) != 1 or any("/" in name for name in recordings):
        return None
    (separators,) = between
    endings = {each[-1] for each in parsed}
    if len(endings) != 1 or len(separators) < 2:
        return None
    parts = ["", *separators[:-1], f".{endings.pop()}"]
    return _Pattern(parts, [tuple(each[:-1]) for each in parsed])


def _without_text(recordings: list[str]) -> Layout:
    ending = Counter(PurePosixPath(name).suffix for name in recordings).most_common(1)[0][0]
    depth = Counter(name.count("/") for name in recordings).most_common(1)[0][0]
    folders = "".join(f"{{folder{number}}}/" for number in range(1, depth + 1))
    columns: dict[str, Any] = {"sentence": None}
    speakers = _speaker_folders(recordings)
    if speakers and depth:
        columns["speaker_id"] = f"folder{depth}"
    section = {"source": "folder", "pattern": f"{folders}{{name}}{ending}", "columns": columns}
    return Layout("none was found", section, speakers=speakers, has_text=False)
