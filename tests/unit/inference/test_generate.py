import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Pipeline, pipeline

from material import as_json, recording, store, write_tiny_whisper
from speechmill.config.evaluation import GenerationConfig
from speechmill.core.command import SpeechmillError
from speechmill.core.files import read_json, write_digests, write_json
from speechmill.core.flac import Int16Samples
from speechmill.core.schemas import CLIPS, SAMPLE_RATE
from speechmill.core.tables import ctc_outputs_metadata, read_table, write_table
from speechmill.inference import log_probs
from speechmill.inference.generate import generate

RECORDINGS = [recording(seconds, seed=i) for i, seconds in enumerate([1.0, 0.4, 2.3, 7.0, 35.0])]
TEXTS = ["abc de", "a", "ed cb", "", "aa bb"]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny Whisper."""
    folder = tmp_path_factory.mktemp("whisper")
    write_tiny_whisper(folder)
    write_digests(folder)
    return folder


def expected(asr: Pipeline, samples: Int16Samples, **options: Any) -> str:
    """Return the text of the pipeline for a recording alone."""
    timestamps = {"return_timestamps": True} if len(samples) > 30 * SAMPLE_RATE else {}
    raw = {"raw": samples.astype(np.float32) / 32768, "sampling_rate": SAMPLE_RATE}
    return str(asr(raw, generate_kwargs=options, **timestamps)["text"])


def generated(
    folder: Path, whisper: Path, recordings: Sequence[Int16Samples] = RECORDINGS, language: str = "ru", **settings: Any
) -> list[str]:
    clips, shards = store(folder, recordings, TEXTS[: len(recordings)])
    return generate(whisper, clips, shards, GenerationConfig(**settings), language, 100, CPU, torch.float32)


def test_hypotheses_match_pipeline(tmp_path: Path, whisper: Path) -> None:
    asr = pipeline("automatic-speech-recognition", model=str(whisper), device="cpu")
    hypotheses = generated(tmp_path, whisper)
    assert hypotheses == [expected(asr, samples, language="ru", task="transcribe") for samples in RECORDINGS]
    assert len(set(hypotheses)) > len(hypotheses) / 2  # otherwise a wrong order could pass


def test_language_task_and_beams_reach_the_model(tmp_path: Path, whisper: Path) -> None:
    asr = pipeline("automatic-speech-recognition", model=str(whisper), device="cpu")
    options = {"language": "ko", "task": "translate", "num_beams": 1}
    hypotheses = generated(tmp_path, whisper, RECORDINGS[:3], **options)
    assert hypotheses == [expected(asr, samples, **options) for samples in RECORDINGS[:3]]
    assert hypotheses != generated(tmp_path, whisper, RECORDINGS[:3])


def test_unknown_language_is_refused(tmp_path: Path, whisper: Path) -> None:
    with pytest.raises(SpeechmillError, match=r"generation\.language: the model has no language tr; it has ko, ru"):
        generated(tmp_path, whisper, RECORDINGS[:1], language="tr")


def test_language_is_refused_for_a_model_of_one_language(tmp_path: Path, whisper: Path) -> None:
    folder = shutil.copytree(whisper, tmp_path / "model")
    settings = read_json(folder / "generation_config.json")
    write_json(settings | {"is_multilingual": False}, folder / "generation_config.json")
    with pytest.raises(SpeechmillError, match=r"evaluation\.generation\.task: the model is for one language"):
        generated(tmp_path, folder, RECORDINGS[:1], task="translate")


def test_table_has_hypotheses_without_ctc_outputs(
    tmp_path: Path, whisper: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips, shards = store(tmp_path, RECORDINGS[:3], TEXTS[:3])
    write_table(clips, CLIPS, tmp_path / "clips.parquet")
    write_json({"unavailable": None}, tmp_path / "counts.json")
    outputs = tmp_path / "ctc_outputs.parquet"
    settings = {"device": "cpu", "batch_seconds": 100, "language": "ru", "generation": None}
    arguments = [
        *("--run", "peer", "--settings", as_json(settings), "--gpus", "0", "--threads", "1", "--step", "0"),
        *("--runtime-settings", as_json({"keep_log_probs": False}), "--base", whisper),
        *("--clips", tmp_path / "clips.parquet", "--shards", *shards, "--counts", tmp_path / "counts.json"),
        *("--ctc-outputs", outputs),
    ]
    monkeypatch.setattr(sys, "argv", ["log_probs", *map(str, arguments)])
    log_probs.main()
    rows = read_table(outputs).to_pylist()
    assert [row["id"] for row in rows] == [clip["id"] for clip in clips]
    assert all(re.search("[a-e]", row["hypothesis"]) for row in rows)
    assert all(row[key] is None for row in rows for key in ("frames", "loss", "log_probs"))
    metadata = ctc_outputs_metadata(outputs)
    assert (metadata["step"], metadata["outside_vocabulary"], metadata["special_tokens"]) == (0, {}, [])
