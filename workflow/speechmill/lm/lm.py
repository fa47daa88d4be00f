"""lm: estimate an n-gram language model of words or characters with KenLM, and write the lexicon of beam search."""

import argparse
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from speechmill.config.lm import LmUnit
from speechmill.core.command import SpeechmillError, run_command
from speechmill.core.files import (
    atomic_write,
    check_folder,
    corrupt_file_error,
    file_digest,
    holds_digest,
    scratch_folder,
    write_json,
    write_text,
)
from speechmill.text.lexicon import ABOUT, LEXICON, MODEL, TOKENS, Tokens, tokenizer_tokens

_FALLBACK = re.compile(r"Substituting fallback discounts for order (\d+)")


class LmSettings(BaseModel):
    """The stage settings, from `evaluation.lm`."""

    unit: LmUnit = "words"
    order: int
    prune: list[int]
    format: Literal["trie", "probing"]
    max_words: int
    max_mb: int | None = None


def build_smaller_model(text: Path, model: Path, settings: LmSettings, memory_mb: int) -> dict[str, Any]:
    """Estimate a language model of at most `max_mb`, and return its statistics, `bytes`, and the `thresholds`.

    The thresholds of `prune_thresholds` are tried in turn until the file is small enough.

    Raises:
        SpeechmillError: The smallest model is too large, or a KenLM program is not installed or fails.
    """
    for prune in prune_thresholds(settings.prune, settings.order):
        statistics = build_model(text, model, settings.model_copy(update={"prune": prune}), memory_mb)
        size = model.stat().st_size
        print(f"prune {prune}: {size / 1e6:,.1f} MB, {sum(statistics['ngrams']):,} n-grams")
        if settings.max_mb is None or size <= settings.max_mb * 10**6:
            return statistics | {"thresholds": prune, "bytes": size}
        if not any(statistics["ngrams"][1:]):
            # Single words are never pruned.
            break
    model.unlink()
    raise SpeechmillError(
        f"the smallest language model has {size / 1e6:,.1f} MB, but evaluation.lm.max_mb is {settings.max_mb}: raise"
        f" it, or use less text; its {statistics['ngrams'][0]:,} {settings.unit} alone need this space"
    )


def prune_thresholds(prune: list[int], order: int) -> Iterator[list[int]]:
    """Yield thresholds for `prune` of lmplz: those given, and then higher ones, which leave fewer n-grams.

    The threshold of trigrams and longer n-grams doubles, that of bigrams is half of it, and unigrams are kept.
    """
    given = (prune or [0])[:order]
    given += given[-1:] * (order - len(given))
    yield given
    last = given
    for threshold in (1 << step for step in range(24)):
        least = [0, threshold // 2, *[threshold] * (order - 2)]
        raised = [max(pair) for pair in zip(given, least, strict=True)]
        if raised != last:
            last = raised
            yield raised


def build_model(text: Path, model: Path, settings: LmSettings, memory_mb: int) -> dict[str, Any]:
    """Estimate a language model with modified Kneser-Ney smoothing and write it to `model` in KenLM's binary format.

    `text` has one sentence per line. Return the number of n-grams of each order, and the orders for which the default
    discounts of KenLM were used because a small text has too few n-grams that occur once or twice to estimate them.
    Source: Heafield et al., Scalable modified Kneser-Ney language model estimation, ACL 2013.

    Raises:
        SpeechmillError: A KenLM program is not installed or fails.
    """
    memory = f"{memory_mb}M"
    # Next to the result, because /tmp may be too small.
    with scratch_folder(model.with_name(".arpa")) as folder, atomic_write(model) as temporary:
        arpa = folder / "arpa"
        options = ["--order", settings.order, "--prune", *(settings.prune or [0])[: settings.order]]
        options += ["--discount_fallback", "--skip_symbols", "--temp_prefix", f"{folder}/", "--memory", memory]
        messages = _run("lmplz", *options, "--text", text, "--arpa", arpa)
        _run("build_binary", "-T", f"{folder}/", "-S", memory, settings.format, arpa, temporary)
        with arpa.open(encoding="utf-8") as lines:
            # The line \data\ is followed by the counts and an empty line.
            next(lines)
            header = [line.strip() for line in iter(lambda: next(lines), "\n")]
    return {
        "ngrams": [int(line.split("=")[1]) for line in header],
        "discount_fallback": [int(order) + 1 for order in _FALLBACK.findall(messages)],
    }


def _run(program: str, *arguments: object) -> str:
    """Run a KenLM program and return its standard error."""
    path = shutil.which(program) or shutil.which(program, path=Path(sys.executable).parent)
    if path is None:
        raise SpeechmillError(f"{program} of KenLM is not installed; run `make setup`, which builds it into .venv/bin")
    process = subprocess.run(
        [path, *map(str, arguments)], stderr=subprocess.PIPE, text=True, errors="replace", check=False
    )
    if process.returncode:
        raise SpeechmillError(
            f"{program} of KenLM failed with exit status {process.returncode}; if memory or disk space ran out, give"
            " the job more, otherwise check the text and `order` and `prune` in evaluation.lm. Its output:\n"
            + process.stderr[-2000:]
        )
    return process.stderr


def write_spelled(text: Path, spelled: Path, tokens: Tokens) -> None:
    """Write the sentences of `text` as tokens of the model, separated by spaces."""
    with text.open(encoding="utf-8") as sentences, spelled.open("w", encoding="utf-8") as file:
        for sentence in sentences:
            file.write(" ".join(tokens.sentence(sentence.removesuffix("\n"))) + "\n")


def write_lexicon(text: Path, lexicon: Path, tokens: Tokens, settings: LmSettings) -> dict[str, int]:
    """Write the `max_words` most frequent words of `text` and their spellings, sorted by code point; return the counts.

    With the unit `characters` the beam search needs no lexicon, and the file is empty.

    Raises:
        SpeechmillError: The model can spell none of the words, or none of the characters.
    """
    characters = settings.unit == "characters"
    counts: Counter[str] = Counter()
    with text.open(encoding="utf-8") as sentences:
        for sentence in sentences:
            counts.update("".join(sentence.split()) if characters else sentence.split())
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    entries = [tokens.entry(word) for word in sorted(ranked if characters else ranked[: settings.max_words])]
    written = [entry for entry in entries if entry is not None]
    if not written:
        raise SpeechmillError(
            f"the model can spell none of the {settings.unit} of {text}, such as {ranked[0]!r}, with tokens such as"
            f" {', '.join(tokens.by_id[:10])}; change the run's `text` rules to match the vocabulary of the model"
        )
    if characters:
        write_text("", lexicon)
        return {"distinct_characters": len(ranked), "characters_not_spelled": len(entries) - len(written)}
    write_text("".join(written), lexicon)
    return {
        "distinct_words": len(ranked),
        "words_in_lexicon": len(written),
        "words_not_spelled": len(entries) - len(written),
    }


def main() -> None:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=LmSettings.model_validate_json, required=True)
    parser.add_argument("--text", type=Path, required=True, help="the training text, one sentence per line")
    parser.add_argument("--text-digest", type=Path, required=True, help="the sha256 of the training text")
    parser.add_argument("--vocab", type=Path, required=True, help="the tokenizer's vocab.json")
    parser.add_argument("--tokenizer", type=Path, required=True, help="the tokenizer's tokenizer_config.json")
    parser.add_argument("--memory-mb", type=int, required=True, help="the memory that KenLM may use for sorting")
    parser.add_argument("--folder", type=Path, required=True)
    args = parser.parse_args()
    settings: LmSettings = args.settings
    folder: Path = args.folder
    folder.mkdir(parents=True, exist_ok=True)
    text_digest = file_digest(args.text)
    if not holds_digest(args.text_digest, text_digest):
        raise corrupt_file_error(args.text, f"has changed since it was written: {args.text_digest} has another sha256")
    for file in (args.vocab, args.tokenizer):
        check_folder(file.parent, file.name)
    tokens = tokenizer_tokens(args.vocab, args.tokenizer)
    words = write_lexicon(args.text, folder / LEXICON, tokens, settings)
    write_text("".join(f"{token}\n" for token in tokens.by_id), folder / TOKENS)
    if settings.unit == "words":
        statistics = build_smaller_model(args.text, folder / MODEL, settings, args.memory_mb)
    else:
        with scratch_folder(folder / ".tokens") as temporary:
            spelled = temporary / "text.txt"
            write_spelled(args.text, spelled, tokens)
            statistics = build_smaller_model(spelled, folder / MODEL, settings, args.memory_mb)
    if statistics["discount_fallback"]:
        orders = ", ".join(map(str, statistics["discount_fallback"]))
        print(f"the text is too small to estimate discounts for the orders {orders}; using the defaults of KenLM")
    write_json(
        settings.model_dump()
        | statistics
        | words
        | {"blank": tokens.blank, "separator": tokens.separator, "special": sorted(tokens.special)}
        | {"text_sha256": text_digest}
        | {"sha256": {name: file_digest(folder / name) for name in (MODEL, LEXICON, TOKENS)}},
        folder / ABOUT,
    )


if __name__ == "__main__":
    run_command(main)
