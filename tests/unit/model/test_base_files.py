from typing import Any

import pytest

from speechmill.core.command import SpeechmillError
from speechmill.model.base_files import (
    adapter_file,
    base_languages,
    choose_language,
    processor_files,
    refuse_code,
    weight_files,
)

ADAPTED = {"adapter_attn_dim": 16}
NESTED = {"eng": {"a": 0}, "tur": {"a": 0}, "deu": {"a": 0}}


def shards(*names: str) -> dict[str, dict[str, dict[str, str]]]:
    """The index of sharded weights, as a file of either format."""
    index = {"weight_map": {f"layer.{i}": name for i, name in enumerate([*names, *names])}}
    return {"model.safetensors.index.json": index, "pytorch_model.bin.index.json": index}


@pytest.mark.parametrize(
    ("names", "listed", "expected"),
    [
        (["model.safetensors", "pytorch_model.bin", "model.fp16.safetensors"], [], ["model.safetensors"]),
        (["pytorch_model.bin", "adapter.tur.safetensors", "optimizer.bin"], [], ["pytorch_model.bin"]),
        (
            ["model.safetensors.index.json", "1.safetensors", "2.safetensors", "3.safetensors", "pytorch_model.bin"],
            ["2.safetensors", "1.safetensors"],
            ["model.safetensors.index.json", "1.safetensors", "2.safetensors"],
        ),
        # What transformers would load: the whole weights.
        (
            ["model.safetensors", "model.safetensors.index.json", "1.safetensors"],
            ["1.safetensors"],
            ["model.safetensors"],
        ),
        (["pytorch_model.bin.index.json", "1.bin"], ["1.bin"], ["pytorch_model.bin.index.json", "1.bin"]),
    ],
    ids=["both formats", "bin", "sharded", "whole beside sharded", "sharded bin"],
)
def test_one_set_of_weights_is_used(names: list[str], listed: list[str], expected: list[str]) -> None:
    assert weight_files(names, lambda name: shards(*listed)[name], "a/b") == expected


@pytest.mark.parametrize(
    "names",
    [["flax_model.msgpack"], ["tf_model.h5"], ["checkpoint-5/model.safetensors"], ["adapter_model.safetensors"]],
)
def test_base_without_weights_is_refused(names: list[str]) -> None:
    with pytest.raises(SpeechmillError, match=r"model\.base: a/b has no weights that transformers loads with PyTorch"):
        weight_files(names, dict, "a/b")


@pytest.mark.parametrize(
    ("file", "config", "key"),
    [
        ("config.json", {"model_type": "other", "auto_map": {"AutoConfig": "code.Config"}}, "auto_map"),
        # Also where transformers has the architecture: the model that a run makes of it would name the code.
        ("config.json", {"model_type": "wav2vec2", "auto_map": {"AutoModel": "a/b--code.Model"}}, "auto_map"),
        ("config.json", {"model_type": "wav2vec2", "custom_pipelines": {"asr": {"impl": "c.P"}}}, "custom_pipelines"),
        ("config.json", {"model_type": "parakeet_ctc", "encoder_config": {"auto_map": {"A": "c.C"}}}, "auto_map"),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["code.Tokenizer", None]}}, "auto_map"),
        ("preprocessor_config.json", {"auto_map": {"AutoFeatureExtractor": "code.Extractor"}}, "auto_map"),
        ("processor_config.json", {"auto_map": {"AutoProcessor": "code.Processor"}}, "auto_map"),
    ],
)
def test_base_with_its_own_code_is_refused(file: str, config: dict[str, Any], key: str) -> None:
    files = {"config.json": {"model_type": "wav2vec2"}, "model.safetensors": {}, file: config}
    with pytest.raises(SpeechmillError, match=rf"model\.base: a/b is defined by Python .* \({key} in {file}\)"):
        refuse_code(files, files.__getitem__, "a/b")


def test_base_without_code_is_accepted() -> None:
    files = {"config.json": {"model_type": "wav2vec2", "auto_map": {}}, "tokenizer_config.json": {"unk_token": "x"}}
    refuse_code(files, files.__getitem__, "a/b")


def test_missing_shard_is_named() -> None:
    with pytest.raises(SpeechmillError, match=r"a/b is incomplete: it lacks 2\.bin, which pytorch_model\.bin"):
        weight_files(["pytorch_model.bin.index.json", "1.bin"], lambda name: shards("1.bin", "2.bin")[name], "a/b")


def test_processor_has_no_files_of_folders() -> None:
    names = [
        "vocab.json",
        "alphabet.json",
        "processor_config.json",
        "language_model/unigrams.txt",
        "README.md",
        "lm.txt",
    ]
    assert processor_files(names, tokenizer=True) == ["processor_config.json", "vocab.json", "alphabet.json"]
    assert processor_files(names, tokenizer=False) == ["processor_config.json"]


def test_adapter_in_safetensors_is_preferred() -> None:
    names = ["adapter.tur.bin", "adapter.tur.safetensors", "adapter.deu.bin"]
    assert [adapter_file(names, each) for each in ("tur", "deu", "eng")] == [names[1], names[2], None]


@pytest.mark.parametrize(
    ("adapters", "config", "tokenizer", "vocab", "expected"),
    [
        (["tur", "deu", "eng"], ADAPTED, {"target_lang": "eng"}, NESTED, ["deu", "eng", "tur"]),
        # The weights are those of one language, which needs no file.
        (["tur"], ADAPTED, {"target_lang": "eng"}, NESTED, ["eng", "tur"]),
        (["tur", "deu", "xyz"], ADAPTED, {}, NESTED, ["deu", "tur"]),
        (["azj-script_latin", "tur"], ADAPTED, {}, {"a": 0}, ["azj-script_latin", "tur"]),
        ([], ADAPTED, {}, {"tur": {"a": 0}}, ["tur"]),
        (["tur"], {}, {}, {"a": 0}, []),
        ([], {}, {}, {"a": 0}, []),
        ([], {}, {}, {}, []),
    ],
    ids=["MMS", "default", "no vocabulary", "one vocabulary", "one language", "other adapters", "plain", "no head"],
)
def test_languages_have_adapter_and_vocabulary(
    adapters: list[str], config: dict[str, Any], tokenizer: dict[str, Any], vocab: dict[str, Any], expected: list[str]
) -> None:
    names = [f"adapter.{language}.{kind}" for language in adapters for kind in ("bin", "safetensors")]
    found = base_languages([*names, "adapter_config.json", "old/adapter.rus.bin"], config, tokenizer, vocab)
    assert found == expected


def use(language: str, trains: bool = False) -> dict[str, Any]:
    return {"mine": {"language": language, "trains": trains}}


def test_language_that_is_asked_for_is_chosen() -> None:
    assert choose_language("a/b", ["deu", "tur"], "tur", use("de")) == "tur"


def test_plain_base_has_no_language() -> None:
    assert choose_language("a/b", [], None, use("tr")) is None
    with pytest.raises(SpeechmillError, match=r"model\.target_lang: a/b does not hold several languages .*; remove"):
        choose_language("a/b", [], "tur", use("tr"))


def test_single_language_needs_no_key() -> None:
    assert choose_language("a/b", ["tur"], None, use("de")) == "tur"


@pytest.mark.parametrize(
    ("target_lang", "nearest"),
    [
        ("tr", "the nearest of its 13 languages is tur"),
        ("tru", "the nearest of its 13 languages is tur"),
        ("zh", "cmn-script_simplified"),
    ],
)
def test_language_that_is_missing_has_the_nearest(target_lang: str, nearest: str) -> None:
    languages = sorted([*(f"x{letter}x" for letter in "abcdefghijk"), "tur", "cmn-script_simplified"])
    with pytest.raises(SpeechmillError, match=rf"model\.target_lang: a/b has no language {target_lang}; .*{nearest}"):
        choose_language("a/b", languages, target_lang, {})


@pytest.mark.parametrize("trains", [False, True])
def test_language_of_the_run_has_to_be_named(trains: bool) -> None:
    with pytest.raises(SpeechmillError, match=r"runs\.mine\.model\.target_lang: a/b holds 2 languages.* tr: .* is tur"):
        choose_language("a/b", ["eng", "tur"], None, use("tr", trains))


def test_new_language_is_trained_with_a_new_head() -> None:
    assert choose_language("a/b", ["eng", "tur"], None, use("ka", trains=True)) is None


def test_new_language_cannot_be_scored() -> None:
    with pytest.raises(SpeechmillError, match="one to score for the run's language ka: it has eng, tur"):
        choose_language("a/b", ["eng", "tur"], None, use("ka"))
