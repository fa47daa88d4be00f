"""Architectures from a base folder to a card that `verify` accepts, with a new head or with that of the base.

SPEECHMILL_ARCHITECTURES=all tests every architecture with both, 36 runs, and SPEECHMILL_ARCHITECTURES=sew,lasr those.
"""

import csv
import json
import os
import re
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Wav2Vec2CTCTokenizer
from working_copy import WorkingCopy, working_copy

from material import ARCHITECTURES, audio_file, recording
from speechmill.model.models import head_name, model_config, new_model
from speechmill.text.vocab import VocabSettings, with_extractor

pytestmark = pytest.mark.slow

CHOSEN = os.environ.get("SPEECHMILL_ARCHITECTURES")
# By default, one for each kind of input: samples, stacked mel spectra, and mel spectra that convolutions shorten.
RUNS = (
    [*product(ARCHITECTURES if CHOSEN == "all" else CHOSEN.split(","), ("characters", "keep"))]
    if CHOSEN
    else [("sew-d", "keep"), ("w2v-bert-adapter", "characters"), ("lasr", "keep")]
)
# The blank is not at 0, as in vocabularies that speechmill makes.
LETTERS = {"<s>": 0, "|": 1, "a": 2, "b": 3, "c": 4, "d": 5, "e": 6, "<unk>": 7, "<pad>": 8, "</s>": 9}
# One sample more and less than a number of frames, which have 160 to 1280 samples, and clips without a rest.
LENGTHS = {
    "train": [16_000, 8319, 8320, 8321, 10_239, 10_241, 6401, 7999],
    "dev": [12_000, 8079, 8081],
    "test": [20_000, 5119, 5120, 5121, 8399, 8400, 8401, 10_240],
}
TEXTS = ["ab", "cd e", "b", "ea"]


def write_base(name: str, folder: Path) -> None:
    """Write a model with random weights, whose hypotheses depend on the audio."""
    folder.mkdir(parents=True)
    (folder / "letters.json").write_text(json.dumps(LETTERS))
    tokenizer = Wav2Vec2CTCTokenizer(str(folder / "letters.json"))
    init = ARCHITECTURES[name]
    torch.manual_seed(2)
    model = new_model(model_config(init, None, {}, len(LETTERS), LETTERS["<pad>"]), None, {})
    torch.nn.init.normal_(getattr(model, head_name(model)).weight)
    model.save_pretrained(folder)
    with_extractor(tokenizer, VocabSettings(init=init), None).save_pretrained(folder)


def write_corpus(folder: Path) -> None:
    """Write noise of the lengths above as WAV files, with a manifest."""
    folder.mkdir()
    rows = [("path", "sentence", "speaker_id", "split")]
    for split, lengths in LENGTHS.items():
        for i, length in enumerate(lengths):
            name = f"{split}_{i}.wav"
            (folder / name).write_bytes(audio_file(recording(length / 16_000, seed=length)))
            rows.append((name, TEXTS[i % len(TEXTS)], f"{split}-{i % 2}", split))
    with (folder / "clips.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def run_name(name: str, vocab: str) -> str:
    return f"{name.replace('-', '_')}_{vocab}"


def run_config(name: str, vocab: str) -> dict[str, Any]:
    return {
        "language": "en",
        "device": "cpu",
        "train": ["noise-train"],
        "dev": "noise-dev",
        "text": {"case": "lower", "keep": "a-e"},
        "vocab": vocab,
        "model": {"base": f"./bases/{name}"},
        "plan": {"epochs": 1, "batch": {"clips": 4}, "save_steps": 2, "seed": 1},
        "finetune": {"learning_rate": 1e-3, "warmup_steps": 0, "precision": "fp32", "logging_steps": 1, "threads": 1},
        "evaluation": {"sets": ["noise-dev", "noise-test"], "decoders": ["greedy"]},
        "card": {"title": name, "licence": "apache-2.0", "description": "A test.", "uses": "None."},
    }


@pytest.fixture(scope="module")
def finished_runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[WorkingCopy, str]:
    """A working copy with a finished run of each of RUNS, and the output of `verify`, which has accepted all."""
    made = working_copy(tmp_path_factory.mktemp("architectures"))
    write_corpus(made.folder / "corpus")
    for name in dict.fromkeys(name for name, _ in RUNS):
        write_base(name, made.folder / "bases" / name)
    config = {
        "datasets": {
            "noise": {
                "source": "folder", "path": "corpus", "language": "en", "manifest": "clips.csv", "name": "Noise",
                "version": "1", "licence": "CC0-1.0", "redistribute": True, "splits": list(LENGTHS), "shards": 1,
            }
        },
        "runs": {run_name(*each): run_config(*each) for each in RUNS},
    }  # fmt: skip
    made.snakemake(config, "--keep-going")
    return made, made.snakemake(config, "verify").output


@pytest.mark.parametrize(("name", "vocab"), RUNS)
def test_card_is_verified(finished_runs: tuple[WorkingCopy, str], name: str, vocab: str) -> None:
    copy, output = finished_runs
    model = f"results/runs/{run_name(name, vocab)}/model"
    verified = output.split(f"\n{model}\n")[1].split("\nresults/runs/")[0]
    for set_name, lengths in list(LENGTHS.items())[1:]:
        assert re.search(rf"recomputed  noise-{set_name} by greedy: .*, {len(lengths)} clips: equal within ", verified)
    assert copy.read_json(f"{model}/config.json")["model_type"] == ARCHITECTURES[name]["model_type"]
    assert (copy.read_json(f"{model}/vocab.json") == LETTERS) == (vocab == "keep")
