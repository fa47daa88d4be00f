"""Bases with several languages, laid out as facebook/mms-1b-all, in comparison with transformers itself."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCTC, AutoProcessor, AutoTokenizer, Wav2Vec2Config, Wav2Vec2FeatureExtractor
from transformers import Wav2Vec2ForCTC as Model

from material import LAYER_NORM
from speechmill.config.model import ModelConfig
from speechmill.core.command import SpeechmillError
from speechmill.core.files import read_json
from speechmill.inference.log_probs import weights_digest
from speechmill.model.ingest_model import fetch_model
from speechmill.model.models import adapters, load_checkpoint, model_config, new_model
from speechmill.text.vocab import VocabSettings, processor, vocabulary

SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "|"]
LETTERS = {"eng": "abcdefgh", "tur": "abcçdefgğhıi"}
SAMPLES = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 16000)).astype(np.float32))


@pytest.fixture(params=["safetensors", "bin"])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A tiny base with two languages, whose own weights are the English ones."""
    folder = tmp_path / "base"
    torch.manual_seed(0)
    settings = {key: value for key, value in LAYER_NORM.items() if key != "model_type"}
    model = Model(Wav2Vec2Config(vocab_size=13, pad_token_id=0, adapter_attn_dim=4, **settings))
    model.save_pretrained(folder)
    Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(folder)
    vocab = {lang: {token: i for i, token in enumerate([*SPECIAL, *each])} for lang, each in LETTERS.items()}
    (folder / "vocab.json").write_text(json.dumps(vocab))
    special = dict(zip(("pad_token", "bos_token", "eos_token", "unk_token"), SPECIAL[:4], strict=True))
    about = {"tokenizer_class": "Wav2Vec2CTCTokenizer", "word_delimiter_token": "|", "target_lang": "eng", **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    weights = load_file(folder / "model.safetensors")
    for language, tokens in vocab.items():
        own = {key: torch.randn_like(value) for key, value in weights.items() if "adapter_layer" in key}
        own |= {"lm_head.weight": torch.randn(len(tokens), 16), "lm_head.bias": torch.zeros(len(tokens))}
        file = folder / f"adapter.{language}.{request.param}"
        save_file(own, file, metadata={"format": "pt"}) if request.param == "safetensors" else torch.save(own, file)
    return folder


def stored(base: Path, target_lang: str | None, language: str = "tr", trains: bool = True) -> Path:
    """The folder that a run starts from."""
    folder = base.parent / "stored"
    settings = ModelConfig(base=str(base), target_lang=target_lang)
    fetch_model(settings, folder, {"mine": {"language": language, "trains": trains}})
    return folder


def new(base: Path, letters: str) -> tuple[Model, dict[str, int]]:
    """A model for fine-tuning with `letters`, and its vocabulary."""
    vocab = vocabulary([letters])
    torch.manual_seed(1)
    return new_model(model_config(None, base, {}, len(vocab)), base, vocab), vocab


def adapter_of(base: Path, language: str) -> dict[str, torch.Tensor]:
    file = next(base.glob(f"adapter.{language}.*"))
    return load_file(file) if file.suffix == ".safetensors" else torch.load(file, weights_only=True)


def has_adapters_of(model: Model, base: Path, language: str) -> bool:
    weights = model.state_dict()
    return all(torch.equal(weights[k], v) for k, v in adapter_of(base, language).items() if "adapter_layer" in k)


@pytest.mark.parametrize("language", ["tur", "eng"])
def test_language_is_scored_as_transformers_does(base: Path, language: str) -> None:
    model, loaded = load_checkpoint(stored(base, language, trains=False))
    theirs = Model.from_pretrained(base, target_lang=language, ignore_mismatched_sizes=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(base, target_lang=language)
    with torch.inference_mode():
        logits, expected = model(SAMPLES).logits, theirs(SAMPLES).logits
    torch.testing.assert_close(logits, expected)
    assert model.config.vocab_size == 5 + len(LETTERS[language]) == logits.shape[-1]
    ids = list(range(5, model.config.vocab_size))
    assert loaded.tokenizer.decode(ids) == tokenizer.decode(ids) == LETTERS[language]


def test_only_the_chosen_adapter_is_stored(base: Path) -> None:
    folder = stored(base, "tur")
    assert [file.name for file in folder.glob("adapter.*")] == [next(base.glob("adapter.tur.*")).name]
    assert list(read_json(folder / "vocab.json")) == [*SPECIAL, *LETTERS["tur"]]
    assert "target_lang" not in read_json(folder / "tokenizer_config.json")


def test_fine_tuning_starts_from_the_language(base: Path) -> None:
    model, vocab = new(stored(base, "tur"), "çığ a")
    assert has_adapters_of(model, base, "tur")
    row = (SPECIAL + list(LETTERS["tur"])).index("ğ")
    torch.testing.assert_close(model.lm_head.weight[vocab["ğ"]], adapter_of(base, "tur")["lm_head.weight"][row])


def test_kept_vocabulary_is_that_of_the_language(base: Path, tmp_path: Path) -> None:
    folder = stored(base, "tur")
    expected, _ = load_checkpoint(folder)
    model = new_model(model_config(None, folder, {}, None), folder, None)
    model.save_pretrained(tmp_path / "checkpoint")
    exported = AutoModelForCTC.from_pretrained(tmp_path / "checkpoint").eval()
    with torch.inference_mode():
        torch.testing.assert_close(model.eval()(SAMPLES).logits, expected(SAMPLES).logits)
        torch.testing.assert_close(exported(SAMPLES).logits, expected(SAMPLES).logits)
    assert exported.config.vocab_size == 5 + len(LETTERS["tur"])


def test_new_letter_keeps_the_language_s_adapters(base: Path) -> None:
    model, vocab = new(stored(base, "tur"), "çığ â")
    assert has_adapters_of(model, base, "tur")
    assert model.lm_head.weight.shape == (len(vocab), 16)


def test_new_language_has_nothing_of_another(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, _ = new(stored(base, None, language="ka"), "abc")  # letters that the English vocabulary has
    own = Model.from_pretrained(base).state_dict()
    fresh = {key: value for key, value in model.state_dict().items() if "adapter_layer" in key and "linear" in key}
    assert fresh
    assert not any(torch.equal(value, own[key]) for key, value in fresh.items() if "weight" in key)
    assert "3 characters, new head and adapters: the base's has 0 of them" in capsys.readouterr().err


def test_checkpoint_is_a_plain_model_of_one_language(base: Path, tmp_path: Path) -> None:
    folder = stored(base, "tur")
    model, vocab = new(folder, "çığ a")
    model.save_pretrained(tmp_path / "checkpoint")
    processor(vocab, VocabSettings(init=None), folder).save_pretrained(tmp_path / "checkpoint")
    loaded = AutoModelForCTC.from_pretrained(tmp_path / "checkpoint").eval()
    with torch.inference_mode():
        torch.testing.assert_close(loaded(SAMPLES).logits, model.eval()(SAMPLES).logits)
    assert AutoProcessor.from_pretrained(tmp_path / "checkpoint").tokenizer.get_vocab() == vocab
    assert len(adapters(loaded)) == LAYER_NORM["num_hidden_layers"]
    assert not list((tmp_path / "checkpoint").glob("adapter.*"))


def test_truncated_adapter_is_named(base: Path) -> None:
    folder = stored(base, "tur")
    file = next(folder.glob("adapter.*"))
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(SpeechmillError, match=rf"{file.name} cannot be read .*; delete"):
        load_checkpoint(folder)


def test_digest_of_weights_includes_the_adapter(base: Path) -> None:
    folder = stored(base, "tur")
    before = weights_digest(folder)
    next(folder.glob("adapter.*")).write_bytes(b"another")
    assert weights_digest(folder) != before
