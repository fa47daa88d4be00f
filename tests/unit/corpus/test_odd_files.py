"""Files of many containers and encoders, also with faulty headers: decoded as by ffmpeg, or rejected for a reason."""

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import soxr
from numpy.typing import NDArray

from odd_files import ODD_FILES, OddFile, speech
from speechmill.corpus.audio import UnreadableAudioError, decode_to_16k


def by_ffmpeg(path: Path) -> NDArray[Any]:
    """Return the samples that ffmpeg decodes, as the mean of the channels at 16 kHz."""
    decoded = path.with_name("reference.wav")
    options = ["-map", "0:a:0", "-c:a", "pcm_f32le"]
    subprocess.run(["ffmpeg", "-v", "quiet", "-y", "-i", path, *options, decoded], check=True)
    samples, rate = sf.read(decoded, always_2d=True)
    return np.asarray(soxr.resample(samples.mean(axis=1), rate, 16_000, quality="HQ"))


def signal_to_difference(expected: NDArray[Any], found: NDArray[Any]) -> float:
    """Return the ratio of the energy of `expected` to that of the difference, in dB."""
    difference = np.square(expected - found).sum()
    return float(10 * np.log10(np.square(expected).sum() / max(difference, 1e-12)))


DECODED = {name: odd for name, odd in ODD_FILES.items() if odd.reason is None}
REJECTED = {name: odd for name, odd in ODD_FILES.items() if odd.reason is not None}


@pytest.mark.parametrize("odd", DECODED.values(), ids=DECODED)
def test_samples_are_those_of_the_file(tmp_path: Path, odd: OddFile) -> None:
    path = odd.make(tmp_path)
    samples, missing = decode_to_16k(path.read_bytes(), "soxr", path.name)
    assert missing == pytest.approx(odd.missing, abs=0.001)
    expected = by_ffmpeg(path) if odd.by_ffmpeg else speech()
    assert len(samples) == pytest.approx(len(expected), abs=1 + odd.longer)
    common = min(len(samples), len(expected))
    assert signal_to_difference(expected[:common], samples[:common] / 32768) > odd.least


@pytest.mark.parametrize("odd", REJECTED.values(), ids=REJECTED)
def test_rejected_for_the_true_reason(tmp_path: Path, odd: OddFile) -> None:
    path = odd.make(tmp_path)
    with pytest.raises(UnreadableAudioError) as error:
        decode_to_16k(path.read_bytes(), "soxr", path.name)
    assert error.value.reason == odd.reason
    assert odd.message in str(error.value)
