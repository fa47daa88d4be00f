import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from material import audio_file, language_model, recording, store
from speechmill.config.evaluation import EvaluationConfig
from speechmill.config.lm import BeamConfig
from speechmill.core.command import SpeechmillError
from speechmill.core.files import write_json
from speechmill.core.flac import Int16Samples
from speechmill.core.schemas import SAMPLE_RATE
from speechmill.inference import log_probs
from speechmill.model.models import load_checkpoint
from speechmill.scoring.reliability import Calibration, Calibrator
from speechmill.transcribe import Transcriber, Transcript, transcribe, transcriber

Spoken = Callable[[Sequence[str | float]], Int16Samples]
Write = Callable[[str, Int16Samples], Path]

SENTENCES = ["abc de", "e", "dad abba", "cab", "be add ace", "bad bed"] * 3


def long_recording(spoken: Spoken) -> Int16Samples:
    """More than half a minute, with pauses between the sentences."""
    return spoken([part for sentence in SENTENCES for part in (1.0, sentence)])


def in_order(transcript: Transcript) -> bool:
    times = [time for word in transcript.words for time in (word.start, word.end)]
    return times == sorted(times) and times[0] >= 0 and times[-1] <= transcript.seconds


def test_words_have_their_times_and_confidence(model: Path, spoken: Spoken, write: Write) -> None:
    # Without the separator after the last word, which would be a sound.
    samples = np.concatenate([spoken([1.0, "abc de"])[: -5 * 320], spoken([2.0])])
    found = transcribe(write("a.wav", samples), model)
    assert found.text == "abc de"
    assert [word.text for word in found.words] == ["abc", "de"]
    # A letter has three frames of 20 ms, and two blank ones after it.
    assert found.words[0].start == pytest.approx(1.0)
    assert found.words[1].start == pytest.approx(1.0 + 4 * 0.1)
    assert found.words[1].end == pytest.approx(1.0 + 5 * 0.1 + 0.06)
    assert all(0.5 < word.confidence < 0.6 for word in found.words)
    assert in_order(found)
    assert found.seconds == pytest.approx(3.0 + 6 * 0.1)


@pytest.mark.parametrize(("wrong", "calibrated"), [(1, True), (0, False)])
def test_confidence_is_calibrated_if_the_model_has_a_calibrator(
    model: Path, spoken: Spoken, write: Write, wrong: int, calibrated: bool
) -> None:
    file = write("a.wav", spoken([1.0, "abc de"]))
    before = transcribe(file, model)
    calibrator = Calibrator(slope=2.0, intercept=1.0, words=9, wrong=wrong)
    found = Calibration(dev="a-dev", calibrators={"greedy": calibrator}, sets=[])
    write_json(found.model_dump(), model / "confidence.json")
    after = transcribe(file, model)
    assert (before.calibrated, after.calibrated) == (False, calibrated)
    raw = np.array([word.confidence for word in before.words])
    assert [word.confidence for word in after.words] == pytest.approx(calibrator(raw))
    assert (before.words != after.words) == calibrated


def test_long_recording_is_its_sentences(model: Path, spoken: Spoken, write: Write) -> None:
    found = transcribe(write("long.wav", long_recording(spoken)), model)
    assert found.seconds > 30
    assert found.text == " ".join(SENTENCES)
    assert in_order(found)


def test_part_of_a_recording_has_the_same_words(model: Path, spoken: Spoken, write: Write) -> None:
    samples = long_recording(spoken)
    start, stop = 3 * SAMPLE_RATE, len(samples) - 2 * SAMPLE_RATE
    load = Transcriber(model)
    whole = load.transcribe(write("whole.wav", samples))
    part = load.transcribe(write("part.wav", samples[start:stop]))
    offset, end = start / SAMPLE_RATE, stop / SAMPLE_RATE
    inner = [word for word in whole.words if offset + 2 < word.start < end - 2]
    first = next(i for i, word in enumerate(part.words) if word.start > 2)
    assert len(inner) > 15
    for word, again in zip(inner, part.words[first:], strict=False):
        assert again.text == word.text
        # The frames of the model begin elsewhere.
        assert (again.start + offset, again.end + offset) == pytest.approx((word.start, word.end), abs=0.05)


@pytest.mark.parametrize("decoded_at_once", [300.0, 8.0])
def test_recording_is_processed_in_chunks_if_a_set_was(
    model: Path, spoken: Spoken, write: Write, monkeypatch: pytest.MonkeyPatch, decoded_at_once: float
) -> None:
    monkeypatch.setattr(transcriber, "_MAX_DECODED_SECONDS", decoded_at_once)
    scored = transcriber._Scored(chunk_seconds=10.0, stride_seconds=2.0)
    monkeypatch.setattr(transcriber, "_read_scored", lambda folder: scored)
    monkeypatch.setattr(transcriber, "cut_recording", None)
    found = transcribe(write("long.wav", long_recording(spoken)), model)
    assert found.text.split() == " ".join(SENTENCES).split()
    assert in_order(found)


def test_chunks_are_those_of_the_first_set_that_has_them() -> None:
    chunked = {"set": "talks-test", "chunk_seconds": 24.0}
    sets = {"sets": ["clips-dev", chunked, {"set": "talks-dev", "chunk_seconds": 9.0, "stride_seconds": 2.0}]}
    assert transcriber._chunks(EvaluationConfig.model_validate(sets)) == (24.0, 4.0)
    assert transcriber._chunks(EvaluationConfig.model_validate({"sets": ["clips-dev"]})) == (None, None)


@pytest.mark.parametrize("seconds", [0.5, 4.0, 40.0])
def test_recording_without_speech_has_no_words(model: Path, spoken: Spoken, write: Write, seconds: float) -> None:
    assert transcribe(write("quiet.wav", spoken([seconds])), model) == Transcript("", [], seconds)


def test_progress_adds_up(model: Path, spoken: Spoken, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transcriber, "_CPU_BATCH_SECONDS", 2.0)
    shares: list[float] = []
    Transcriber(model).transcribe(write("long.wav", long_recording(spoken)), shares.append)
    assert len(shares) > 1
    assert sum(shares) == pytest.approx(1)


def test_words_without_spaces_are_characters(
    model: Path, spoken: Spoken, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transcriber, "_read_scored", lambda folder: transcriber._Scored(separated=False))
    found = transcribe(write("a.wav", spoken([1.0, "abc de", 1.0])), model)
    assert found.text == "abc de"
    assert [word.text for word in found.words] == ["a", "b", "c", "d", "e"]
    assert in_order(found)


@pytest.mark.parametrize("greedy", [False, True])
def test_language_model_of_the_folder_is_used(model: Path, spoken: Spoken, write: Write, greedy: bool) -> None:
    # All words of the language model are from its text, so that it corrects the last word.
    lm = language_model(model / "lm", ["bad bed", "abc de"])
    weights = {"lm_weight": 20.0, "word_score": 0.0, "vocabulary": "closed"}
    write_json(weights | {"beam": BeamConfig(threshold=1000).model_dump()}, lm / "weights.json")
    load = Transcriber(model, greedy=greedy)
    assert load.uses_lm is not greedy
    text = load.transcribe(write("a.wav", spoken([0.5, "bad bee", 0.5]))).text
    assert text == ("bad bee" if greedy else "bad bed")


def test_short_recording_has_the_scored_hypothesis(tmp_path: Path, checkpoints: Path) -> None:
    folder = checkpoints / "checkpoint-0"
    samples = [recording(seconds, seed=i) for i, seconds in enumerate((1.0, 2.3, 0.7))]
    scored, _ = log_probs.transcribe(
        *load_checkpoint(folder), *store(tmp_path, samples, ["a"] * 3), 60, torch.device("cpu")
    )
    load = Transcriber(folder)
    for each, hypothesis in zip(samples, scored, strict=True):
        (tmp_path / "a.flac").write_bytes(audio_file(each, kind="FLAC"))
        assert hypothesis
        assert load.transcribe(tmp_path / "a.flac").text == hypothesis


def test_any_rate_and_channels_are_read(model: Path, spoken: Spoken, tmp_path: Path) -> None:
    samples = np.repeat(spoken([0.5, "abc de", 0.5]), 3)
    (tmp_path / "a.wav").write_bytes(audio_file(np.stack([samples, samples], 1), rate=3 * SAMPLE_RATE))
    assert transcribe(tmp_path / "a.wav", model).text == "abc de"


def config_of(model: Path, **values: Any) -> None:
    (model / "config.json").unlink()
    write_json(values, model / "config.json")


@pytest.mark.parametrize(
    ("break_model", "message"),
    [
        (shutil.rmtree, "model is no folder; give the folder of a model, such as results/runs/RUN/model"),
        (lambda model: (model / "config.json").unlink(), "model has no config.json"),
        (lambda model: config_of(model, model_type="whisper"), "a model that generates text"),
        (lambda model: (model / "processor_config.json").unlink(), "lacks a part of the processor .*processor_config"),
        (
            lambda model: [(model / name).unlink() for name in ("vocab.json", "tokenizer_config.json")],
            "lacks a part of the processor of its model, such as tokenizer_config.json and vocab.json",
        ),
    ],
    ids=["no folder", "no config", "whisper", "no extractor", "no tokenizer"],
)
def test_unusable_model_is_named(model: Path, break_model: Callable[[Path], object], message: str) -> None:
    break_model(model)
    with pytest.raises(SpeechmillError, match=message):
        Transcriber(model)


def test_missing_gpu_is_reported(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SpeechmillError, match="there is no GPU that PyTorch can use"):
        Transcriber(model, "gpu")


def test_full_memory_of_a_gpu_is_reported(
    model: Path, spoken: Spoken, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forward(*given: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    load = Transcriber(model)
    monkeypatch.setattr(log_probs, "forward", forward)
    with pytest.raises(SpeechmillError, match=r"the GPU ran out of memory \(CUDA out of memory.\); use the device cpu"):
        load.transcribe(write("a.wav", spoken([0.5, "abc"])))


def test_file_without_audio_is_reported(model: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.wav").write_text("no audio")
    with pytest.raises(SpeechmillError, match=r"notes\.wav cannot be transcribed: libsndfile: .*; ffmpeg: "):
        transcribe(tmp_path / "notes.wav", model)
    color = ["ffmpeg", "-loglevel", "error", "-f", "lavfi", "-i", "color=s=32x32:d=0.2"]
    subprocess.run([*color, tmp_path / "film.mp4"], check=True)
    with pytest.raises(SpeechmillError, match="ffmpeg: there is no audio in it"):
        transcribe(tmp_path / "film.mp4", model)
