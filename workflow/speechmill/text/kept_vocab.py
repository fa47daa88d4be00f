"""The tokenizer of a base whose vocabulary is kept, and what it cannot write of the training text."""

import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from transformers import AutoTokenizer

from speechmill.core.command import SpeechmillError

# The largest share of the characters of the training text that the vocabulary of a base may lack.
_MAX_UNWRITTEN = 0.1
_LISTED = 20


class Unwritten(NamedTuple):
    """A character that a vocabulary cannot write."""

    times: int
    example: str
    """A text with the character."""


def kept_tokenizer(base: Path) -> Any:
    """Return the tokenizer of a base.

    Raises:
        SpeechmillError: The base has no tokenizer.
    """
    if not any((base / name).is_file() for name in ("vocab.json", "tokenizer.json")):
        raise SpeechmillError(
            "vocab: keep: the base has no tokenizer, neither vocab.json nor tokenizer.json; remove `vocab`, choose a"
            " base that was fine-tuned, or name its language in `model.target_lang` if it holds several"
        )
    tokenizer = AutoTokenizer.from_pretrained(base, trust_remote_code=False)
    if tokenizer.pad_token_id is None:
        raise SpeechmillError(
            "vocab: keep: the tokenizer of the base has no padding token, which is the blank of CTC; remove `vocab`"
        )
    return tokenizer


def unwritten_characters(tokenizer: Any, characters: Mapping[str, int], texts: Iterable[str]) -> dict[str, Unwritten]:
    """Return the characters that a tokenizer cannot write, the most frequent first.

    Args:
        tokenizer: The tokenizer of a base.
        characters: How often each character occurs in `texts`.
        texts: The texts, among which examples are found.
    """
    missing = {character for character in characters if not character.isspace() and not writes(tokenizer, character)}
    examples: dict[str, str] = {}
    for text in texts if missing else ():
        if len(examples) == len(missing):
            break
        for character in missing.intersection(text) - examples.keys():
            examples[character] = text
    counts = Counter({character: characters[character] for character in sorted(missing)})
    return {character: Unwritten(count, examples[character]) for character, count in counts.most_common()}


def writes(tokenizer: Any, character: str) -> bool:
    """Return whether a tokenizer has tokens for a character, other than the blank and the unknown token."""
    ids = tokenizer(character, add_special_tokens=False).input_ids
    return bool(ids) and not {None, tokenizer.unk_token_id, tokenizer.pad_token_id}.intersection(ids)


def check_unwritten(unwritten: Mapping[str, Unwritten], characters: Mapping[str, int]) -> None:
    """Print the characters that the vocabulary of a base cannot write.

    Raises:
        SpeechmillError: They are more than a tenth of the text.
    """
    if not unwritten:
        return
    total = sum(count for character, count in characters.items() if not character.isspace())
    count = sum(each.times for each in unwritten.values())
    listed = "; ".join(
        f"{json.dumps(character, ensure_ascii=False)} ({each.times:,}) as in {each.example!r}"
        for character, each in list(unwritten.items())[:_LISTED]
    )
    more = "; …" if len(unwritten) > _LISTED else ""
    message = (
        f"vocab: keep: the vocabulary of the base cannot write {count:,} of {total:,} characters of the training text,"
        f" {count / total:.1%}: {listed}{more}; change the run's `text` rules, such as `case` and `replace`, to fit"
        " the vocabulary"
    )
    if count > _MAX_UNWRITTEN * total:
        raise SpeechmillError(f"{message}, or remove `vocab`")
    print(f"warning: {message}", file=sys.stderr)
