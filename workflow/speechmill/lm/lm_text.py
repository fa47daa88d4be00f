"""lm_text: write the training text of the language model, without sentences of dev or of scored sets."""

import argparse
import hashlib
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import zstandard
from pydantic import BaseModel

from speechmill.config.text import TextConfig
from speechmill.core.command import SpeechmillError, run_command
from speechmill.core.files import (
    atomic_write,
    check_files,
    check_folder,
    file_digest,
    read_json,
    write_json,
    write_text,
)
from speechmill.core.tables import read_table
from speechmill.text.lexicon import Tokens, tokenizer_tokens
from speechmill.text.normaliser import Normaliser, compose

_TOKENIZER = ("vocab.json", "tokenizer_config.json")

_COUNTS = ("read", "empty", "removed", "not_spelled", "repeated", "sentences", "words")


class LmTextSettings(BaseModel):
    """The stage settings."""

    text: TextConfig


class SeenSentences:
    """A set of sentences of which it stores hashes of 64 bits, 12 to 24 bytes a sentence, for a hundred million.

    Two of a hundred million sentences have the same hash with a probability of 0.03 %. Source: the birthday problem.
    """

    def __init__(self) -> None:
        self._count, self._table = 0, array("Q", bytes(8 << 16))

    def add(self, sentence: str) -> bool:
        """Add a sentence; return False if it was there already."""
        digest = hashlib.blake2b(sentence.encode(), digest_size=8).digest()
        # 0 marks a free slot.
        if not self._insert(int.from_bytes(digest, "little") or 1):
            return False
        self._count += 1
        if 3 * self._count > 2 * len(self._table):
            hashes, self._table = self._table, array("Q", bytes(16 * len(self._table)))
            for value in filter(None, hashes):
                self._insert(value)
        return True

    def _insert(self, value: int) -> bool:
        table, mask = self._table, len(self._table) - 1
        slot = value & mask
        while table[slot]:
            if table[slot] == value:
                return False
            slot = (slot + 1) & mask
        table[slot] = value
        return True


class HeldOutFilter:
    """A filter that removes empty and held-out sentences and counts them.

    `held_out` maps dev and each scored set to its sentences. All sentences must be normalised by the run's rules, with
    Hangul as syllables.
    """

    def __init__(self, held_out: Mapping[str, Iterable[str]]) -> None:
        self._sets: dict[str, set[str]] = {}
        for name, sentences in held_out.items():
            for sentence in sentences:
                self._sets.setdefault(sentence, set()).add(name)
        self._seen = SeenSentences()
        self.counts: Counter[str] = Counter(dict.fromkeys(_COUNTS, 0))
        self.removed: Counter[str] = Counter(dict.fromkeys(held_out, 0))

    def filter(self, sentences: Iterable[str], *, unique: bool, tokens: Tokens | None = None) -> Iterator[str]:
        """Yield the `sentences` that are neither empty nor held out.

        With `unique`, yield repeated ones only once, also those that were yielded by an earlier call with `unique`.
        With `tokens`, leave out those with a word that the tokens cannot spell.
        """
        can_spell = lru_cache(1 << 18)(lambda word: tokens is None or tokens.spell(word) is not None)
        for sentence in sentences:
            self.counts["read"] += 1
            if not sentence:
                self.counts["empty"] += 1
            elif sentence in self._sets:
                self.counts["removed"] += 1
                self.removed.update(self._sets[sentence])
            elif not all(map(can_spell, sentence.split())):
                self.counts["not_spelled"] += 1
            elif unique and not self._seen.add(sentence):
                self.counts["repeated"] += 1
            else:
                self.counts["sentences"] += 1
                self.counts["words"] += len(sentence.split())
                yield sentence


def read_clip_texts(clips: Path) -> list[str]:
    """Return the normalised texts of a table of clips, with jamo composed to syllables."""
    return [compose(text) for text in read_table(clips, ["text"])["text"].to_pylist()]


def read_text_file(file: Path, normalise: Normaliser) -> Iterator[str]:
    """Yield the normalised lines of a plain-text file, with jamo composed to syllables.

    Raises:
        SpeechmillError: The file is not valid UTF-8.
    """
    with file.open(encoding="utf-8-sig") as lines:
        try:
            for line in lines:
                yield compose(normalise(line))
        except UnicodeDecodeError as error:
            raise SpeechmillError(
                f"{file}, listed in evaluation.lm.files, is not valid UTF-8 ({error}); convert it, for example with"
                " iconv"
            ) from error


def read_fetched_text(file: Path, normalise: Normaliser) -> Iterator[str]:
    """Yield the normalised sentences that the stage `ingest_text` wrote, with jamo composed to syllables.

    Raises:
        SpeechmillError: The file has changed since it was written.
    """
    check_files(file.parent, read_json(file.with_name("source.json"))["sha256"])
    with zstandard.open(file, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield compose(normalise(line))


def read_tokens(tokenizer: list[Path]) -> Tokens:
    """Return the tokens of a model, given the folder of its tokenizer or the files there."""
    folder = tokenizer[0] if tokenizer[0].is_dir() else tokenizer[0].parent
    for name in _TOKENIZER:
        check_folder(folder, name)
    return tokenizer_tokens(*(folder / name for name in _TOKENIZER))


def main() -> None:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=LmTextSettings.model_validate_json, required=True)
    parser.add_argument("--clips", type=Path, nargs="*", default=[], help="the training clips, if they are used")
    parser.add_argument("--files", type=Path, nargs="*", default=[], help="plain text, one sentence per line")
    parser.add_argument("--texts", type=Path, nargs="*", default=[], help="outputs of ingest_text")
    parser.add_argument("--tokenizer", type=Path, nargs="*", default=[], help="tokenizer of the model, for --texts")
    parser.add_argument("--held-out", type=Path, nargs="+", required=True, help="the clips of dev and each scored set")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--digest", type=Path, required=True)
    parser.add_argument("--counts", type=Path, required=True)
    args = parser.parse_args()
    held_out = HeldOutFilter({path.stem: read_clip_texts(path) for path in args.held_out})
    normalise = Normaliser(args.settings.text)
    sources: list[tuple[str, Iterator[str]]] = []
    # Many speakers read the same prompts, and many articles have the same sentences. Counting them repeatedly would
    # distort the model, and KenLM estimates its discounts from the n-grams that occur once.
    if args.clips:
        sources.append(("training", held_out.filter(read_clip_texts(args.clips[0]), unique=True)))
    for path in args.files:
        sources.append((path.name, held_out.filter(read_text_file(path, normalise), unique=False)))
    if args.texts:
        tokens = read_tokens(args.tokenizer)
        for path in args.texts:
            found = held_out.filter(read_fetched_text(path, normalise), unique=True, tokens=tokens)
            sources.append((path.parent.name, found))
    by_source = []
    with atomic_write(args.text) as temporary, temporary.open("w", encoding="utf-8") as file:
        for _, kept in sources:
            before = dict(held_out.counts)
            file.writelines(f"{sentence}\n" for sentence in kept)
            by_source.append({name: held_out.counts[name] - before[name] for name in _COUNTS})
    counts: dict[str, Any] = dict(held_out.counts)
    removed = ", ".join(f"{count:,} in {name}" for name, count in held_out.removed.items() if count) or "none"
    print(
        f"{counts['sentences']:,} sentences; {counts['removed']:,} removed because they occur in dev or a scored set"
        f" ({removed}); {counts['repeated']:,} repeated, {counts['not_spelled']:,} with characters that the model lacks"
    )
    if not counts["sentences"]:
        raise SpeechmillError(
            f"no sentence is left for the language model: of {counts['read']:,}, {counts['removed']:,} occur in dev or"
            f" a scored set ({removed}) and {counts['empty']:,} are empty; configure other text in evaluation.lm"
        )
    write_text(file_digest(args.text) + "\n", args.digest)
    write_json(
        {"source": [name for name, _ in sources], "by_source": by_source}
        | counts
        | {"removed_by_set": dict(held_out.removed)},
        args.counts,
    )


if __name__ == "__main__":
    run_command(main)
