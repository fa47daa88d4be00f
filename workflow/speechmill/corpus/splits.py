"""Membership of clips in splits: the splits of the corpus that list a clip, or the split that it is drawn into."""

import hashlib
import unicodedata
from collections.abc import Mapping
from typing import Any

from speechmill.config.datasets import DrawnSplit
from speechmill.core.command import SpeechmillError


def splits_of(clip: Mapping[str, Any], drawn: Mapping[str, DrawnSplit]) -> tuple[str, ...]:
    """Return the splits of a clip: all splits of the corpus that list it, or the one drawn split that takes it.

    A drawn clip belongs to the drawn split alone. The draw depends only on a hash of the speaker (or sentence), so a
    clip stays in its split when clips are added to the corpus.

    Args:
        clip: A row with `id`, `splits`, `speaker_id` and `sentence`.
        drawn: The drawn splits of the dataset by name.

    Raises:
        SpeechmillError: A split is drawn by speaker, and the clip has none.
    """
    for name, rule in drawn.items():
        if rule.of in clip["splits"] and _is_drawn(clip, name, rule):
            return (name,)
    return tuple(clip["splits"])


def sentence_key(sentence: str) -> str:
    """Return the letters (with combining marks) and digits of a sentence in lower case; equal for equal sentences."""
    folded = unicodedata.normalize("NFC", sentence.casefold())
    return folded if folded.isalnum() else "".join(filter(_is_letter_mark_or_digit, folded))


def _is_letter_mark_or_digit(character: str) -> bool:
    return character.isalnum() or unicodedata.category(character).startswith("M")


def _is_drawn(clip: Mapping[str, Any], name: str, rule: DrawnSplit) -> bool:
    key = clip["speaker_id"] if rule.by == "speaker" else sentence_key(clip["sentence"])
    if key is None:
        raise SpeechmillError(
            f"drawn.{name}: the clip {clip['id']} has no speaker, but the split is drawn by speaker; set"
            f" drawn.{name}.by to sentence"
        )
    digest = hashlib.sha256(f"{rule.seed}/{name}/{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < rule.share * 2**64
