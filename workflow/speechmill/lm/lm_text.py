"""lm_text: the sentences that the language model is made of, without any that a choice or a score rests on."""

import argparse
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from speechmill.config.text import TextConfig
from speechmill.core.command import SpeechmillError, atomic_write, run_command
from speechmill.core.tables import file_digest, read_table, write_json
from speechmill.text.normaliser import Normaliser, compose


class LmTextSettings(BaseModel):
    """The slice of a run's section that this stage reads."""

    text: TextConfig


class Sentences:
    """Sentences that may be learned from, one by one, and the counts of those that may not.

    `held_out` gives for each set that is scored, and for dev, its sentences; all are compared as the language model has
    them: after the run's normalisation, Hangul in syllables.
    """

    def __init__(self, held_out: Mapping[str, Iterable[str]]) -> None:
        self._sets: dict[str, set[str]] = {}
        for name, sentences in held_out.items():
            for sentence in sentences:
                self._sets.setdefault(sentence, set()).add(name)
        self.counts: Counter[str] = Counter(read=0, empty=0, repeated=0, removed=0, sentences=0, words=0)
        self.removed: Counter[str] = Counter(dict.fromkeys(held_out, 0))

    def kept(self, sentences: Iterable[str], *, once: bool) -> Iterator[str]:
        """Those of `sentences` that are not empty and in none of the sets; with `once`, each only the first time."""
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
                if once:
                    seen.add(sentence)
                self.counts["sentences"] += 1
                self.counts["words"] += len(sentence.split())
                yield sentence


def table_sentences(clips: Path) -> list[str]:
    """The texts of a table of clips, which are normalised, with jamo composed to syllables."""
    return [compose(text) for text in read_table(clips, ["text"])["text"].to_pylist()]


def file_sentences(files: Iterable[Path], normalise: Normaliser) -> Iterator[str]:
    """The lines of plain-text files after normalisation, with jamo composed to syllables.

    Raises SpeechmillError where one is not UTF-8.
    """
    for file in files:
        with file.open(encoding="utf-8-sig") as lines:
            try:
                for line in lines:
                    yield compose(normalise(line))
            except UnicodeDecodeError as error:
                raise SpeechmillError(
                    f"{file}, in evaluation.lm.files, is not UTF-8 ({error}): convert it, for instance with iconv"
                ) from error


def main() -> None:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=LmTextSettings.model_validate_json, required=True)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--clips", type=Path, help="the training clips")
    source.add_argument("--files", type=Path, nargs="+", help="plain text, a sentence a line")
    parser.add_argument("--held-out", type=Path, nargs="+", required=True, help="the clips of dev and each scored set")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--digest", type=Path, required=True)
    parser.add_argument("--counts", type=Path, required=True)
    args = parser.parse_args()
    sentences = Sentences({path.stem: table_sentences(path) for path in args.held_out})
    if args.clips:
        # One that many speakers read aloud is no likelier for that, and would leave no n-grams seen once, by which
        # KenLM estimates those never seen.
        kept = sentences.kept(table_sentences(args.clips), once=True)
    else:
        kept = sentences.kept(file_sentences(args.files, Normaliser(args.settings.text)), once=False)
    with atomic_write(args.text) as beside, beside.open("w", encoding="utf-8") as file:
        file.writelines(f"{sentence}\n" for sentence in kept)
    counts: dict[str, Any] = dict(sentences.counts)
    removed = ", ".join(f"{count:,} of {name}" for name, count in sentences.removed.items() if count) or "none"
    print(f"{counts['sentences']:,} sentences; {counts['removed']:,} removed for being in a scored set ({removed})")
    if not counts["sentences"]:
        raise SpeechmillError(
            f"no sentence is left for the language model: of {counts['read']:,} read, {counts['removed']:,} are in a"
            f" scored set ({removed}) and {counts['empty']:,} are empty; name other text in evaluation.lm"
        )
    with atomic_write(args.digest) as beside:
        beside.write_text(file_digest(args.text) + "\n", encoding="utf-8")
    write_json(
        {"source": "training" if args.clips else [file.name for file in args.files]}
        | counts
        | {"removed_by_set": dict(sentences.removed)},
        args.counts,
    )


if __name__ == "__main__":
    run_command(main)
