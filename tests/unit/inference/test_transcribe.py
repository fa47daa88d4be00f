import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from material import language_model, recording, store
from speechmill.config.lm import BeamConfig
from speechmill.core.command import SpeechmillError
from speechmill.core.files import write_json
from speechmill.core.flac import Int16Samples, decode_flac, encode_flac
from speechmill.core.schemas import ROWS, SAMPLE_RATE
from speechmill.core.tables import read_table, write_table
from speechmill.inference import transcribe as stage
from speechmill.inference.log_probs import transcribe
from speechmill.inference.transcribe import TranscribeSettings, confidence, cut_recording, transcribe_shard
from speechmill.inference.voice_activity import WINDOW, Span
from speechmill.model.models import load_checkpoint

SETTINGS = TranscribeSettings(
    run="teacher",
    min_seconds=1,
    max_seconds=5,
    device="cpu",
    batch_seconds=10,
    precision="fp32",
    units="characters",
)


@pytest.fixture(autouse=True)
def _loud_is_speech(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take every window that is not silent for speech; silero-vad is tested with `voice_activity`."""

    def loud(blocks: Any) -> Any:
        samples = np.concatenate(list(blocks))
        windows = np.pad(samples, (0, -len(samples) % WINDOW)).reshape(-1, WINDOW)
        return (np.abs(windows).max(1) > 100).astype(np.float32)

    monkeypatch.setattr(stage, "speech_probabilities", loud)


def silence(seconds: float) -> Int16Samples:
    return np.zeros(round(seconds * SAMPLE_RATE), np.int16)


def spans_of(samples: Int16Samples) -> Callable[[Sequence[Span]], Iterator[Int16Samples]]:
    return lambda spans: (samples[start:stop] for start, stop in spans)


def interview() -> Int16Samples:
    """Return 20 s: silence, 4 s of speech, silence, 3 s of speech, silence."""
    parts = [silence(3), recording(4, seed=1), silence(4), recording(3, seed=2), silence(6)]
    return np.concatenate(parts)


def pieces_of(
    folder: Path, recordings: list[Int16Samples], model: Path, lm: Path | None = None
) -> list[dict[str, Any]]:
    rows, (shard, _) = store(folder, [each for each in recordings for _ in range(2)], ["a text"] * 2 * len(recordings))
    listed = [row | {"splits": ["train"], "speaker_id": f"speaker of {row['id']}"} for row in rows if row["shard"] == 0]
    write_table([{name: row.get(name) for name in ROWS.names} for row in listed], ROWS, folder / "rows.parquet")
    transcribe_shard(shard, folder / "rows.parquet", model, lm, SETTINGS, folder / "pieces" / "shard-00000.parquet")
    assert [path.name for path in (folder / "pieces").iterdir()] == ["shard-00000.parquet"]
    return read_table(folder / "pieces" / "shard-00000.parquet").to_pylist()


def with_bias(model_folder: Path, folder: Path, token: str, bias: float) -> Path:
    """Return a copy of a model whose logit of `token` is raised by `bias` in every frame."""
    model, processor = load_checkpoint(model_folder)
    with torch.no_grad():
        model.lm_head.bias[processor.tokenizer.get_vocab()[token]] += bias
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def test_parts_are_all_of_the_recording() -> None:
    samples = interview()
    parts = cut_recording(spans_of(samples), len(samples), 1, 5)
    assert [is_speech for _, is_speech in parts] == [False, True, False, True, False]
    edges = [edge for span, _ in parts for edge in span]
    assert edges == [0, *itertools.chain.from_iterable([each, each] for each in edges[1:-1:2]), len(samples)]


def test_speech_from_end_to_end_leaves_nothing_out() -> None:
    samples = recording(12)
    parts = cut_recording(spans_of(samples), len(samples), 1, 5)
    assert len(parts) > 2
    assert all(is_speech for _, is_speech in parts)


def test_short_recording_is_one_piece() -> None:
    samples = np.concatenate([silence(2), recording(1), silence(2)])
    assert cut_recording(spans_of(samples), len(samples), 1, 5) == [((0, len(samples)), True)]


def test_confidence_is_the_probability_per_token() -> None:
    probabilities = np.array([[0.1, 0.7, 0.2], [0.5, 0.3, 0.2], [0.2, 0.2, 0.6]])

    def collapsed(path: tuple[int, ...]) -> list[int]:
        return [token for token, _ in itertools.groupby(path) if token != 0]

    total = sum(
        math.prod(probabilities[frame, token] for frame, token in enumerate(path))
        for path in itertools.product(range(3), repeat=3)
        if collapsed(path) == [1, 2]
    )
    found = confidence(np.log(probabilities).astype(np.float16), [1, 2], blank=0, separator=None)
    assert found == pytest.approx(math.sqrt(total), rel=1e-3)


def test_separators_in_silence_do_not_lower_the_confidence() -> None:
    certain = np.full((7, 4), 0.001)
    # Token 3 separates words: at both ends, and twice between the words.
    for frame, token in enumerate([3, 1, 3, 0, 3, 2, 3]):
        certain[frame, token] = 0.997
    found = confidence(np.log(certain).astype(np.float16), [1, 3, 2], blank=0, separator=3)
    assert found > 0.98


def test_confidence_of_an_impossible_hypothesis_is_0() -> None:
    log_probs = np.log(np.full((2, 3), 1 / 3)).astype(np.float16)
    assert confidence(log_probs, [1, 2, 1], blank=0, separator=None) == 0


def test_pieces_have_audio_hypothesis_and_confidence(tmp_path: Path, checkpoints: Path) -> None:
    samples = interview()
    model_folder = with_bias(checkpoints / "checkpoint-0", tmp_path / "model", "[UNK]", -1000.0)
    rows = pieces_of(tmp_path, [samples, recording(2, seed=3)], model_folder)
    assert [row["reason"] for row in rows] == ["no_speech", None, "no_speech", None, "no_speech", None]
    assert [row["recording"] for row in rows] == ["clip-000"] * 5 + ["clip-002"]
    pieces = [row for row in rows if row["reason"] is None]
    for row in pieces[:2]:
        start, end = (round(row[key] * SAMPLE_RATE) for key in ("start", "end"))
        assert np.array_equal(decode_flac(row["encoded"]), samples[start:end])
    assert pieces[2]["id"] == "clip-002-00000000-00002000"
    assert pieces[2]["speaker_id"] == "speaker of clip-002"
    assert all(0 < row["score"] <= 1 for row in pieces)
    clips, shards = store(tmp_path / "alone", [decode_flac(row["encoded"]) for row in pieces], [""] * len(pieces))
    model, processor = load_checkpoint(model_folder)
    expected, _ = transcribe(model, processor, clips, shards, 10, torch.device("cpu"))
    assert [row["sentence"] for row in pieces] == expected


def test_language_model_of_the_run_decodes(tmp_path: Path, checkpoints: Path) -> None:
    pytest.importorskip("flashlight.lib.text.decoder.kenlm")
    _, processor = load_checkpoint(checkpoints / "checkpoint-0")
    vocabulary = processor.tokenizer.get_vocab()
    lm = language_model(tmp_path / "lm", ["ab ce", "ce d"], tokens=sorted(vocabulary, key=vocabulary.__getitem__))
    beam = BeamConfig().model_dump()
    write_json({"lm_weight": 1.0, "word_score": 5.0, "vocabulary": "closed", "beam": beam}, lm / "weights.json")
    (row,) = pieces_of(tmp_path, [recording(2)], checkpoints / "checkpoint-0", lm)
    assert set(row["sentence"].split()) <= {"ab", "ce", "d"}
    assert row["sentence"]


def test_seconds_add_up(tmp_path: Path, checkpoints: Path) -> None:
    recordings = [interview(), recording(2.5), silence(7), recording(11)]
    rows = pieces_of(tmp_path, recordings, checkpoints / "checkpoint-0")
    seconds = sum(row["end"] - row["start"] for row in rows)
    assert seconds == pytest.approx(sum(map(len, recordings)) / SAMPLE_RATE)


@pytest.mark.parametrize(
    ("token", "reason", "detail"),
    [
        ("[PAD]", "empty", "the hypothesis is empty"),
        ("|", "empty", "the hypothesis is empty"),
        ("[UNK]", "unknown", "the hypothesis contains [UNK]: [UNK]"),
    ],
)
def test_useless_hypotheses_are_left_out(
    tmp_path: Path, checkpoints: Path, token: str, reason: str, detail: str
) -> None:
    model = with_bias(checkpoints / "checkpoint-0", tmp_path / "model", token, 1000.0)
    (row,) = pieces_of(tmp_path, [recording(2)], model)
    assert (row["reason"], row["detail"], row["encoded"]) == (reason, detail, None)
    assert row["end"] - row["start"] == 2


def test_empty_shard_needs_no_model(tmp_path: Path) -> None:
    assert pieces_of(tmp_path, [], tmp_path / "no model") == []


def test_corrupt_recording_is_an_error(tmp_path: Path, checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("material.encode_flac", lambda samples: encode_flac(samples)[:500])
    with pytest.raises(SpeechmillError, match=r"shard-00000\.parquet contains damaged audio for clip-000"):
        pieces_of(tmp_path, [interview()], checkpoints / "checkpoint-0")


def test_failure_leaves_no_files(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no_model"):
        pieces_of(tmp_path, [recording(2)], tmp_path / "no_model")
    assert list((tmp_path / "pieces").iterdir()) == []


def test_what_a_killed_job_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "pieces" / ".shard-00000" / "pieces").mkdir(parents=True)
    assert pieces_of(tmp_path, [], tmp_path / "no model") == []
