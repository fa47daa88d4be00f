"""A base that keeps its vocabulary: its tokenizer, its head, and what it cannot write."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    ParakeetFeatureExtractor,
    ParakeetProcessor,
    ParakeetTokenizer,
    Wav2Vec2CTCTokenizer,
    pipeline,
)

from material import ARCHITECTURES, as_json, recording, store
from speechmill.core.command import SpeechmillError
from speechmill.core.files import read_json
from speechmill.core.schemas import CLIPS, SAMPLE_RATE
from speechmill.core.tables import write_table
from speechmill.inference.log_probs import transcribe
from speechmill.model.labels import LabelEncoder
from speechmill.model.models import (
    forward,
    head_name,
    load_checkpoint,
    load_processor,
    model_config,
    model_inputs,
    new_model,
)
from speechmill.text import vocab
from speechmill.text.vocab import VocabSettings, save_processor, with_extractor

# Upper case, the blank not at 0, and tokens that speechmill's vocabularies do not have.
LETTERS = {"<s>": 0, "|": 1, "A": 2, "B": 3, "C": 4, "D": 5, "<unk>": 6, "<pad>": 7, "</s>": 8, "'": 9, "SCH": 10}
SUBWORDS = ["<unk>", "▁", "a", "b", "c", "d", "▁ab", "▁c", "ad", "<pad>"]


def letters_tokenizer(folder: Path) -> Any:
    (folder / "letters.json").write_text(json.dumps(LETTERS))
    return Wav2Vec2CTCTokenizer(str(folder / "letters.json"), do_lower_case=True)


def subword_tokenizer(pieces: list[str] = SUBWORDS) -> Any:
    """Return a tokenizer as Parakeet's, whose blank is the last token."""
    scores = [(piece, -1.0 / len(piece)) for piece in pieces]
    tokenizer = Tokenizer(models.Unigram(scores, unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return ParakeetTokenizer(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>")


def make_base(name: str, tokenizer: Any, folder: Path) -> Path:
    init, size = ARCHITECTURES[name], len(tokenizer.get_vocab())
    torch.manual_seed(2)
    model = new_model(model_config(init, None, {}, size, tokenizer.pad_token_id), None, {})
    made = with_extractor(tokenizer, VocabSettings(init=init), None)
    head: Any = getattr(model.eval(), head_name(model))
    torch.nn.init.normal_(head.weight)
    # Otherwise some architectures would write the same for every clip.
    with torch.no_grad():
        head.bias -= forward(model, model_inputs(made, [recording(1.0) / np.float32(32768)])).mean((0, 1))
    model.save_pretrained(folder)
    made.save_pretrained(folder)
    return folder


def keep(base: Path, folder: Path, texts: list[str], monkeypatch: pytest.MonkeyPatch, **settings: Any) -> None:
    write_table([{"id": str(i), "text": text} for i, text in enumerate(texts)], CLIPS, folder / "train.parquet")
    arguments = ["--settings", as_json({"init": None, "vocab": "keep", **settings}), "--base", base,
                 "--clips", folder / "train.parquet", "--folder", folder / "vocab",
                 "--characters", folder / "characters.json"]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["vocab", *map(str, arguments)])
    vocab.main()


@pytest.mark.parametrize(
    ("name", "tokens"),
    [
        *((name, "letters") for name in ARCHITECTURES),
        *((name, "subwords") for name in ("wav2vec2", "mms", "w2v-bert", "parakeet")),
    ],
)
def test_hypotheses_before_training_are_those_of_the_base(
    name: str, tokens: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = letters_tokenizer(tmp_path) if tokens == "letters" else subword_tokenizer()
    base = make_base(name, tokenizer, tmp_path / "base")
    keep(base, tmp_path, ["ab cd"], monkeypatch)
    kept = load_processor(tmp_path / "vocab")
    model = new_model(model_config(None, base, {}, None, kept.tokenizer.pad_token_id), base, None)
    model.save_pretrained(tmp_path / "exported")
    save_processor(kept, tmp_path / "exported")
    recordings = [recording(seconds, seed=i) for i, seconds in enumerate((1.0, 0.6, 0.42))]
    clips, shards = store(tmp_path / "shards", recordings, ["ab", "cd", "a"])
    device = torch.device("cpu")
    expected = transcribe(*load_checkpoint(base), clips, shards, 60, device)
    assert transcribe(model.eval(), kept, clips, shards, 60, device) == expected
    assert len(set(expected[0])) > 1
    assert np.isfinite(expected[1]).all()
    exported = pipeline("automatic-speech-recognition", model=str(tmp_path / "exported"), device="cpu")
    raw = [{"raw": each.astype(np.float32) / 32768, "sampling_rate": SAMPLE_RATE} for each in recordings]
    assert [exported(each)["text"] for each in raw] == expected[0]


def test_tokenizer_and_vocabulary_are_those_of_the_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, tokenizer in (("letters", letters_tokenizer(tmp_path)), ("subwords", subword_tokenizer())):
        folder = tmp_path / name
        keep(make_base("wav2vec2", tokenizer, folder / "base"), folder, ["ab"], monkeypatch)
        kept = load_processor(folder / "vocab").tokenizer
        assert type(kept) is type(tokenizer)
        assert kept.get_vocab() == tokenizer.get_vocab() == read_json(folder / "vocab" / "vocab.json")
        assert kept.special_tokens_map == tokenizer.special_tokens_map


def test_labels_are_those_of_the_tokenizer() -> None:
    processor = ParakeetProcessor(ParakeetFeatureExtractor(), subword_tokenizer(), decoder_type="ctc")
    assert [SUBWORDS[i] for i in LabelEncoder(processor)("abad c")] == ["▁ab", "ad", "▁c"]


def test_unwritten_characters_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    base = make_base("wav2vec2", letters_tokenizer(tmp_path), tmp_path / "base")
    keep(base, tmp_path, ["ab cd" * 9, "a ж", "жab?"], monkeypatch)
    assert read_json(tmp_path / "characters.json")["unwritten"] == {
        "ж": {"times": 2, "example": "a ж"}, "?": {"times": 1, "example": "жab?"},
    }  # fmt: skip
    assert "cannot write 3 of 42 characters" in capsys.readouterr().err


def test_text_that_does_not_fit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = make_base("wav2vec2", letters_tokenizer(tmp_path), tmp_path / "base")
    with pytest.raises(SpeechmillError, match=r"cannot write 5 of 7 characters .* \"д\" \(2\) as in 'да д'"):
        keep(base, tmp_path, ["да д", "ещab"], monkeypatch)


def test_base_without_tokenizer_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = make_base("wav2vec2", letters_tokenizer(tmp_path), tmp_path / "base")
    (base / "vocab.json").unlink()
    with pytest.raises(SpeechmillError, match="vocab: keep: the base has no tokenizer"):
        keep(base, tmp_path, ["ab"], monkeypatch)


def test_base_without_head_is_refused(tmp_path: Path) -> None:
    base = make_base("wav2vec2", letters_tokenizer(tmp_path), tmp_path / "base")
    model, _ = load_checkpoint(base)
    model.base_model.save_pretrained(base)
    with pytest.raises(SpeechmillError, match="only pre-trained, it has no head"):
        new_model(model_config(None, base, {}, None, 7), base, None)


def test_language_model_for_kept_subwords_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = make_base("wav2vec2", subword_tokenizer(), tmp_path / "base")
    with pytest.raises(SpeechmillError, match=r"remove `lm` from evaluation\.decoders"):
        keep(base, tmp_path, ["ab"], monkeypatch, lm=True)
