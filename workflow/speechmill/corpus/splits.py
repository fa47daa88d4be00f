"""Membership of clips in splits: the splits of the corpus that list a clip, or the split that it is drawn into."""

import hashlib
import unicodedata
from collections.abc import Mapping
from typing import Any

from speechmill.config.datasets import DrawnBy, DrawnSplit
from speechmill.core.command import SpeechmillError


def splits_of(clip: Mapping[str, Any], drawn: Mapping[str, DrawnSplit]) -> tuple[str, ...]:
    """Return the splits of a clip: all splits of the corpus that list it, or the one drawn split that takes it.

    A drawn clip belongs to the drawn split alone. A hash gives each speaker (or recording, or sentence) a position in
    [0, 1). Splits drawn from the same split take consecutive intervals of positions in the order of their names, each
    as wide as its share: they are disjoint, and each gets its share of all speakers. A clip stays in its split when
    clips are added to the corpus.

    Args:
        clip: A row with `id`, `splits`, `speaker_id`, `recording` and `sentence`.
        drawn: The drawn splits of the dataset by name.

    Raises:
        SpeechmillError: A split is drawn by speaker, and the clip has none.
    """
    first: dict[str, str] = {}
    ends: dict[str, float] = {}
    # Sorted, since the settings of stages are JSON with sorted keys, and `verify` reads the configuration itself.
    for name, rule in sorted(drawn.items()):
        start = ends.get(rule.of, 0.0)
        ends[rule.of] = end = start + rule.share
        # With one name for all, a split drawn alone has the same clips as under version 0.1.0.
        salt = f"{rule.seed}/{first.setdefault(rule.of, name)}"
        if rule.of in clip["splits"] and start * 2**64 <= _hash(clip, name, rule, salt) < end * 2**64:
            return (name,)
    return tuple(clip["splits"])


def drawn_unit(clip: Mapping[str, Any], by: DrawnBy) -> str | None:
    """Return the speaker, recording or sentence of a clip, of which all clips are drawn together; None if unknown."""
    unit: str | None
    match by:
        case "speaker":
            unit = clip["speaker_id"]
        case "recording":
            # A clip that is not cut from a recording is one itself.
            unit = clip["recording"] or clip["id"]
        case "sentence":
            unit = sentence_key(clip["sentence"])
    return unit


def sentence_key(sentence: str) -> str:
    """Return the letters (with combining marks) and digits of a sentence in lower case; equal for equal sentences."""
    folded = unicodedata.normalize("NFC", sentence.casefold())
    return folded if folded.isalnum() else "".join(filter(_is_letter_mark_or_digit, folded))


def _is_letter_mark_or_digit(character: str) -> bool:
    return character.isalnum() or unicodedata.category(character).startswith("M")


def _hash(clip: Mapping[str, Any], name: str, rule: DrawnSplit, salt: str) -> int:
    """Return the hash of the speaker, recording or sentence of a clip, a number of 64 bits."""
    unit = drawn_unit(clip, rule.by)
    if unit is None:
        raise SpeechmillError(
            f"drawn.{name}: the clip {clip['id']} has no speaker, but the split is drawn by speaker; set"
            f" drawn.{name}.by to recording or sentence, like that of every split drawn from {rule.of}"
        )
    return int.from_bytes(hashlib.sha256(f"{salt}/{unit}".encode()).digest()[:8], "big")
