"""vocab: the vocabulary of the training text, as a processor that transformers can load."""

import argparse
import inspect
import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from transformers import (
    CONFIG_MAPPING,
    FEATURE_EXTRACTOR_MAPPING,
    MODEL_FOR_CTC_MAPPING,
    PROCESSOR_MAPPING,
    AutoFeatureExtractor,
    ParakeetProcessor,
    ProcessorMixin,
    SeamlessM4TFeatureExtractor,
    SequenceFeatureExtractor,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2Processor,
)

from speechmill.config.vocab import Vocab
from speechmill.core.command import SpeechmillError, run_command
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


def processor(vocab: dict[str, int], settings: VocabSettings, base: Path | None) -> ProcessorMixin:
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


def with_extractor(tokenizer: Any, settings: VocabSettings, base: Path | None) -> ProcessorMixin:
    """Return a processor with `tokenizer` and the feature extractor of the base or for random weights."""
    extractor = (
        AutoFeatureExtractor.from_pretrained(base, trust_remote_code=False)
        if base is not None
        else _extractor(settings.init or {})
    )
    kind = _processor_class(type(extractor))
    # Otherwise it would look for the blank of a transducer in the vocabulary.
    options = {"decoder_type": "ctc"} if kind is ParakeetProcessor else {}
    return kind(feature_extractor=extractor, tokenizer=tokenizer, **options)


def extractor_class(model_type: str) -> type[SequenceFeatureExtractor]:
    """Return the class of the feature extractors of an architecture.

    Raises:
        SpeechmillError: transformers has no CTC model of this architecture.
    """
    known = {each.model_type: each for each in MODEL_FOR_CTC_MAPPING}
    if model_type not in known:
        raise SpeechmillError(
            f"model: transformers has no CTC model of the architecture {model_type}; choose one of"
            f" {', '.join(sorted(known))}"
        )
    # transformers lists the extractor of wav2vec2 for w2v-BERT as well, whose published models have another.
    listed: Any = FEATURE_EXTRACTOR_MAPPING[known[model_type]]
    return SeamlessM4TFeatureExtractor if model_type == "wav2vec2-bert" else listed


def _processor_class(extractor: type[SequenceFeatureExtractor]) -> type[ProcessorMixin]:
    """Return the class of processors that transformers loads for the architectures with this feature extractor."""
    configs = (each for each in MODEL_FOR_CTC_MAPPING if extractor_class(each.model_type) is extractor)
    classes: Any = (PROCESSOR_MAPPING[each] for each in configs if each in PROCESSOR_MAPPING)
    return next(classes, Wav2Vec2Processor)


def _extractor(init: dict[str, Any]) -> Any:
    """Return the feature extractor for a model with random weights."""
    kind: Any = extractor_class(init["model_type"])
    if kind.model_input_names[0] == "input_values":
        # transformers advises against an attention mask for models with group norm, which were pre-trained without.
        default = getattr(CONFIG_MAPPING[init["model_type"]](), "feat_extract_norm", "layer")
        return kind(return_attention_mask=init.get("feat_extract_norm", default) == "layer")
    bins = init.get("encoder_config", {}).get("num_mel_bins")
    if "feature_projection_input_dim" in init:
        # w2v-BERT concatenates two spectra to the features of a frame.
        bins = init["feature_projection_input_dim"] // 2
    names = {"feature_size", "num_mel_bins"} & inspect.signature(kind).parameters.keys() if bins else ()
    return kind(**dict.fromkeys(names, bins))


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
