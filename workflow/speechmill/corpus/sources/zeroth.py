"""Zeroth-Korean, OpenSLR 40: FLAC beside a `.trans.txt` for each speaker and script, and `AUDIO_INFO` on the speakers.

`{split}_data_NN/{script}/{speaker}/{speaker}_{script}_{utterance}.flac` lies beside `{speaker}_{script}.trans.txt`,
which has a line an utterance: its id, which is the name of the FLAC, and the text.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from speechmill.config.datasets import Zeroth
from speechmill.core.command import SpeechmillError
from speechmill.corpus.sources.archive import Tree, open_tree
from speechmill.corpus.sources.corpus import Corpus, Published, merge_splits

_FILE = re.compile(
    r"(?P<top>(?:[^/]+/)?)(?P<name>(?P<split>[a-z0-9]+)_data_\d+/[^/]+/[^/]+/\w[^/]*\.(?:flac|trans\.txt))"
)
_SPEAKERS = re.compile(r"(?:[^/]+/)?AUDIO_INFO")
_GENDERS = {"m": "male", "f": "female"}


@contextmanager
def open_zeroth(path: Path, settings: Zeroth, splits: list[str], work: Path) -> Iterator[Corpus]:
    """Read the archive, with its members in any order, or the folder that it unpacks to.

    An utterance without a FLAC is published too, without bytes, and a FLAC without text with an empty sentence. The
    language models are left alone. `settings` has nothing to choose from: the layout is one.

    Raises SpeechmillError where the archive or folder is refused (see `open_tree`), lacks a split, has an utterance
    twice and not alike, or a transcript or `AUDIO_INFO` cannot be understood.
    """
    tops: set[str] = set()
    found: set[str] = set()

    def keep(name: str) -> str | None:
        if _SPEAKERS.fullmatch(name):
            return name
        match = _FILE.fullmatch(name)
        if match is None:
            return None
        tops.add(match["top"])
        found.add(match["split"])
        return match["name"] if match["split"] in splits else None

    with open_tree(path, work, keep) as tree:
        for split in splits:
            if split not in found:
                known = ", ".join(sorted(found)) or "none at all"
                raise SpeechmillError(f"{path} has nothing in {split}_data_01; its splits are {known}")
        if len(tops) > 1:
            places = " and ".join(sorted(top or "./" for top in tops))
            raise SpeechmillError(f"{path} has the corpus more than once, in {places}; let `path` name one")
        clips = list(_published(tree, path, _genders(tree, f"{tops.pop()}AUDIO_INFO", path)))
        listed = {split: [clip for clip in clips if clip.splits == (split,)] for split in splits}
        yield Corpus(merge_splits(listed), lambda clip: tree.read(clip.file), tree.about)


def _published(tree: Tree, path: Path, genders: dict[str, str]) -> Iterator[Published]:
    said: dict[tuple[str, str], str] = {}
    for name in tree.names:
        if name.endswith(".trans.txt"):
            for line, text in _lines(tree, name, path):
                utterance, *rest = text.split(maxsplit=1)
                sentence = "".join(rest)
                if said.setdefault((_folder(name), utterance), sentence) != sentence:
                    raise SpeechmillError(f"{path}: {name}, line {line}: {utterance} has two texts; keep one of them")
    for name in tree.names:
        if name.endswith(".flac"):
            said.setdefault((_folder(name), name.rpartition("/")[2].removesuffix(".flac")), "")
    first: dict[str, Published] = {}
    for (folder, utterance), sentence in sorted(said.items()):
        split, speaker = folder.partition("_data_")[0], folder.rpartition("/")[2]
        clip = Published(
            utterance, (split,), f"{folder}/{utterance}.flac", sentence, speaker, gender=genders.get(speaker)
        )
        other = first.setdefault(utterance, clip)
        if other is not clip and (other.sentence != sentence or tree.read(other.file) != tree.read(clip.file)):
            raise SpeechmillError(f"{path}: {other.file} and {clip.file} are not alike; keep one of them")
        yield clip


def _genders(tree: Tree, name: str, path: Path) -> dict[str, str]:
    """The gender of each speaker: `SPEAKERID|NAME|SEX|SCRIPTID|DATASET`, a line a speaker."""
    genders: dict[str, str] = {}
    for line, text in _lines(tree, name, path):
        fields = [value.strip() for value in text.split("|")]
        if len(fields) < 3:
            raise SpeechmillError(f"{path}: {name}, line {line} is not SPEAKERID|NAME|SEX|SCRIPTID|DATASET: {text!r}")
        if fields[2]:
            genders[fields[0]] = _GENDERS.get(fields[2].lower(), fields[2].lower())
    return genders


def _lines(tree: Tree, name: str, path: Path) -> Iterator[tuple[int, str]]:
    """The number and text of each line that is not blank; only LF or CR LF ends a line."""
    for number, line in enumerate((tree.read(name) or b"").split(b"\n"), 1):
        try:
            text = line.removesuffix(b"\r").decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise SpeechmillError(f"{path}: {name}, line {number} is not UTF-8 ({error}); fetch it again") from error
        if text.strip():
            yield number, text


def _folder(name: str) -> str:
    return name.rpartition("/")[0]
