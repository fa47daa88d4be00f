"""A dataset that is made from long recordings and their transcripts, from the audio files to the clips."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import torch
from transformers import Wav2Vec2ForCTC
from working_copy import NOTHING_TO_DO, WorkingCopy, tiny_config, working_copy

from material import LAYER_NORM
from speechmill.core.schemas import SAMPLE_RATE
from speechmill.core.tables import read_table
from speechmill.model.models import model_config
from speechmill.text.vocab import VocabSettings, processor, vocabulary

pytestmark = pytest.mark.slow

LETTERS = "abcdefgh"

# Replaces a trained model: each letter is a tone, and its token is the most probable one of each frame of the tone.
TONE_MODEL = """
def infer(model, processor, clips, shards, settings, device, spill):
    from speechmill.inference.log_probs import ClipOutput

    reader = ClipReader(pa.Table.from_pylist(clips, CLIPS), shards)
    ids = processor.tokenizer.get_vocab()
    letters = [ids[letter] for letter in "abcdefgh"]
    outputs = []
    for i in range(len(clips)):
        frames = reader.samples(i)[: clips[i]["num_samples"] // 320 * 320].reshape(-1, 320).astype(float)
        tones = np.abs(np.fft.rfft(frames))[:, 10:50:5].argmax(1)
        log_probs = np.full((len(frames), len(ids)), -15.0, "<f2")
        silent = np.abs(frames).max(1) < 1000
        log_probs[range(len(frames)), np.where(silent, 0, np.array(letters)[tones])] = 0
        stored = (spill.tell(), spill.write(log_probs.tobytes()))
        outputs.append(ClipOutput(len(frames), "", 0.0, [stored]))
    return outputs
"""


def tones(speech: str) -> Any:
    """Return 40 ms of a tone and 20 ms of silence for each letter, and half a second of silence for each space."""
    time = np.arange(640) / SAMPLE_RATE
    parts = [
        np.zeros(8000)
        if c == " "
        else np.r_[0.5 * np.sin(2 * np.pi * 50 * (10 + 5 * LETTERS.index(c)) * time), np.zeros(320)]
        for c in speech
    ]
    return np.concatenate(parts)


def config(min_score: float = -1.5) -> dict[str, Any]:
    config = tiny_config("corpus.tar.gz")
    common = {"name": "Talks", "licence": "CC0-1.0", "language": "en", "splits": ["train", "dev"]}
    config["datasets"] = {
        "talks": common | {"source": "folder", "path": "talks", "manifest": "{split}.csv", "shards": 1},
        "aligned": {
            "source": "segment", "of": "talks", "model": {"base": "./model"}, "device": "cpu",
            "min_seconds": 0.3, "max_seconds": 5, "min_score": min_score,
        },
    }  # fmt: skip
    run = config["runs"]["demo_ru"]
    run |= {"language": "en", "train": ["aligned-train"], "dev": "aligned-dev", "text": {"drop": ".,"}}
    run["evaluation"] = {"sets": ["aligned-dev"]}
    return config


@pytest.fixture(scope="module")
def talks(tmp_path_factory: pytest.TempPathFactory) -> WorkingCopy:
    """A working copy with two talks, a model, and the replacement of its output."""
    copy = working_copy(tmp_path_factory.mktemp("talks"))
    folder = copy.folder / "talks"
    folder.mkdir()
    for split, speech, transcript in (
        ("train", " abcdef  hgfeh  gabcd ", "Abc def.\nDeaf cage\nGabcd"),
        ("dev", " badge  faced ", "Badge,\nfaced."),
    ):
        sf.write(folder / f"{split}.wav", tones(speech), SAMPLE_RATE)
        with (folder / f"{split}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["path", "sentence"], [f"{split}.wav", transcript]])
    tokenizer = processor(vocabulary([LETTERS]), VocabSettings(init=LAYER_NORM), base=None)
    torch.manual_seed(0)
    Wav2Vec2ForCTC(model_config(LAYER_NORM, None, {}, len(tokenizer.tokenizer))).save_pretrained(copy.folder / "model")
    tokenizer.save_pretrained(copy.folder / "model")
    copy.redefine("workflow/speechmill/inference/segment.py", TONE_MODEL)
    return copy


def clips(copy: WorkingCopy, split: str) -> list[dict[str, Any]]:
    return read_table(Path(copy.folder / f"results/data/aligned/{split}/index.parquet")).to_pylist()


def test_clips_of_talks_have_their_part_of_the_transcript(talks: WorkingCopy) -> None:
    run = talks.snakemake(config(), "results/data/aligned/audit.html")
    assert {"segment", "ingest_pieces", "ingest_model", "shards"} <= run.executed
    found = {
        split: [(clip["sentence"], clip["recording"]) for clip in clips(talks, split)] for split in ("train", "dev")
    }
    assert found == {
        "train": [("Abc def.", "train.wav"), ("Gabcd", "train.wav")],
        "dev": [("Badge,", "dev.wav"), ("faced.", "dev.wav")],
    }
    parts = talks.read_json("results/data/aligned/status.json")["about"]["parts"]
    assert sum(part["words"] for part in parts.values()) == 7
    # A change of the threshold aligns nothing again.
    run = talks.snakemake(config(min_score=-0.0), "results/data/aligned/audit.html")
    assert "ingest_pieces" in run.executed
    assert not {"segment", "ingest_model", "ingest_dataset"} & run.executed
    assert NOTHING_TO_DO in talks.snakemake(config(min_score=-0.0), "results/data/aligned/audit.html").output
