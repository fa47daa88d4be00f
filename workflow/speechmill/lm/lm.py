"""lm: the n-gram language model of words, by KenLM, and the words that beam search can write."""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from speechmill.core.command import SpeechmillError, atomic_write, run_command
from speechmill.core.tables import file_digest, write_json
from speechmill.text.lexicon import ABOUT, LEXICON, MODEL, TOKENS, Tokens, tokenizer_tokens

_FALLBACK = re.compile(r"Substituting fallback discounts for order (\d+)")


class LmSettings(BaseModel):
    """The slice of `evaluation.lm` that this stage reads."""

    order: int
    prune: list[int]
    format: Literal["trie", "probing"]
    max_words: int


def make_model(text: Path, model: Path, settings: LmSettings, memory_mb: int) -> dict[str, Any]:
    """Make a KenLM binary `model` of `text`, a sentence a line, with modified Kneser-Ney smoothing.

    Returns the n-grams of each order, and the orders whose discounts could not be estimated, so that KenLM's own were
    taken: in a small text no n-gram may be there just once or twice. Source: Heafield et al., Scalable modified
    Kneser-Ney language model estimation, ACL 2013.

    Raises SpeechmillError where KenLM's programs are absent, or fail.
    """
    memory = f"{memory_mb}M"
    # Beside the result, where there is room for it.
    with tempfile.TemporaryDirectory(dir=model.parent, prefix=".arpa-") as folder, atomic_write(model) as beside:
        arpa = Path(folder, "arpa")
        counting = [
            "--order",
            settings.order,
            "--prune",
            *(settings.prune or [0])[: settings.order],
            "--discount_fallback",
        ]
        places = ["--temp_prefix", f"{folder}/", "--memory", memory, "--text", text, "--arpa", arpa]
        told = _run("lmplz", *counting, "--skip_symbols", *places)
        _run("build_binary", "-T", f"{folder}/", "-S", memory, settings.format, arpa, beside)
        with arpa.open(encoding="utf-8") as lines:
            # After \data\ come the counts, then an empty line.
            next(lines)
            header = [line.strip() for line in iter(lambda: next(lines), "\n")]
    return {
        "ngrams": [int(line.split("=")[1]) for line in header],
        "discount_fallback": [int(order) + 1 for order in _FALLBACK.findall(told)],
    }


def _run(program: str, *arguments: object) -> str:
    """What a program of KenLM says on standard error."""
    found = shutil.which(program) or shutil.which(program, path=Path(sys.executable).parent)
    if found is None:
        raise SpeechmillError(f"KenLM's {program} is not on PATH: `make setup` builds it into .venv/bin")
    done = subprocess.run(
        [found, *map(str, arguments)], stderr=subprocess.PIPE, text=True, errors="replace", check=False
    )
    if done.returncode:
        raise SpeechmillError(
            f"KenLM's {program} ended with status {done.returncode}; where memory or the disk ran out, grant the job"
            " more, otherwise look at the text and at order and prune in evaluation.lm. It said:\n"
            + done.stderr[-2000:]
        )
    return done.stderr


def write_lexicon(text: Path, lexicon: Path, tokens: Tokens, max_words: int) -> dict[str, int]:
    """Write the most frequent words of `text` with their spelling, in the order of code points; count them.

    Raises SpeechmillError where the model can spell none of them.
    """
    counts: Counter[str] = Counter()
    with text.open(encoding="utf-8") as sentences:
        for sentence in sentences:
            counts.update(sentence.split())
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    entries = [tokens.entry(word) for word in sorted(ranked[:max_words])]
    written = [entry for entry in entries if entry is not None]
    if not written:
        raise SpeechmillError(
            f"the model can spell no word of {text}, such as {ranked[0]!r}, in its tokens, such as"
            f" {', '.join(tokens.by_id[:10])}: see that the run's `text` writes as the model does"
        )
    with atomic_write(lexicon) as beside:
        beside.write_text("".join(written), encoding="utf-8")
    return {
        "distinct_words": len(ranked),
        "words_in_lexicon": len(written),
        "words_not_spelled": len(entries) - len(written),
    }


def main() -> None:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=LmSettings.model_validate_json, required=True)
    parser.add_argument("--text", type=Path, required=True, help="a sentence a line, as lm_text writes it")
    parser.add_argument("--vocab", type=Path, required=True, help="the tokenizer's vocab.json")
    parser.add_argument("--tokenizer", type=Path, required=True, help="its tokenizer_config.json")
    parser.add_argument("--memory-mb", type=int, required=True, help="for KenLM to sort in")
    parser.add_argument("--folder", type=Path, required=True)
    args = parser.parse_args()
    settings: LmSettings = args.settings
    folder: Path = args.folder
    folder.mkdir(parents=True, exist_ok=True)
    tokens = tokenizer_tokens(args.vocab, args.tokenizer)
    words = write_lexicon(args.text, folder / LEXICON, tokens, settings.max_words)
    with atomic_write(folder / TOKENS) as beside:
        beside.write_text("".join(f"{token}\n" for token in tokens.by_id), encoding="utf-8")
    made = make_model(args.text, folder / MODEL, settings, args.memory_mb)
    if made["discount_fallback"]:
        orders = ", ".join(map(str, made["discount_fallback"]))
        print(f"the text is too small to estimate the discounts of the orders {orders}: KenLM's own are taken")
    write_json(
        settings.model_dump()
        | made
        | words
        | {"blank": tokens.blank, "separator": tokens.separator, "text_sha256": file_digest(args.text)},
        folder / ABOUT,
    )


if __name__ == "__main__":
    run_command(main)
