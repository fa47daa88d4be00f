import json
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoProcessor, Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, Wav2Vec2Processor, pipeline

from material import LAYER_NORM, noise
from speechmill.model.clip_reader import Collator
from speechmill.model.labels import LabelEncoder, written_special_tokens
from speechmill.model.models import model_config, new_model
from speechmill.model.word_times import token_ids
from speechmill.text.vocab import VocabSettings, processor, vocabulary

LAYER = VocabSettings(init={"model_type": "wav2vec2", "feat_extract_norm": "layer"})
# "acc [UNK] ccc" and "aad[PAD]cab" spell special tokens in characters.
SIGNS = ["acc [UNK] ccc", "aad[PAD]cab dbc", "<s>"]


def published(folder: Path, vocab: dict[str, int], **settings: Any) -> Wav2Vec2Processor:
    """Return a processor with the tokenizer of a published model, whose special tokens are the defaults."""
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
    tokenizer = Wav2Vec2CTCTokenizer(str(folder / "vocab.json"), **settings)
    return Wav2Vec2Processor(feature_extractor=Wav2Vec2FeatureExtractor(), tokenizer=tokenizer)


def test_special_tokens_in_a_sentence_are_characters() -> None:
    vocab = vocabulary(SIGNS)
    letters = processor(vocab, LAYER, base=None)
    for text, ids in zip(SIGNS, Collator(letters).labels(SIGNS), strict=True):
        assert ids == [vocab["|" if character == " " else character] for character in text]
        assert 0 not in ids
        # The pipeline writes the same text.
        assert letters.tokenizer.decode([i for each in ids for i in (each, 0)]) == text


@pytest.mark.parametrize("text", ["[PAD]", "a[PAD]", "[UNK]", "</s>", "a|b", "|"])
def test_labels_outside_the_vocabulary_are_unknown(text: str) -> None:
    vocab = vocabulary(["ab"])
    letters = processor(vocab, LAYER, base=None)
    known = {"a": vocab["a"], "b": vocab["b"]}
    assert LabelEncoder(letters)(text) == [known.get(character, 1) for character in text]
    assert token_ids([text], letters, "characters", len(vocab)) == [[known[c] for c in text if c in known]]


def test_characters_without_unknown_token_have_no_label(tmp_path: Path) -> None:
    model = published(tmp_path, {"<pad>": 0, "|": 1, "a": 2}, unk_token="<pad>")
    assert LabelEncoder(model)("a qa<pad>") == [2, 1, 2, 2]


def test_lower_case_tokenizer(tmp_path: Path) -> None:
    vocab = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "|": 4, "A": 5, "B": 6}
    model = published(tmp_path, vocab, do_lower_case=True)
    assert LabelEncoder(model)("ab a") == [5, 6, 4, 5]
    assert written_special_tokens(model) == ["</s>", "<s>", "<unk>"]
    assert LabelEncoder(model).outside_vocabulary(["ab a", "a qzq"]) == {"q": 2, "z": 1}


def test_characters_outside_a_vocabulary_are_counted() -> None:
    letters = processor(vocabulary(["ab chc"], ["ch"]), LAYER, base=None)
    # Parts of a sequence that is one unit are outside, and special tokens are characters.
    assert LabelEncoder(letters).outside_vocabulary(["ch h|", "a[UNK] ah"]) == {
        "h": 2, "|": 1, "[": 1, "U": 1, "N": 1, "K": 1, "]": 1,
    }  # fmt: skip


def test_special_tokens_that_a_hypothesis_can_have(tmp_path: Path) -> None:
    assert written_special_tokens(processor(vocabulary(["ab"]), LAYER, base=None)) == ["[UNK]"]
    # In this vocabulary, the name can be spelled in characters, which are what such a text consists of.
    assert written_special_tokens(processor(vocabulary(SIGNS), LAYER, base=None)) == []
    vocab = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "|": 4, "a": 5, "s": 6}
    model = published(tmp_path, vocab)
    names = written_special_tokens(model)
    assert names == ["</s>", "<s>", "<unk>"]
    for name in names:
        assert model.tokenizer.decode([5, vocab[name], 4, 5]) == f"a{name} a"


@pytest.fixture
def clusters(tmp_path: Path) -> Wav2Vec2Processor:
    """A processor with the units ch, ng, ngb and ɛ with a tilde, as transformers loads it."""
    vocab = vocabulary(["chang ngban hɛ\u0303n"], ["ch", "ng", "ngb", "ɛ\u0303"])
    assert list(vocab) == ["[PAD]", "[UNK]", "|", "a", "ch", "h", "n", "ng", "ngb", "ɛ\u0303"]
    processor(vocab, LAYER, base=None).save_pretrained(tmp_path)
    return AutoProcessor.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("text", "units"),
    [
        ("chang ngban", ["ch", "a", "ng", "|", "ngb", "a", "n"]),
        ("a ch a", ["a", "|", "ch", "|", "a"]),  # transformers' own encoding has no space around ch
        ("hɛ\u0303n ngbɛ\u0303", ["h", "ɛ\u0303", "n", "|", "ngb", "ɛ\u0303"]),
        ("chch", ["ch", "ch"]),
    ],
)
def test_clusters_are_one_label_each(clusters: Wav2Vec2Processor, text: str, units: list[str]) -> None:
    vocab = clusters.tokenizer.get_vocab()
    ids = LabelEncoder(clusters)(text)
    assert ids == [vocab[unit] for unit in units]
    assert clusters.tokenizer.decode([i for each in ids for i in (each, each, 0)]) == text
    words = token_ids(text.split(), clusters, "characters", len(vocab))
    assert [i for word in words for i in word] == [i for i in ids if i != vocab["|"]]


def test_part_of_a_cluster_can_be_unknown(clusters: Wav2Vec2Processor) -> None:
    assert LabelEncoder(clusters)("c") == [1]
    assert written_special_tokens(clusters) == ["[UNK]"]


def test_pipeline_writes_clusters(tmp_path: Path) -> None:
    vocab = vocabulary(["chang ngb"], ["ch", "ng", "ngb"])
    letters = processor(vocab, VocabSettings(init=LAYER_NORM), base=None)
    torch.manual_seed(1)
    model = new_model(model_config(LAYER_NORM, None, {}, len(vocab)), None, vocab)
    torch.nn.init.normal_(model.lm_head.weight)
    for each in (model, letters):
        each.save_pretrained(tmp_path)
    samples = noise(2.0)
    logits = model.eval()(**letters(samples, sampling_rate=16_000, return_tensors="pt").to(torch.float32)).logits[0]
    tokens = [list(vocab)[i] for i, _ in groupby(logits.argmax(-1).tolist())]
    written = "".join(token for token in tokens if token != "[PAD]").replace("|", " ").strip()
    assert any(cluster in tokens for cluster in ("ch", "ng", "ngb"))
    transcriber = pipeline("automatic-speech-recognition", model=str(tmp_path), device="cpu")
    assert transcriber(samples.astype(np.float32))["text"] == written
