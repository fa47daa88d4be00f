"""Runs whose vocabulary consists of subwords: found in the training text, or kept from a base."""

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCTC,
    ParakeetTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Processor,
)
from working_copy import WorkingCopy, tiny_config, working_copy

pytestmark = pytest.mark.slow

SIZE = 40
LETTERS = "абвгдеёжзийклмнопрстуфхцчшщъыьэюя"
PIECES = ["<unk>", "\u2581", *LETTERS, "\u2581один", "\u2581два", "ть", "<pad>"]


def write_base(folder: Path, init: dict[str, Any]) -> None:
    """Write a model with random weights and a tokenizer as Parakeet's, whose blank is the last token."""
    tokenizer = Tokenizer(models.Unigram([(piece, -1.0 / len(piece)) for piece in PIECES], unk_id=0))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    fast = ParakeetTokenizer(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>")
    Wav2Vec2Processor(Wav2Vec2FeatureExtractor(return_attention_mask=False), fast).save_pretrained(folder)
    torch.manual_seed(0)
    settings = {key: value for key, value in init.items() if key != "model_type"}
    config = AutoConfig.for_model("wav2vec2", **settings, vocab_size=len(PIECES), pad_token_id=fast.pad_token_id)
    AutoModelForCTC.from_config(config).save_pretrained(folder)


@pytest.fixture(scope="module")
def finished_runs(tmp_path_factory: pytest.TempPathFactory, spoken_archive: Path) -> WorkingCopy:
    """A working copy with a run of each kind, whose cards were verified."""
    made = working_copy(tmp_path_factory.mktemp("vocabularies"))
    shutil.copy2(spoken_archive, made.folder / "corpus.tar.gz")
    config = tiny_config("corpus.tar.gz")
    run = config["runs"].pop("demo_ru")
    del run["evaluation"]["robustness"]
    kept = copy.deepcopy(run)
    config["runs"]["subwords"] = run | {"vocab": {"sentencepiece": {"size": SIZE, "model_type": "bpe"}}}
    write_base(made.folder / "base", kept["model"]["init"])
    kept |= {"vocab": "keep", "model": {"base": "./base"}}
    kept["evaluation"] |= {"decoders": ["greedy"]}
    del kept["evaluation"]["lm"]
    config["runs"]["kept"] = kept
    made.snakemake(config)
    made.snakemake(config, "verify")
    return made


def test_subwords_have_the_configured_size(finished_runs: WorkingCopy) -> None:
    model = "results/runs/subwords/model"
    vocab = finished_runs.read_json(f"{model}/vocab.json")
    assert len(vocab) == finished_runs.read_json(f"{model}/config.json")["vocab_size"] == SIZE
    assert any(len(token) > 2 for token in vocab if token.isalpha())
    step = finished_runs.read_json("results/runs/subwords/selection.json")["step"]
    scores = finished_runs.read_json(f"results/runs/subwords/evaluation/{step}/demo_ru-dev/lm/metrics.json")
    assert scores["clips_scored"] == 6


def test_kept_tokenizer_is_in_the_model_folder(finished_runs: WorkingCopy) -> None:
    model = finished_runs.folder / "results/runs/kept/model"
    stored = json.loads((finished_runs.folder / "base/tokenizer.json").read_text())
    assert json.loads((model / "tokenizer.json").read_text()) == stored
    assert "tokenizer.json" in finished_runs.read_json("results/runs/kept/model/manifest.json")["files"]
    assert finished_runs.read_json("results/runs/kept/model/config.json")["pad_token_id"] == len(PIECES) - 1
