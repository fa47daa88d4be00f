"""lm_text: write the training text of the language model, without sentences of dev or of scored sets."""

import argparse
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from speechmill.config.text import TextConfig
from speechmill.core.command import SpeechmillError, run_command
from speechmill.core.files import atomic_write, file_digest, write_json, write_text
from speechmill.core.tables import read_table
from speechmill.text.normaliser import Normaliser, compose


class LmTextSettings(BaseModel):
    """The stage settings."""

    text: TextConfig


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
        self.counts: Counter[str] = Counter(read=0, empty=0, repeated=0, removed=0, sentences=0, words=0)
        self.removed: Counter[str] = Counter(dict.fromkeys(held_out, 0))

    def filter(self, sentences: Iterable[str], *, unique: bool) -> Iterator[str]:
        """Yield the `sentences` that are neither empty nor held out; with `unique`, yield repeated ones only once."""
        seen: set[str] = set()
        for sentence in sentences:
            self.counts["read"] += 1
            if not sentence:
                self.counts["empty"] += 1
            elif sentence in self._sets:
                self.counts["removed"] += 1
                self.removed.update(self._sets[sentence])
            elif sentence in seen:
                self.counts["repeated"] += 1
            else:
                if unique:
                    seen.add(sentence)
                self.counts["sentences"] += 1
                self.counts["words"] += len(sentence.split())
                yield sentence


def read_clip_texts(clips: Path) -> list[str]:
    """Return the normalised texts of a table of clips, with jamo composed to syllables."""
    return [compose(text) for text in read_table(clips, ["text"])["text"].to_pylist()]


def read_text_files(files: Iterable[Path], normalise: Normaliser) -> Iterator[str]:
    """Yield the normalised lines of plain-text files, with jamo composed to syllables.

    Raises:
        SpeechmillError: A file is not valid UTF-8.
    """
    for file in files:
        with file.open(encoding="utf-8-sig") as lines:
            try:
                for line in lines:
                    yield compose(normalise(line))
            except UnicodeDecodeError as error:
                raise SpeechmillError(
                    f"{file}, listed in evaluation.lm.files, is not valid UTF-8 ({error}); convert it, for"
                    " example with iconv"
                ) from error


def main() -> None:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=LmTextSettings.model_validate_json, required=True)
    parser.add_argument("--clips", type=Path, nargs="*", help="the training clips, unless the text is in files")
    parser.add_argument("--files", type=Path, nargs="*", help="plain text, one sentence per line")
    parser.add_argument("--held-out", type=Path, nargs="+", required=True, help="the clips of dev and each scored set")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--digest", type=Path, required=True)
    parser.add_argument("--counts", type=Path, required=True)
    args = parser.parse_args()
    held_out = HeldOutFilter({path.stem: read_clip_texts(path) for path in args.held_out})
    if args.clips:
        # Many speakers read the same prompts. Counting them repeatedly would distort the model, and KenLM estimates its
        # discounts from the n-grams that occur once.
        kept = held_out.filter(read_clip_texts(args.clips[0]), unique=True)
    else:
        kept = held_out.filter(read_text_files(args.files, Normaliser(args.settings.text)), unique=False)
    with atomic_write(args.text) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(f"{sentence}\n" for sentence in kept)
    counts: dict[str, Any] = dict(held_out.counts)
    removed = ", ".join(f"{count:,} in {name}" for name, count in held_out.removed.items() if count) or "none"
    print(
        f"{counts['sentences']:,} sentences; {counts['removed']:,} removed because they occur in dev or a scored set"
        f" ({removed})"
    )
    if not counts["sentences"]:
        raise SpeechmillError(
            f"no sentence is left for the language model: of {counts['read']:,}, {counts['removed']:,} occur in dev or"
            f" a scored set ({removed}) and {counts['empty']:,} are empty; configure other text in evaluation.lm"
        )
    write_text(file_digest(args.text) + "\n", args.digest)
    write_json(
        {"source": "training" if args.clips else [file.name for file in args.files]}
        | counts
        | {"removed_by_set": dict(held_out.removed)},
        args.counts,
    )


if __name__ == "__main__":
    run_command(main)
