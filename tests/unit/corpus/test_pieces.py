import io
import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from numpy.typing import NDArray

from material import audio_file, noise
from speechmill.corpus import pieces
from speechmill.corpus.audio import UnreadableAudioError
from speechmill.corpus.encoded import Encoded
from speechmill.corpus.pieces import Piece, cut


def sound(seconds: float, rate: int = 16_000, channels: int = 1, **kind: str) -> bytes:
    """Return a recording of noise, of another one in each channel."""
    return audio_file(np.stack([noise(seconds, rate, seed) for seed in range(channels)], axis=1), rate, **kind)


def cut_all(work: Path, recording: Encoded, wanted: Iterable[Piece], name: str = "") -> list[bytes | str]:
    """Return the WAV file of each piece, or the reason and message with which it is rejected."""
    found: list[bytes | str] = []
    for piece in cut(recording, name, wanted, work):
        found.append(f"{piece.reason}: {piece}" if isinstance(piece, UnreadableAudioError) else piece.read())
    assert list(work.iterdir()) == []
    return found


def samples_of(piece: bytes | str) -> NDArray[np.float32]:
    assert isinstance(piece, bytes), piece
    return np.asarray(sf.read(io.BytesIO(piece), dtype="float32")[0])


@pytest.mark.parametrize(("rate", "channels"), [(16_000, 1), (44_100, 2)])
@pytest.mark.parametrize(
    ("kind", "subtype", "is_16_bit"),
    [
        ("WAV", "PCM_16", True),
        ("WAV", "PCM_24", False),
        ("WAV", "FLOAT", False),
        ("WAV", "PCM_U8", True),
        ("WAV", "ULAW", True),
        ("FLAC", "PCM_16", True),
        ("OGG", "VORBIS", False),
        ("MP3", "MPEG_LAYER_III", False),
    ],
)
def test_a_piece_has_the_samples_of_the_recording(
    tmp_path: Path, kind: str, subtype: str, is_16_bit: bool, rate: int, channels: int
) -> None:
    recording = sound(5, rate, channels, kind=kind, subtype=subtype)
    file = sf.SoundFile(io.BytesIO(recording))
    # soundfile would seek after the first read, and MP3 decodes slightly differently after a seek.
    file.seekable = lambda: False
    samples = file.read(file.frames, dtype="float32", always_2d=True)
    times = [(0.0, 0.4), (1.7, 3.0), (0.3, 0.31), (0.999, 2.0), (3.33, 4.9), (4.0, 5.0)]
    for channel in (None, channels - 1):
        found = cut_all(tmp_path, recording, [Piece(start, end, channel) for start, end in times])
        expected = samples.sum(axis=1) / channels if channel is None else samples[:, channel]
        for (start, end), encoded in zip(times, found, strict=True):
            np.testing.assert_array_equal(samples_of(encoded), expected[round(start * rate) : round(end * rate)])
            info = sf.info(io.BytesIO(encoded))  # type: ignore[arg-type]  # samples_of() has checked it
            assert (info.format, info.samplerate, info.channels) == ("WAV", rate, 1)
            if channel is not None:
                assert info.subtype == ("PCM_16" if is_16_bit else "FLOAT")


@pytest.mark.parametrize("end", [0.9999, 1.0, 1.04, 1.5, None])
def test_a_piece_ends_half_a_second_after_its_recording_at_most(tmp_path: Path, end: float | None) -> None:
    (found,) = cut_all(tmp_path, sound(1), [Piece(0.5, end)])
    assert len(samples_of(found)) == (7998 if end == 0.9999 else 8000)


@pytest.mark.parametrize(
    ("piece", "message"),
    [
        (Piece(5, 6), "outside: begins at 5 s, the recording ends at 4 s"),
        (Piece(4, 4.2), "outside: begins at 4 s, the recording ends at 4 s"),
        (Piece(3, 4.501), "outside: ends at 4.501 s, the recording ends at 4 s"),
        (Piece(3, math.inf), "outside: ends at inf s, the recording ends at 4 s"),
        (Piece(-1, 1), "outside: begins at -1 s and ends at 1 s"),
        (Piece(2.5, 2), "outside: begins at 2.5 s and ends at 2 s"),
        (Piece(math.nan, 1), "outside: begins at nan s, the recording ends at 4 s"),
        (Piece(1, math.nan), "outside: begins at 1 s and ends at nan s"),
        (Piece(1, 1.00001), "empty: the piece has no samples"),
        (Piece(0, 1, 2), "outside: there is no channel 2, because the recording has 2, counted from 0"),
        (Piece(0, 1, -1), "outside: there is no channel -1, because the recording has 2, counted from 0"),
    ],
)
def test_a_piece_that_the_recording_lacks_is_rejected(tmp_path: Path, piece: Piece, message: str) -> None:
    found = cut_all(tmp_path, sound(4, 8000, channels=2), [piece, Piece(0, 4)])
    assert found[0] == message
    assert len(samples_of(found[1])) == 32_000


def test_each_side_of_a_call_is_cut(tmp_path: Path) -> None:
    sides = np.stack([np.full(8000, 0.25), np.full(8000, -0.5)], axis=1)
    call = audio_file(sides, 8000)
    found = cut_all(tmp_path, call, [Piece(0, 1, 0), Piece(0, 1, 1), Piece(0, 1)])
    assert [samples_of(each).tolist() for each in found] == [[0.25] * 8000, [-0.5] * 8000, [-0.125] * 8000]


def test_a_piece_of_any_size_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = [Piece(0.1, 0.9), Piece(0, None, 1)]
    expected = cut_all(tmp_path, sound(1, channels=2), wanted)
    monkeypatch.setattr(pieces, "_BLOCK_SAMPLES", 1000)
    monkeypatch.setattr(pieces, "_MAX_BYTES_IN_MEMORY", 1000)
    assert cut_all(tmp_path, sound(1, channels=2), wanted) == expected


@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT"])
def test_a_piece_is_reproducible(tmp_path: Path, subtype: str) -> None:
    (found,) = cut_all(tmp_path, sound(1, subtype=subtype), [Piece(0.25, 0.5)])
    # libsndfile adds a PEAK chunk with the current time to a WAV file of floats, which would differ between runs.
    assert b"PEAK" not in found  # type: ignore[operator]  # the next line checks it
    assert len(samples_of(found)) == 4000
    assert len(found) == 44 + 4000 * (2 if subtype == "PCM_16" else 4)


@pytest.mark.parametrize(
    ("recording", "reason", "message"),
    [
        (b"", "empty", "the file is empty"),
        (b"<!doctype html>", "unreadable", "libsndfile: Format not recognised; ffmpeg: Invalid data found .*; sox: "),
        (sound(1, kind="FLAC")[:3000], "truncated", "truncated or damaged"),
        (sound(1)[:-9000], "truncated", "truncated by 9000 bytes"),
        (audio_file(np.array([0.1, np.nan] * 800), subtype="FLOAT"), "unreadable", "not finite"),
    ],
)
def test_a_recording_that_cannot_be_decoded_is_rejected(
    tmp_path: Path, recording: bytes, reason: str, message: str
) -> None:
    with pytest.raises(UnreadableAudioError, match=message) as caught:
        cut_all(tmp_path, recording, [Piece(0, 0.1)])
    assert caught.value.reason == reason
    assert list(tmp_path.iterdir()) == []


def test_a_recording_may_be_longer_than_a_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("speechmill.corpus.audio._MAX_HOURS", 1 / 3600)
    assert len(samples_of(cut_all(tmp_path, sound(2), [Piece(1.5, 2)])[0])) == 8000
    monkeypatch.setattr(pieces, "_MAX_HOURS", 1 / 3600)
    with pytest.raises(UnreadableAudioError, match="longer than"):
        cut_all(tmp_path, sound(2), [Piece(0, 0.5)])


def test_a_recording_is_cut_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "call.ul"
    path.write_bytes(bytes(range(256)) * 100)
    (tmp_path / "work").mkdir()
    in_memory = cut_all(tmp_path / "work", path.read_bytes(), [Piece(1, 2)], path.name)
    assert cut_all(tmp_path / "work", path, [Piece(1, 2)], path.name) == in_memory
    assert len(samples_of(in_memory[0])) == 8000
