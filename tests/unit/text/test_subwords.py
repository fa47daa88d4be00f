"""Vocabularies of subwords: what sentencepiece finds, and what every part that reads labels makes of it."""

from pathlib import Path

import pytest
from transformers import AutoProcessor

from speechmill.config.vocab import SentencePieceConfig
from speechmill.core.command import SpeechmillError
from speechmill.model.labels import LabelEncoder, separator_id
from speechmill.model.models import load_processor
from speechmill.text.lexicon import tokenizer_tokens
from speechmill.text.subwords import subword_vocabulary
from speechmill.text.vocab import VocabSettings, processor

TEXTS = ["привет мир как дела", "мир труд май", "как привет как труд"] * 9
LAYER = VocabSettings(init={"model_type": "wav2vec2", "feat_extract_norm": "layer"})


def subwords(size: int = 30, model_type: str = "bpe", texts: list[str] = TEXTS) -> dict[str, int]:
    return subword_vocabulary(texts, SentencePieceConfig.model_validate({"size": size, "model_type": model_type}))


@pytest.mark.parametrize(("model_type", "size"), [("bpe", 30), ("unigram", 17)])
def test_special_tokens_then_subwords_without_spaces(model_type: str, size: int) -> None:
    found = subwords(size, model_type)
    assert list(found)[:3] == ["[PAD]", "[UNK]", "|"]
    assert list(found.values()) == list(range(size))
    assert set("".join(TEXTS)) - {" "} <= found.keys()
    assert not any(character in token for token in found for character in " \u2581")
    assert found == subwords(size, model_type)


def test_frequent_words_are_one_subword() -> None:
    assert {"привет", "как", "мир", "труд"} <= subwords().keys()


@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
def test_too_large_size_names_the_largest(model_type: str) -> None:
    with pytest.raises(SpeechmillError, match=r"too few subwords for it; the largest possible size is (\d+)") as error:
        subwords(4000, model_type)
    largest = int(str(error.value).rsplit(" ", 1)[1])
    assert len(subwords(largest, model_type)) == largest


def test_too_small_size_names_the_smallest() -> None:
    with pytest.raises(SpeechmillError, match="more characters; the smallest possible size is 16"):
        subwords(8)
    assert len(subwords(16)) == 16


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    processor(subwords(), LAYER, None).save_pretrained(tmp_path)
    return tmp_path


def test_labels_lexicon_and_transformers_agree(folder: Path) -> None:
    loaded, tokens = load_processor(folder), tokenizer_tokens(folder / "vocab.json", folder / "tokenizer_config.json")
    ids = LabelEncoder(loaded)("привет миру")
    assert [tokens.by_id[i] for i in ids] == ["привет", "|", "мир", "у"]
    assert tokens.entry("миру") == "миру\tмир у |\n"
    assert separator_id(loaded) == tokens.by_id.index("|")
    # As the pipeline decodes, with every token in two frames and a blank before the next.
    frames = [frame for i in ids for frame in (i, i, 0)]
    assert AutoProcessor.from_pretrained(folder).tokenizer.decode(frames) == "привет миру"


def test_text_outside_the_vocabulary_is_unknown(folder: Path) -> None:
    assert LabelEncoder(load_processor(folder))("кz")[1:] == [1]
