"""The tiers with the sentences, in files of ELAN and of Praat that have several tiers with text."""

import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechmill.corpus.sources.annotations.annotation import Annotation
from speechmill.corpus.sources.annotations.elan import read_elan
from speechmill.corpus.sources.annotations.textgrid import read_textgrid

TIER_READERS = {".eaf": read_elan, ".textgrid": read_textgrid}
"""The functions that read files with tiers, by the ending of their names in lower case."""

_FILES = 200
# Parts of the names of tiers that are not what is spoken, or not in sentences.
_OTHER = re.compile(
    r"(?i)transl|gloss|\bgls\b|\bfree\b|\bft\b|morph|\bpos\b|note|comment|phone|phonem|segment|gesture|topic|tone|"
    r"\bipa\b|translit|english"
)
_WORDS = re.compile(r"(?i)\bwords?\b|\bwrd\b|token")


@dataclass(frozen=True)
class Tiers:
    """The chosen tiers.

    Attributes:
        names: Their names; empty if each file has one tier with text.
        keys: The keys of the dataset's `annotations`.
        speakers: The field with the speaker, `speaker` or `tier`; None if the speakers are not known.
    """

    names: list[str]
    keys: dict[str, Any]
    speakers: str | None


def choose_tiers(path: Path, files: list[str]) -> Tiers:
    """Return the tiers with the sentences, by their names and linguistic types, of the annotation files of a folder.

    Tiers whose names stand for translations, glosses and the like are left out, and those with single words if there
    are others.

    Raises:
        SpeechmillError: A file is malformed.
    """
    read = TIER_READERS[Path(files[0]).suffix.lower()]
    by_tier: defaultdict[str, list[Annotation]] = defaultdict(list)
    several = False
    for name in files[:: max(1, len(files) // _FILES)]:
        annotations = [each for each in read(path / name) if each.text]
        several |= len({each.tier for each in annotations}) > 1
        for each in annotations:
            by_tier[each.tier].append(each)
    spoken = {name for name in by_tier if not _OTHER.search(name)} or set(by_tier)
    sentences = {name for name in spoken if not _WORDS.search(name)}
    chosen = sentences or spoken
    keys: dict[str, Any] = {}
    if several:
        types = {each.linguistic_type for name in chosen for each in by_tier[name]}
        others = {each.linguistic_type for name in set(by_tier) - chosen for each in by_tier[name]}
        # A type also selects the tiers of speakers who are in no other file.
        keys = {"tiers": sorted(chosen)} if "" in types or types & others else {"linguistic_types": sorted(types)}
    if not sentences:
        keys["cut"] = False
    named = all(each.speaker for name in chosen for each in by_tier[name])
    speakers = "speaker" if named and by_tier else "tier" if several and len(chosen) > 1 and sentences else None
    return Tiers(sorted(chosen) if several else [], keys, speakers)
