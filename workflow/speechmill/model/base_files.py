"""Which files of a base model's repository or folder are used, and which languages it holds.

MMS stores one model for more than a thousand languages: the weights of one of them, for each language the file
`adapter.{language}.safetensors` (or `.bin`) with its adapters and head, and a nested `vocab.json` with the vocabulary
of each. Source: https://huggingface.co/docs/transformers/model_doc/mms.
"""

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

from speechmill.core.command import SpeechmillError
from speechmill.core.languages import languages_of, nearest_languages

CONFIG, VOCAB, TOKENIZER_CONFIG = "config.json", "vocab.json", "tokenizer_config.json"

_GENERATION = "generation_config.json"
_FEATURES = ("preprocessor_config.json", "processor_config.json")
_TOKENIZER = (
    *(VOCAB, TOKENIZER_CONFIG, "tokenizer.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt"),
    *("merges.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model"),
    # Names the processor of a model that comes with a language model for pyctcdecode.
    "alphabet.json",
)
# In the order in which transformers looks for them; an index lists the files of sharded weights.
_WEIGHTS = (
    *("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"),
)
_CODE_KEYS = ("auto_map", "custom_pipelines")
_ADAPTER = "adapter.{}.{}"


def weight_files(names: Collection[str], read_json: Callable[[str], Any], base: str) -> list[str]:
    """Return the files with the weights that transformers loads: one set, in safetensors where there are such.

    Args:
        names: The files of the base.
        read_json: Returns the content of one of them.
        base: The name of the base, for error messages.

    Raises:
        SpeechmillError: There are no weights, or an index lists a file that is missing.
    """
    first = next((name for name in _WEIGHTS if name in names), None)
    if first is None:
        raise SpeechmillError(
            f"model.base: {base} has no weights that transformers loads with PyTorch, {_WEIGHTS[0]} or {_WEIGHTS[2]},"
            " whole or sharded; choose another base, or convert it"
        )
    if not first.endswith(".index.json"):
        return [first]
    shards = sorted(set(read_json(first)["weight_map"].values()))
    missing = [name for name in shards if name not in names]
    if missing:
        raise SpeechmillError(f"model.base: {base} is incomplete: it lacks {', '.join(missing)}, which {first} lists")
    return [first, *shards]


def processor_files(names: Collection[str], tokenizer: bool) -> list[str]:
    """Return the files of the feature extractor, and of the tokenizer if it is used."""
    return [name for name in (*_FEATURES, *(_TOKENIZER if tokenizer else ())) if name in names]


def generates_text(config: Mapping[str, Any]) -> bool:
    """Return whether a model generates text token by token, as Whisper and transducers do, instead of by CTC.

    Args:
        config: The content of `config.json`.
    """
    # Imports torch, which the other functions do without.
    from transformers.models.auto import modeling_auto

    mappings = (
        modeling_auto.MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES,
        modeling_auto.MODEL_FOR_TDT_MAPPING_NAMES,
        modeling_auto.MODEL_FOR_RNNT_MAPPING_NAMES,
    )
    return any(config.get("model_type") in mapping for mapping in mappings)


def generation_files(names: Collection[str]) -> list[str]:
    """Return the files that only a model that generates text needs: the settings of its generation."""
    return [_GENERATION] if _GENERATION in names else []


def adapter_file(names: Collection[str], language: str) -> str | None:
    """Return the file with the adapters and the head of a language, in safetensors where there is such."""
    return next((name for kind in ("safetensors", "bin") if (name := _ADAPTER.format(language, kind)) in names), None)


def refuse_code(names: Collection[str], read_json: Callable[[str], Any], base: str) -> None:
    """Refuse a base whose model, feature extractor, tokenizer or pipeline is defined by Python code of its own.

    Args:
        names: The files of the base.
        read_json: Returns the content of one of them.
        base: The name of the base, for error messages.

    Raises:
        SpeechmillError: A configuration names such code. The code is neither fetched nor run.
    """
    for name in (CONFIG, TOKENIZER_CONFIG, *_FEATURES):
        keys = _code_keys(read_json(name)) if name in names else []
        if keys:
            raise SpeechmillError(
                f"model.base: {base} is defined by Python code of its own ({keys[0]} in {name}), which is never run;"
                " choose a base of an architecture that transformers itself implements"
            )


def _code_keys(value: Any) -> list[str]:
    """Return the keys of a configuration, and of those nested in it, under which transformers finds code to import."""
    if not isinstance(value, dict):
        return []
    nested = [key for each in value.values() for key in _code_keys(each)]
    return [key for key in _CODE_KEYS if value.get(key)] + nested


def is_nested(vocab: Mapping[str, Any]) -> bool:
    """Return whether the content of `vocab.json` has a vocabulary for each language."""
    return bool(vocab) and all(isinstance(each, dict) for each in vocab.values())


def base_languages(
    names: Collection[str], config: Mapping[str, Any], tokenizer_config: Mapping[str, Any], vocab: Mapping[str, Any]
) -> list[str]:
    """Return the languages of a base, sorted; none for a base that makes no such distinction.

    A language has an adapter, or is the one that the weights themselves belong to; and it has a vocabulary, where those
    differ by language.

    Args:
        names: The files of the base.
        config: The content of `config.json`.
        tokenizer_config: The content of `tokenizer_config.json`.
        vocab: The content of `vocab.json`.
    """
    pattern = re.compile(re.escape(_ADAPTER).replace(r"\{\}", "(.+)", 1).replace(r"\{\}", "(?:safetensors|bin)"))
    adapters = {match[1] for name in names if (match := pattern.fullmatch(name))}
    if not config.get("adapter_attn_dim"):
        # The adapters of another method.
        adapters = set()
    if not is_nested(vocab):
        return sorted(adapters)
    if len(vocab) == 1:
        return list(vocab)
    return sorted(name for name in vocab if name in adapters or name == tokenizer_config.get("target_lang"))


def choose_language(
    base: str, languages: list[str], target_lang: str | None, runs: Mapping[str, Mapping[str, Any]]
) -> str | None:
    """Return the language whose adapter, head and vocabulary are used; None for all of a base without languages.

    None for a base with several languages means that no language's are used: runs start with a new head.

    Args:
        base: The name of the base, for error messages.
        languages: The languages of the base.
        target_lang: The language that the configuration asks for.
        runs: For each run that starts from the base, its `language`, and whether it `trains`.

    Raises:
        SpeechmillError: The base lacks the language, or the language of a run has to be chosen.
    """
    if target_lang is not None:
        if not languages:
            raise SpeechmillError(
                f"model.target_lang: {base} does not hold several languages (adapter.{target_lang}.safetensors or a"
                " nested vocab.json); remove this key"
            )
        if target_lang not in languages:
            nearest = nearest_languages(target_lang, languages)
            raise SpeechmillError(
                f"model.target_lang: {base} has no language {target_lang}; {_listed(nearest, languages)}"
            )
        return target_lang
    if len(languages) <= 1:
        return languages[0] if languages else None
    for run, use in runs.items():
        own = languages_of(use["language"], languages)
        if own or not use["trains"]:
            what = "start from" if use["trains"] else "score"
            nearest = own or nearest_languages(use["language"], languages)
            raise SpeechmillError(
                f"runs.{run}.model.target_lang: {base} holds {len(languages):,} languages, each with its own head and"
                f" vocabulary; name the one to {what} for the run's language {use['language']}:"
                f" {_listed(nearest, languages)}"
            )
    return None


def _listed(nearest: list[str], languages: list[str]) -> str:
    if len(nearest) == len(languages):
        return f"it has {', '.join(nearest)}"
    verb = "is" if len(nearest) == 1 else "are"
    return f"the nearest of its {len(languages):,} languages {verb} {', '.join(nearest)}"
