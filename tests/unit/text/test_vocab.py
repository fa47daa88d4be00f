import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import (
    AutoProcessor,
    ParakeetProcessor,
    Wav2Vec2BertProcessor,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Processor,
)

from material import as_json
from speechmill.core.files import read_json
from speechmill.core.schemas import CLIPS
from speechmill.core.tables import write_table
from speechmill.text import vocab
from speechmill.text.vocab import VocabSettings, processor, vocabulary

LAYER = VocabSettings(init={"model_type": "wav2vec2", "feat_extract_norm": "layer"})


def test_special_tokens_then_sorted_characters() -> None:
    assert vocabulary(["да нет", "ёж"]) == {
        "[PAD]": 0, "[UNK]": 1, "|": 2, "а": 3, "д": 4, "е": 5, "ж": 6, "н": 7, "т": 8, "ё": 9,
    }  # fmt: skip


def test_order_of_texts_does_not_matter() -> None:
    assert vocabulary(["да", "нет"]) == vocabulary(["нет", "да", "да"])


@pytest.mark.parametrize("text", ["a b", "a|b", "[PAD]", "한국", "<s></s>"])
def test_ids_have_no_gaps(text: str) -> None:
    found = vocabulary([text])
    assert sorted(found.values()) == list(range(len(found)))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    processor(vocabulary(["да нет ёж"]), LAYER, base=None).save_pretrained(tmp_path)
    return tmp_path


def test_transformers_loads_the_processor(saved: Path) -> None:
    loaded = AutoProcessor.from_pretrained(saved)
    assert isinstance(loaded, Wav2Vec2Processor)
    assert loaded.tokenizer.get_vocab() == vocabulary(["да нет ёж"])
    assert loaded.tokenizer.pad_token_id == 0


def test_tokenizer_has_no_further_tokens(saved: Path) -> None:
    tokenizer = Wav2Vec2Processor.from_pretrained(saved).tokenizer
    assert len(tokenizer) == len(read_json(saved / "vocab.json")) == len(tokenizer.get_vocab())
    assert "<s>" not in tokenizer.get_vocab()


def test_encoding_and_decoding(saved: Path) -> None:
    tokenizer = Wav2Vec2Processor.from_pretrained(saved).tokenizer
    ids = tokenizer("да нет").input_ids
    assert ids == [4, 3, 2, 7, 5, 8]
    # CTC output, with repetitions and blanks.
    assert tokenizer.decode([0, 4, 4, 0, 3, 3, 2, 2, 7, 0, 5, 8, 8, 0]) == "да нет"
    assert tokenizer("даq").input_ids == [4, 3, 1]


def test_doubled_letters_are_kept(saved: Path) -> None:
    tokenizer = Wav2Vec2Processor.from_pretrained(saved).tokenizer
    assert tokenizer("нн").input_ids == [7, 7]
    assert tokenizer.decode([7, 0, 7]) == "нн"


@pytest.mark.parametrize(("norm", "mask"), [("layer", True), ("group", False)])
def test_only_layer_norm_models_get_a_mask(norm: str, mask: bool) -> None:
    built = processor(
        vocabulary(["a"]), VocabSettings(init={"model_type": "wav2vec2", "feat_extract_norm": norm}), base=None
    )
    batch = built.feature_extractor([np.zeros(500), np.zeros(400)], sampling_rate=16_000, padding=True)
    assert ("attention_mask" in batch) is mask


@pytest.mark.parametrize(
    ("init", "kind", "features"),
    [
        ({"model_type": "hubert"}, Wav2Vec2Processor, 1),
        ({"model_type": "wav2vec2-bert"}, Wav2Vec2BertProcessor, 80),
        ({"model_type": "wav2vec2-bert", "feature_projection_input_dim": 64}, Wav2Vec2BertProcessor, 32),
        ({"model_type": "parakeet_ctc"}, ParakeetProcessor, 80),
        ({"model_type": "parakeet_ctc", "encoder_config": {"num_mel_bins": 128}}, ParakeetProcessor, 128),
    ],
)
def test_random_weights_get_matching_features(tmp_path: Path, init: dict[str, Any], kind: type, features: int) -> None:
    processor(vocabulary(["ab"]), VocabSettings(init=init), base=None).save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert type(loaded) is kind
    assert loaded.feature_extractor.feature_size == features
    assert loaded.tokenizer.get_vocab() == vocabulary(["ab"])
    # Repeated letters are one letter, unless a blank separates them.
    assert loaded.decode([0, 3, 3, 0, 3, 4, 4]) == "aab"
    again = processor(vocabulary(["xyz"]), VocabSettings(init=None), base=tmp_path)
    assert type(again) is kind
    assert again.feature_extractor.to_dict() == loaded.feature_extractor.to_dict()


def test_feature_extractor_of_a_base_is_used(tmp_path: Path) -> None:
    Wav2Vec2FeatureExtractor(do_normalize=False, return_attention_mask=False).save_pretrained(tmp_path)
    extractor = processor(vocabulary(["a"]), VocabSettings(init=None), base=tmp_path).feature_extractor
    assert (extractor.do_normalize, extractor.return_attention_mask) == (False, False)


def test_stage_reads_texts_and_counts_characters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The sentence of the corpus has capitals and a full stop, which the text rules removed.
    clips = [{"id": str(i), "text": text, "sentence": f"{text.upper()}."} for i, text in enumerate(["ab", "b a"])]
    write_table(clips, CLIPS, tmp_path / "train.parquet")
    arguments = ["--settings", as_json({"init": LAYER.init}), "--clips", tmp_path / "train.parquet",
                 "--folder", tmp_path / "vocab", "--characters", tmp_path / "characters.json", "--base"]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["vocab", *map(str, arguments)])
    vocab.main()
    assert json.loads((tmp_path / "vocab" / "vocab.json").read_text()) == vocabulary(["ab"])
    assert read_json(tmp_path / "characters.json") == {"a": 2, "b": 2, " ": 1}


def test_clusters_are_counted_as_units(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # c at the end of a clip and h at the start of the next are no cluster.
    clips = [{"id": str(i), "text": text, "sentence": text} for i, text in enumerate(["cha c", "h ngach"])]
    write_table(clips, CLIPS, tmp_path / "train.parquet")
    settings = {"init": LAYER.init, "clusters": ["ch", "ng", "gb"]}
    arguments = ["--settings", as_json(settings), "--clips", tmp_path / "train.parquet",
                 "--folder", tmp_path / "vocab", "--characters", tmp_path / "characters.json", "--base"]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["vocab", *map(str, arguments)])
    vocab.main()
    expected = ["[PAD]", "[UNK]", "|", "a", "c", "ch", "h", "ng"]
    assert json.loads((tmp_path / "vocab" / "vocab.json").read_text()) == {unit: i for i, unit in enumerate(expected)}
    assert read_json(tmp_path / "characters.json") == {"ch": 2, "a": 2, " ": 2, "c": 1, "h": 1, "ng": 1}
