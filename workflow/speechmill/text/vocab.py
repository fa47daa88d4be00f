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
    ParakeetFeatureExtractor,
    ParakeetProcessor,
    SeamlessM4TFeatureExtractor,
    SequenceFeatureExtractor,
    Wav2Vec2BertProcessor,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Processor,
)

from speechmill.core.command import run_command
from speechmill.core.tables import read_table, write_json
from speechmill.model.ctc import PAD, SPACE, UNKNOWN

_ROWS = 8192


class VocabSettings(BaseModel):
    """The slice of a run's section that this stage reads: the configuration of new weights, None with a base."""

    init: dict[str, Any] | None


def vocabulary(texts: list[str]) -> dict[str, int]:
    """Every character of `texts` with its id, in the order of code points, after the blank, the unknown and the space.

    The blank of CTC is the padding token, id 0.
    """
    # A text that has the sign for the space is read as having a space.
    characters = sorted({character for text in texts for character in text} - {" ", SPACE})
    return {token: i for i, token in enumerate([PAD, UNKNOWN, SPACE, *characters])}


def processor(
    vocab: dict[str, int], settings: VocabSettings, base: Path | None
) -> Wav2Vec2Processor | Wav2Vec2BertProcessor | ParakeetProcessor:
    """The tokenizer of `vocab` with the feature extractor of the base, or the one that fits new weights.

    Of the class that plain transformers loads for the architecture.
    """
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
    extractor = AutoFeatureExtractor.from_pretrained(base) if base is not None else _extractor(settings.init or {})
    if isinstance(extractor, SeamlessM4TFeatureExtractor):
        return Wav2Vec2BertProcessor(feature_extractor=extractor, tokenizer=tokenizer)
    if isinstance(extractor, ParakeetFeatureExtractor):
        return ParakeetProcessor(feature_extractor=extractor, tokenizer=tokenizer, decoder_type="ctc")
    return Wav2Vec2Processor(feature_extractor=extractor, tokenizer=tokenizer)


def _extractor(init: dict[str, Any]) -> SequenceFeatureExtractor:
    """The feature extractor that fits a model with random weights."""
    if init.get("model_type") == "wav2vec2-bert":
        # Two spectra make the features of a frame.
        bins = init.get("feature_projection_input_dim", 160) // 2
        return SeamlessM4TFeatureExtractor(feature_size=bins, num_mel_bins=bins)
    if init.get("model_type") == "parakeet_ctc":
        return ParakeetFeatureExtractor(feature_size=init.get("encoder_config", {}).get("num_mel_bins", 80))
    # A model with group norm was never shown a mask; transformers advises against giving it one.
    return Wav2Vec2FeatureExtractor(return_attention_mask=init.get("feat_extract_norm", "group") == "layer")


def main() -> None:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=VocabSettings.model_validate_json, required=True)
    parser.add_argument("--clips", type=Path, required=True, help="the training clips")
    parser.add_argument("--base", type=Path, nargs="*", help="the folder of the base model, if there is one")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--characters", type=Path, required=True, help="where characters are counted")
    args = parser.parse_args()
    characters: Counter[str] = Counter()
    # Not all at once: as Python's strings the texts of a large corpus take gigabytes.
    for rows in read_table(args.clips, ["text"]).to_batches(_ROWS):
        text = "".join(rows["text"].to_pylist())
        # A fifteenth of the time that `update` takes.
        characters.update({character: text.count(character) for character in sorted(set(text))})
    base = args.base[0] if args.base else None
    processor(vocabulary(list(characters)), args.settings, base).save_pretrained(args.folder)
    write_json(dict(characters.most_common()), args.characters)


if __name__ == "__main__":
    run_command(main)
