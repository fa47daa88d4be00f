"""Files of many containers and encoders, also with faults in their headers: decoded, cut or rejected."""

import io
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
from speechmill.corpus.pieces import Piece, cut


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


def test_there_are_enough_odd_files() -> None:
    assert len(ODD_FILES) >= 60


@pytest.mark.parametrize("odd", DECODED.values(), ids=DECODED)
def test_samples_are_those_of_the_file(tmp_path: Path, odd: OddFile) -> None:
    path = odd.make(tmp_path)
    samples, missing = decode_to_16k(path.read_bytes(), "soxr", path.name)
    assert missing == pytest.approx(odd.missing, abs=0.001)
    expected = by_ffmpeg(path)[odd.start :] if odd.by_ffmpeg else speech()
    assert len(samples) == pytest.approx(len(expected), abs=1 + odd.longer)
    common = min(len(samples), len(expected))
    assert signal_to_difference(expected[:common], samples[:common] / 32768) > odd.least


@pytest.mark.parametrize("odd", DECODED.values(), ids=DECODED)
def test_pieces_have_the_samples_of_the_whole(tmp_path: Path, odd: OddFile) -> None:
    path = odd.make(tmp_path)
    times = [(0.0, None), (0.0, 0.31), (0.31, 0.32), (0.32, 0.7), (0.7, None)]
    found = cut(path, path.name, [Piece(*each) for each in times], tmp_path)
    whole, *parts = (piece.read() for piece in found if not isinstance(piece, UnreadableAudioError))
    # `test_samples_are_those_of_the_file` compares these with ffmpeg's.
    expected = decode_to_16k(path.read_bytes(), "soxr", path.name).samples
    np.testing.assert_array_equal(decode_to_16k(whole, "soxr").samples, expected)
    joined = np.concatenate([sf.read(io.BytesIO(part), dtype="float32")[0] for part in parts])
    np.testing.assert_array_equal(joined, sf.read(io.BytesIO(whole), dtype="float32")[0])


@pytest.mark.parametrize("odd", REJECTED.values(), ids=REJECTED)
def test_rejected_for_the_true_reason(tmp_path: Path, odd: OddFile) -> None:
    path = odd.make(tmp_path)
    with pytest.raises(UnreadableAudioError) as error:
        decode_to_16k(path.read_bytes(), "soxr", path.name)
    assert error.value.reason == odd.reason
    assert odd.message in str(error.value)
    with pytest.raises(UnreadableAudioError) as of_pieces:
        next(cut(path, path.name, [Piece()], tmp_path))
    assert (of_pieces.value.reason, str(of_pieces.value)) == (error.value.reason, str(error.value))
