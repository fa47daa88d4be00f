"""vocab: the vocabulary of the training text, as a processor that transformers can load."""

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
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

from speechmill.config.vocab import Vocab
from speechmill.core.command import run_command
from speechmill.core.files import check_folder, write_digests, write_plain_json
from speechmill.core.tables import read_table
from speechmill.text.kept_vocab import check_unwritten, kept_tokenizer, unwritten_characters
from speechmill.text.lexicon import tokenizer_tokens
from speechmill.text.subwords import subword_vocabulary
from speechmill.text.tokens import PAD, SPACE, UNKNOWN, unit_pattern

_ROWS = 8192


class VocabSettings(BaseModel):
    """The settings of this stage."""

    init: dict[str, Any] | None
    """The configuration of a model with random weights, or None with a base model."""
    clusters: list[str] = []
    """The sequences of characters that are one unit each."""
    vocab: Vocab = "characters"
    """What the vocabulary consists of."""
    lm: bool = False
    """Whether a language model is made for the vocabulary; given unless it consists of characters."""


def vocabulary(texts: list[str], clusters: Sequence[str] = ()) -> dict[str, int]:
    """Return the ids of the special tokens, from 0, followed by those of all units of `texts` in code point order.

    A unit is one of `clusters`, the longest at its position, or a character. The padding token, id 0, is the blank of
    CTC.
    """
    pattern = unit_pattern(clusters)
    # The tokenizer reads the token for the space as a space.
    units = sorted({unit for text in texts for unit in pattern.findall(text)} - {" ", SPACE})
    return {token: i for i, token in enumerate([PAD, UNKNOWN, SPACE, *units])}


def processor(
    vocab: dict[str, int], settings: VocabSettings, base: Path | None
) -> Wav2Vec2Processor | Wav2Vec2BertProcessor | ParakeetProcessor:
    """Return a processor with a tokenizer for `vocab` and the feature extractor of the base or for random weights.

    Its class is the one that transformers loads for the architecture.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "vocab.json"
        file.write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
        # CTC has no use for begin and end tokens, and the model would not learn their ids.
        tokenizer = Wav2Vec2CTCTokenizer(
            str(file),
            pad_token=PAD,
            unk_token=UNKNOWN,
            word_delimiter_token=SPACE,
            bos_token=None,
            eos_token=None,
        )
    return with_extractor(tokenizer, settings, base)


def with_extractor(
    tokenizer: Any, settings: VocabSettings, base: Path | None
) -> Wav2Vec2Processor | Wav2Vec2BertProcessor | ParakeetProcessor:
    """Return a processor with `tokenizer` and the feature extractor of the base or for random weights."""
    extractor = (
        AutoFeatureExtractor.from_pretrained(base, trust_remote_code=False)
        if base is not None
        else _extractor(settings.init or {})
    )
    if isinstance(extractor, SeamlessM4TFeatureExtractor):
        return Wav2Vec2BertProcessor(feature_extractor=extractor, tokenizer=tokenizer)
    if isinstance(extractor, ParakeetFeatureExtractor):
        return ParakeetProcessor(feature_extractor=extractor, tokenizer=tokenizer, decoder_type="ctc")
    return Wav2Vec2Processor(feature_extractor=extractor, tokenizer=tokenizer)


def _extractor(init: dict[str, Any]) -> SequenceFeatureExtractor:
    """Return the feature extractor for a model with random weights."""
    if init.get("model_type") == "wav2vec2-bert":
        # Two spectra are concatenated to the features of a frame.
        bins = init.get("feature_projection_input_dim", 160) // 2
        return SeamlessM4TFeatureExtractor(feature_size=bins, num_mel_bins=bins)
    if init.get("model_type") == "parakeet_ctc":
        return ParakeetFeatureExtractor(feature_size=init.get("encoder_config", {}).get("num_mel_bins", 80))
    # transformers advises against an attention mask for models with group norm, which were pre-trained without.
    return Wav2Vec2FeatureExtractor(return_attention_mask=init.get("feat_extract_norm", "group") == "layer")


def save_processor(processor: Any, folder: Path) -> None:
    """Save a processor for transformers, always with a `vocab.json`, which some tokenizers do not have.

    Those save a `tokenizer.json`, which transformers loads instead.
    """
    processor.save_pretrained(folder)
    if not (folder / "vocab.json").is_file():
        vocab = processor.tokenizer.get_vocab()
        write_plain_json(dict(sorted(vocab.items(), key=lambda item: item[1])), folder / "vocab.json")


def _read_texts(clips: Path) -> Iterator[list[str]]:
    # In batches, because all texts of a large corpus would take gigabytes as Python strings.
    for rows in read_table(clips, ["text"]).to_batches(_ROWS):
        yield rows["text"].to_pylist()


def main() -> None:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=VocabSettings.model_validate_json, required=True)
    parser.add_argument("--clips", type=Path, required=True, help="table of the training clips")
    parser.add_argument("--base", type=Path, nargs="*", help="folder of the base model, if there is one")
    parser.add_argument("--folder", type=Path, required=True, help="output: the processor")
    parser.add_argument("--characters", type=Path, required=True, help="output: the characters with their counts")
    args = parser.parse_args()
    pattern, characters = unit_pattern(args.settings.clusters), Counter[str]()
    for texts in _read_texts(args.clips):
        if args.settings.clusters:
            characters.update(unit for text in texts for unit in pattern.findall(text))
        else:
            text = "".join(texts)
            # 15 times as fast as `update(text)`.
            characters.update({character: text.count(character) for character in sorted(set(text))})
    base = args.base[0] if args.base else None
    if base is not None:
        check_folder(base, "*.json")
    settings, every_text = args.settings, chain.from_iterable(_read_texts(args.clips))
    counts: dict[str, Any] = dict(characters.most_common())
    if settings.vocab == "keep":
        assert base is not None
        tokenizer = kept_tokenizer(base)
        unwritten = unwritten_characters(tokenizer, characters, every_text)
        check_unwritten(unwritten, characters)
        counts = {"characters": counts, "unwritten": {key: each._asdict() for key, each in unwritten.items()}}
        made = with_extractor(tokenizer, settings, base)
    elif settings.vocab == "characters":
        made = processor(vocabulary(list(characters), settings.clusters), settings, base)
    else:
        made = processor(subword_vocabulary(every_text, settings.vocab.sentencepiece), settings, base)
    save_processor(made, args.folder)
    if settings.lm:
        # A language model that cannot be used is an error before training.
        tokenizer_tokens(args.folder / "vocab.json", args.folder / "tokenizer_config.json")
    write_plain_json(counts, args.characters)
    write_digests(args.folder)


if __name__ == "__main__":
    run_command(main)
