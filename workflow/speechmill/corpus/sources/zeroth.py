"""Zeroth-Korean, OpenSLR 40: FLAC files, a `.trans.txt` per speaker and script, and `AUDIO_INFO` on the speakers.

`{split}_data_NN/{script}/{speaker}/` contains `{speaker}_{script}_{utterance}.flac` and `{speaker}_{script}.trans.txt`,
which has one line per utterance: the id, which is the name of the FLAC file, and the text.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from speechmill.config.datasets import Zeroth
from speechmill.core.command import SpeechmillError
from speechmill.corpus.sources.archive import Tree, open_tree
from speechmill.corpus.sources.corpus import Corpus, SourceClip, merge_splits

_FILE = re.compile(
    r"(?P<top>(?:[^/]+/)?)(?P<name>(?P<split>[a-z0-9]+)_data_\d+/[^/]+/[^/]+/\w[^/]*\.(?:flac|trans\.txt))"
)
_SPEAKERS = re.compile(r"(?:[^/]+/)?AUDIO_INFO")
_GENDERS = {"m": "male", "f": "female"}


@contextmanager
def open_zeroth(path: Path, settings: Zeroth, splits: list[str], work: Path) -> Iterator[Corpus]:
    """Yield the corpus from the archive, with its members in any order, or from the folder that it unpacks to.

    An utterance without a FLAC file becomes a clip without bytes, and a FLAC file without text a clip with an empty
    sentence. The language models are ignored. `settings` is not used, because there is only one layout.

    Raises:
        SpeechmillError: The archive or folder is refused (see `open_tree`), lacks a split, contains an utterance twice
            with differences, or a transcript or `AUDIO_INFO` is invalid.
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
                known = ", ".join(sorted(found)) or "none"
                raise SpeechmillError(f"{path} contains no {split}_data_NN; its splits are {known}, see `splits`")
        if len(tops) > 1:
            folders = " and ".join(sorted(top or "./" for top in tops))
            raise SpeechmillError(f"{path} contains the corpus more than once, in {folders}; set `path` to one of them")
        clips = list(_clips(tree, path, _genders(tree, f"{tops.pop()}AUDIO_INFO", path)))
        listed = {split: [clip for clip in clips if clip.splits == (split,)] for split in splits}
        yield Corpus(merge_splits(listed), lambda clip: tree.encoded(clip.file), tree.about)


def _clips(tree: Tree, path: Path, genders: dict[str, str]) -> Iterator[SourceClip]:
    texts: dict[tuple[str, str], str] = {}
    for name in tree.names:
        if name.endswith(".trans.txt"):
            for line, text in _lines(tree, name, path):
                utterance, *rest = text.split(maxsplit=1)
                sentence = "".join(rest)
                if texts.setdefault((_folder(name), utterance), sentence) != sentence:
                    raise SpeechmillError(f"{path}: {name}, line {line}: {utterance} has two texts; delete one of them")
    for name in tree.names:
        if name.endswith(".flac"):
            texts.setdefault((_folder(name), name.rpartition("/")[2].removesuffix(".flac")), "")
    first: dict[str, SourceClip] = {}
    for (folder, utterance), sentence in sorted(texts.items()):
        split, speaker = folder.partition("_data_")[0], folder.rpartition("/")[2]
        clip = SourceClip(
            utterance, (split,), f"{folder}/{utterance}.flac", sentence, speaker, gender=genders.get(speaker)
        )
        other = first.setdefault(utterance, clip)
        if other is not clip and (other.sentence != sentence or tree.read(other.file) != tree.read(clip.file)):
            raise SpeechmillError(f"{path}: {other.file} and {clip.file} differ; delete one of them")
        yield clip


def _genders(tree: Tree, name: str, path: Path) -> dict[str, str]:
    """Return the gender of each speaker from lines of the form `SPEAKERID|NAME|SEX|SCRIPTID|DATASET`."""
    genders: dict[str, str] = {}
    for line, text in _lines(tree, name, path):
        fields = [value.strip() for value in text.split("|")]
        if len(fields) < 3:
            raise SpeechmillError(
                f"{path}: {name}, line {line} is not SPEAKERID|NAME|SEX|SCRIPTID|DATASET: {text!r}; download it again"
            )
        if fields[2]:
            genders[fields[0]] = _GENDERS.get(fields[2].lower(), fields[2].lower())
    return genders


def _lines(tree: Tree, name: str, path: Path) -> Iterator[tuple[int, str]]:
    """Yield the number and text of each line that is not blank; only LF and CR LF end a line."""
    for number, line in enumerate((tree.read(name) or b"").split(b"\n"), 1):
        try:
            text = line.removesuffix(b"\r").decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise SpeechmillError(f"{path}: {name}, line {number} is not UTF-8 ({error}); download it again") from error
        if text.strip():
            yield number, text


def _folder(name: str) -> str:
    return name.rpartition("/")[0]
