"""Which sets of a dataset a clip belongs to: the published splits that have it, or the one that it is drawn into."""

import hashlib
import unicodedata
from collections.abc import Mapping
from typing import Any

from speechmill.config.datasets import DrawnSplit
from speechmill.core.command import SpeechmillError


def splits_of(clip: Mapping[str, Any], drawn: Mapping[str, DrawnSplit]) -> tuple[str, ...]:
    """The splits of a clip, a row with `id`, `splits`, `speaker_id` and `sentence`: all published ones, or a drawn one.

    A clip that is drawn belongs to that split alone. What decides is a hash of its speaker (or sentence) and nothing
    else, so that a clip stays where it is whatever is added to the corpus.
    Raises SpeechmillError where a split is drawn by speaker and the clip has none.
    """
    for name, rule in drawn.items():
        if rule.of in clip["splits"] and _is_drawn(clip, name, rule):
            return (name,)
    return tuple(clip["splits"])


def letters(sentence: str) -> str:
    """A sentence's letters, with marks, and digits in lower case: what makes two sentences the same to the ear."""
    folded = unicodedata.normalize("NFC", sentence.casefold())
    return folded if folded.isalnum() else "".join(filter(_is_heard, folded))


def _is_heard(character: str) -> bool:
    return character.isalnum() or unicodedata.category(character).startswith("M")


def _is_drawn(clip: Mapping[str, Any], name: str, rule: DrawnSplit) -> bool:
    key = clip["speaker_id"] if rule.by == "speaker" else letters(clip["sentence"])
    if key is None:
        raise SpeechmillError(
            f"drawn.{name}: the clip {clip['id']} has no speaker, so that no split can be drawn by speaker; set"
            f" drawn.{name}.by to sentence"
        )
    digest = hashlib.sha256(f"{rule.seed}/{name}/{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < rule.share * 2**64
