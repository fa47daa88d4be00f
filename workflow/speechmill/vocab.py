"""vocab: the characters of the training text, and the processor that plain transformers loads."""

import argparse
import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from transformers import (
    AutoFeatureExtractor,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Processor,
)

from speechmill.command import run_command
from speechmill.tables import read_table, write_json

PAD, UNKNOWN, SPACE = "[PAD]", "[UNK]", "|"


class Settings(BaseModel):
    """The slice of a run's section that this stage reads: the configuration of new weights, None with a base."""

    init: dict[str, Any] | None


def vocabulary(texts: list[str]) -> dict[str, int]:
    """Every character of `texts` with its id, in the order of code points, after the blank, the unknown and the space.

    The blank of CTC is the padding token, id 0.
    """
    # A text that has the sign for the space is read as having a space.
    characters = sorted({character for text in texts for character in text} - {" ", SPACE})
    return {token: i for i, token in enumerate([PAD, UNKNOWN, SPACE, *characters])}


def processor(vocab: dict[str, int], settings: Settings, base: Path | None) -> Wav2Vec2Processor:
    """The tokenizer of `vocab` with the feature extractor of the base, or the one that fits new weights."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "vocab.json"
        file.write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
        # Without begin and end tokens, which CTC has no use for and which would be ids that the model never learns.
        tokenizer = Wav2Vec2CTCTokenizer(
            str(file),
            pad_token=PAD,
            unk_token=UNKNOWN,
            word_delimiter_token=SPACE,
            bos_token=None,
            eos_token=None,
        )
    if base is not None:
        extractor = AutoFeatureExtractor.from_pretrained(base)
    else:
        # A model with group norm was never shown a mask; transformers advises against giving it one.
        has_mask = (settings.init or {}).get("feat_extract_norm", "group") == "layer"
        extractor = Wav2Vec2FeatureExtractor(return_attention_mask=has_mask)
    return Wav2Vec2Processor(feature_extractor=extractor, tokenizer=tokenizer)


def main() -> None:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=Settings.model_validate_json, required=True)
    parser.add_argument("--clips", type=Path, required=True, help="the training clips")
    parser.add_argument("--base", type=Path, nargs="*", help="the folder of the base model, if there is one")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--characters", type=Path, required=True, help="where characters are counted")
    args = parser.parse_args()
    texts = read_table(args.clips, ["text"])["text"].to_pylist()
    base = args.base[0] if args.base else None
    processor(vocabulary(texts), args.settings, base).save_pretrained(args.folder)
    write_json(dict(Counter("".join(texts)).most_common()), args.characters)


if __name__ == "__main__":
    run_command(main)
