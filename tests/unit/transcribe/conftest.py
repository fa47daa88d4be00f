"""A perfect model in a folder, and recordings that it transcribes."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from levels_model import encode_as_levels, levels_model
from material import audio_file
from speechmill.core.flac import Int16Samples
from speechmill.core.schemas import SAMPLE_RATE
from speechmill.inference import transcribe as stage
from speechmill.inference.voice_activity import WINDOW
from speechmill.transcribe import transcriber


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a model that reads letters from the levels of samples; every sound is speech."""
    perfect, processor = levels_model("abcdeo")
    folder = tmp_path / "model"
    perfect.config.save_pretrained(folder)
    processor.save_pretrained(folder)
    monkeypatch.setattr(transcriber, "load_checkpoint", lambda path: (perfect, processor))

    def loud(blocks: Any) -> Any:
        samples = np.concatenate(list(blocks))
        windows = np.pad(samples, (0, -len(samples) % WINDOW)).reshape(-1, WINDOW)
        return (np.abs(windows).max(1) > 100).astype(np.float32)

    monkeypatch.setattr(stage, "speech_probabilities", loud)
    return folder


@pytest.fixture
def spoken() -> Callable[[Sequence[str | float]], Int16Samples]:
    """A function that returns samples of sentences and of pauses, given in seconds."""
    _, processor = levels_model("abcdeo")

    def speak(parts: Sequence[str | float]) -> Int16Samples:
        def samples() -> Iterator[Int16Samples]:
            for part in parts:
                if isinstance(part, str):
                    yield encode_as_levels(part, processor)
                else:
                    yield np.zeros(round(part * SAMPLE_RATE), np.int16)

        return np.concatenate(list(samples()))

    return speak


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, Int16Samples], Path]:
    """A function that writes samples to a WAV file with this name, and returns its path."""

    def write_file(name: str, samples: Int16Samples) -> Path:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(audio_file(samples))
        return file

    return write_file
