import itertools
import struct
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import soxr
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from material import audio_file, noise, recording
from speechmill.core.command import SpeechmillError
from speechmill.core.flac import Int16Samples, decode_flac, encode_flac
from speechmill.corpus import audio
from speechmill.corpus.audio import UnreadableAudioError, clipped_share, encode_clip, silent_share

RESAMPLERS = ["soxr", "sox", "torchaudio"]


def decode_to_16k(encoded: bytes, resampler: str, name: str = "") -> Int16Samples:
    """Return the samples of a file that lacks nothing."""
    decoded = audio.decode_to_16k(encoded, resampler, name)
    assert decoded.missing_seconds == 0
    return decoded.samples


def band_limited(seconds: float, rate: int) -> NDArray[np.float64]:
    """White noise up to 80 % of the lower Nyquist frequency of `rate` and 16 kHz, which all resamplers pass."""
    n = round(seconds * rate)
    hertz = np.fft.rfftfreq(n, 1 / rate)
    spectrum = np.fft.rfft(np.random.default_rng(5).standard_normal(n))
    spectrum[(hertz < 50) | (hertz > 0.4 * min(rate, 16_000))] = 0
    samples = np.fft.irfft(spectrum, n)
    return np.asarray(0.3 * samples / np.abs(samples).max())


def tone(rate: int, seconds: float = 0.6) -> NDArray[np.float64]:
    """1 kHz, at a quarter of full scale."""
    return 0.25 * np.sin(2 * np.pi * 1000 * np.arange(round(seconds * rate)) / rate)


def by_ffmpeg(*options: str, samples: NDArray[Any] | None = None, rate: int = 48_000) -> bytes:
    """Encode `samples` (by default a tone) with `ffmpeg` to a pipe, so that it cannot go back to its header."""
    encoded = audio_file(tone(rate) if samples is None else samples, rate)
    command = ["ffmpeg", "-v", "error", "-f", "wav", "-i", "-", *options, "-"]
    return subprocess.run(command, input=encoded, capture_output=True, check=True).stdout


def by_ffmpeg_to_file(folder: Path, name: str, *options: str) -> bytes:
    (folder / "tone.wav").write_bytes(audio_file(tone(48_000), 48_000))
    command = ["ffmpeg", "-v", "error", "-y", "-i", folder / "tone.wav", *options, folder / name]
    subprocess.run(command, check=True)
    return (folder / name).read_bytes()


def by_sox(*options: str, samples: NDArray[Any] | None = None, rate: int = 44_100) -> bytes:
    """Encode `samples` (by default a tone) with `sox` to a pipe."""
    encoded = audio_file(tone(rate) if samples is None else samples, rate)
    command = ["sox", "-V1", "-t", "wav", "-", *options, "-"]
    return subprocess.run(command, input=encoded, capture_output=True, check=True).stdout


def decoding_error(encoded: bytes, name: str = "") -> UnreadableAudioError:
    """Return the error with which `encoded` is rejected."""
    with pytest.raises(UnreadableAudioError) as caught:
        decode_to_16k(encoded, "soxr", name)
    return caught.value


def signal_to_difference(one: NDArray[Any], other: NDArray[Any]) -> float:
    """Return the ratio of the energy of `one` to that of its difference from `other`, in dB."""
    assert len(one) == len(other)
    difference = one.astype(np.float64) - other
    return float(10 * np.log10(np.square(one.astype(np.float64)).sum() / np.square(difference).sum()))


# Measured minimum over all pairs: 78 dB (8 kHz), 67 dB (44.1 kHz) and 71 dB (48 kHz) for band-limited noise; 51, 60 and
# 60 dB for speech-like noise, which has energy where the transition bands of the filters differ. torchaudio's default
# filter, or a shift by a fraction of a sample, reaches 34 dB and would fail.
@pytest.mark.parametrize("rate", [8_000, 44_100, 48_000])
@pytest.mark.parametrize(("make", "least"), [(band_limited, 60), (noise, 45)], ids=["band-limited", "speech-like"])
def test_resamplers_agree(rate: int, make: Any, least: float) -> None:
    encoded = audio_file(make(1.5, rate), rate)
    resampled = [decode_to_16k(encoded, resampler) for resampler in RESAMPLERS]
    for one, other in itertools.combinations(resampled, 2):
        assert signal_to_difference(one, other) > least


@pytest.mark.parametrize("resampler", RESAMPLERS)
@pytest.mark.parametrize("rate", [8_000, 44_100, 48_000])
def test_resampled_tone_keeps_its_frequency(resampler: str, rate: int) -> None:
    # The expected samples are computed: 1 kHz sampled at 16 kHz.
    tone = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(rate) / rate)
    resampled = decode_to_16k(audio_file(tone, rate), resampler)
    expected = 0.5 * 32768 * np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000)
    middle = slice(1000, -1000)  # filters need context on both sides
    assert signal_to_difference(expected[middle], resampled[middle]) > 60


@pytest.mark.parametrize("resampler", RESAMPLERS)
def test_frequencies_above_8_khz_are_filtered_out(resampler: str) -> None:
    # Without a low-pass filter, 12 kHz would alias to 4 kHz.
    tone = 0.5 * np.sin(2 * np.pi * 12_000 * np.arange(48_000) / 48_000)
    resampled = decode_to_16k(audio_file(tone, 48_000), resampler)
    assert np.abs(resampled[1000:-1000]).max() < 0.5 * 32768 / 1000


@pytest.mark.parametrize("resampler", RESAMPLERS)
@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_resampling_keeps_the_duration(resampler: str, rate: int) -> None:
    assert abs(len(decode_to_16k(audio_file(noise(1.0, rate), rate), resampler)) - 16_000) <= 1


@pytest.mark.parametrize(
    "make",
    [
        lambda: audio_file(np.stack([noise(0.7, 44_100), noise(0.7, 44_100, seed=1)], 1), 44_100),
        lambda: by_ffmpeg("-f", "adts"),
    ],
    ids=["wav", "aac"],
)
def test_samples_in_a_file_are_those_in_memory(tmp_path: Path, make: Callable[[], bytes]) -> None:
    encoded = make()
    with (tmp_path / "samples").open("w+b") as file:
        # A decoder that failed may have written a part.
        file.write(b"part")
        decoded = audio.decode_to_file(encoded, "", file)
    written = np.fromfile(tmp_path / "samples", np.int16)
    assert decoded.samples == len(written)
    np.testing.assert_array_equal(written, decode_to_16k(encoded, "soxr"))


def test_file_longer_than_a_day_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio, "_MAX_FILE_HOURS", 1 / 3600)
    with (tmp_path / "samples").open("w+b") as file, pytest.raises(UnreadableAudioError, match="longer than"):
        audio.decode_to_file(audio_file(noise(1.1)), "", file)


@pytest.mark.parametrize("resampler", RESAMPLERS)
def test_decoding_is_deterministic(resampler: str) -> None:
    encoded = audio_file(noise(0.5, 44_100), 44_100)
    assert encode_flac(decode_to_16k(encoded, resampler)) == encode_flac(decode_to_16k(encoded, resampler))


@pytest.mark.parametrize("resampler", RESAMPLERS)
@pytest.mark.parametrize("kind", ["WAV", "FLAC"])
def test_16_khz_samples_are_unchanged(resampler: str, kind: str) -> None:
    samples = np.concatenate([recording(0.5), np.array([32767, -32768, 0, 1, -1], dtype=np.int16)])
    np.testing.assert_array_equal(decode_to_16k(audio_file(samples, kind=kind), resampler), samples)


def test_channels_are_mixed_by_their_mean() -> None:
    left, right = recording(0.3, seed=1), recording(0.3, seed=2)
    mixed = decode_to_16k(audio_file(np.stack([left, right], axis=1)), "soxr")
    np.testing.assert_allclose(mixed, (left.astype(float) + right) / 2, atol=0.5)


def test_samples_beyond_full_scale_are_clipped() -> None:
    loud = decode_to_16k(audio_file(np.array([1.5, -1.5, 0.25]), subtype="FLOAT"), "soxr")
    assert loud.tolist() == [32767, -32768, 8192]


def test_flac_is_lossless() -> None:
    samples = np.random.default_rng(3).integers(-32768, 32768, size=20_000).astype(np.int16)
    np.testing.assert_array_equal(decode_flac(encode_flac(samples)), samples)


def test_flac_starts_with_its_marker() -> None:
    # RFC 9639, section 6: the marker fLaC.
    assert encode_flac(recording(0.1))[:4] == b"fLaC"


def test_16_khz_flac_keeps_frames_and_loses_tags(tmp_path: Path) -> None:
    samples = recording(0.5)
    sf.write(tmp_path / "plain.wav", samples, 16_000)
    command = ["ffmpeg", "-v", "error", "-i", tmp_path / "plain.wav", "-metadata", "title=secret", tmp_path / "a.flac"]
    subprocess.run(command, check=True)
    original = (tmp_path / "a.flac").read_bytes()
    stored = encode_clip(decode_to_16k(original, "soxr"), original)
    np.testing.assert_array_equal(decode_flac(stored), samples)
    assert original.endswith(stored[42:])
    assert b"secret" in original
    assert b"secret" not in stored


@pytest.mark.parametrize(
    "original",
    [
        audio_file(noise(0.5, 44_100), 44_100, "FLAC"),
        audio_file(np.stack([noise(0.5)] * 2, axis=1), kind="FLAC"),
        audio_file(noise(0.5), kind="FLAC", subtype="PCM_24"),
        audio_file(noise(0.5)),
    ],
    ids=["44.1 kHz", "stereo", "24 bits", "WAV"],
)
def test_other_formats_are_re_encoded(original: bytes) -> None:
    samples = decode_to_16k(original, "soxr")
    assert encode_clip(samples, original) == encode_flac(samples)


def test_pysox_prints_no_warnings(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    decode_to_16k(audio_file(noise(0.2, 48_000), 48_000), "sox")
    assert capfd.readouterr() == ("", "")
    assert caplog.messages == []


# Both channels with the amplitude of the mono channel.
STEREO = ["-ar", "22050", "-af", "pan=stereo|c0=c0|c1=c0"]

# Every supported format, as written by the programs that corpora are created with.
KINDS: dict[str, Callable[[Path], bytes]] = {
    **{
        f"{kind} {subtype}": lambda _, kind=kind, subtype=subtype: audio_file(tone(48_000), 48_000, kind, subtype)
        for kind, subtypes in {
            "WAV": ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "MS_ADPCM", "GSM610"],
            "WAVEX": ["PCM_16"],
            "RF64": ["PCM_16"],
            "W64": ["PCM_16"],
            "CAF": ["PCM_16"],
            "AIFF": ["PCM_16", "FLOAT"],
            "AU": ["PCM_16", "DOUBLE"],
            "NIST": ["PCM_16"],
            "FLAC": ["PCM_16", "PCM_24"],
            "MP3": ["MPEG_LAYER_III"],
            "OGG": ["VORBIS", "OPUS"],
        }.items()
        for subtype in subtypes
    },
    "sox wav": lambda _: by_sox("-t", "wav"),
    "sox aiff": lambda _: by_sox("-t", "aiff"),
    "sox au": lambda _: by_sox("-t", "au"),
    "sox sph": lambda _: by_sox("-t", "sph"),
    "sox flac": lambda _: by_sox("-t", "flac"),
    "sox mp3": lambda _: by_sox("-t", "mp3", rate=22_050),
    "sox ogg": lambda _: by_sox("-t", "ogg"),
    "sox amr": lambda _: by_sox("-r", "8000", "-t", "amr-nb"),
    "ffmpeg wav": lambda _: by_ffmpeg("-f", "wav"),
    "ffmpeg aiff": lambda _: by_ffmpeg("-f", "aiff"),
    "ffmpeg flac": lambda _: by_ffmpeg("-f", "flac"),
    "ffmpeg mp3": lambda _: by_ffmpeg("-f", "mp3"),
    "ffmpeg mp3 to file": lambda folder: by_ffmpeg_to_file(folder, "a.mp3", "-metadata", "title=x", "-b:a", "64k"),
    "ffmpeg vbr to file": lambda folder: by_ffmpeg_to_file(folder, "b.mp3", "-q:a", "4", *STEREO),
    "ffmpeg vorbis": lambda _: by_ffmpeg("-c:a", "libvorbis", "-f", "ogg"),
    "ffmpeg opus": lambda _: by_ffmpeg("-c:a", "libopus", "-f", "ogg"),
    "ffmpeg flac in ogg": lambda _: by_ffmpeg("-c:a", "flac", "-f", "ogg"),
    "ffmpeg m4a": lambda folder: by_ffmpeg_to_file(folder, "a.m4a"),
    "ffmpeg aac": lambda _: by_ffmpeg("-f", "adts"),
    "ffmpeg webm": lambda folder: by_ffmpeg_to_file(folder, "a.webm"),
    "ffmpeg webm stream": lambda _: by_ffmpeg("-f", "webm"),
}


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], bytes]:
    """Return a file of each of KINDS, by its name."""
    folder = tmp_path_factory.mktemp("kinds")
    return cache(lambda kind: KINDS[kind](folder))


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_decodes_to_the_same_tone(make: Callable[[str], bytes], kind: str) -> None:
    decoded = decode_to_16k(make(kind), "soxr")
    # Codecs add the encoder's delay and fill up the last frame.
    assert 0.6 * 16_000 - 1 <= len(decoded) < 0.73 * 16_000
    middle = decoded[3200:8000]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    assert np.argmax(spectrum) * 16_000 / len(middle) == pytest.approx(1000, abs=4)
    decibels = 20 * np.log10(np.sqrt(np.mean(np.square(middle / 32768))) / (0.25 / np.sqrt(2)))
    assert decibels == pytest.approx(0, abs=2 if kind == "sox amr" else 1)


@pytest.mark.parametrize("kind", ["WAV PCM_16", "OGG OPUS", "ffmpeg m4a", "ffmpeg flac"])
def test_format_is_detected_from_the_content(make: Callable[[str], bytes], kind: str) -> None:
    expected = decode_to_16k(make(kind), "soxr")
    for name in ("clip.mp3", "clip.gsm", "clip.m3u", "clip", "../$(rm x).wav", "-x"):
        np.testing.assert_array_equal(decode_to_16k(make(kind), "soxr", name), expected)


def test_headerless_format_is_detected_from_the_name() -> None:
    encoded = by_sox("-r", "8000", "-t", "ul")
    assert decoding_error(encoded).reason == "unreadable"
    assert len(decode_to_16k(encoded, "soxr", "call.UL")) == 9600


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 32_000, 96_000, 192_000])
@pytest.mark.parametrize("channels", [1, 2, 3, 16])
def test_any_rate_and_number_of_channels_is_decoded(rate: int, channels: int) -> None:
    samples = tone(rate, 0.2)[:, np.newaxis] * np.linspace(0.5, 1.5, channels)
    mixed = decode_to_16k(audio_file(samples, rate, "WAV", "FLOAT"), "soxr")
    expected = decode_to_16k(audio_file(samples.mean(axis=1), rate, "WAV", "FLOAT"), "soxr")
    np.testing.assert_allclose(mixed, expected, atol=1)


SIZE = struct.Struct("<I")


@pytest.mark.parametrize(
    "fields",
    [
        # Sizes as ffmpeg, SoX and killed programs leave them, then wrong ones.
        {4: 0xFFFFFFFF, 40: 0xFFFFFFFF},
        {4: 0x7FFFFFFF, 40: 0x7FFFFFFF},
        {4: 0x7FFFF024, 40: 0x7FFFF000},
        {4: 0, 40: 0},
        {4: 36, 40: 0},
        {4: 0},
        {4: 12_345},
        {40: 32_044},
        {28: 0},
        {32: 0x100000},
        {32: 0x100007},
    ],
    ids=str,
)
def test_wav_with_wrong_sizes_is_read_completely(fields: dict[int, int]) -> None:
    encoded = bytearray(audio_file(recording(1.0)))
    for at, value in fields.items():
        SIZE.pack_into(encoded, at, value)
    np.testing.assert_array_equal(decode_to_16k(bytes(encoded), "soxr"), recording(1.0))


@pytest.mark.parametrize("channels", [1, 2, 8])
def test_flac_of_unknown_length_is_read(channels: int) -> None:
    encoded = by_ffmpeg("-ac", str(channels), "-f", "flac")
    assert len(decode_to_16k(encoded, "soxr")) == 9600


def test_vbr_mp3_without_header_is_read_completely() -> None:
    # libsndfile estimates the length from the first frames, which are small, and reads only a third.
    samples = np.concatenate([tone(48_000), noise(1.2, 48_000, seed=1)])
    encoded = by_ffmpeg("-q:a", "3", "-write_xing", "0", "-f", "mp3", samples=samples)
    assert 1.8 * 16_000 <= len(decode_to_16k(encoded, "soxr")) <= 1.9 * 16_000


@pytest.mark.parametrize("codec", ["libvorbis", "libopus"])
def test_chained_ogg_is_read_completely(codec: str) -> None:
    # RFC 3533, section 4: concatenated files are a valid file. libsndfile reads only the first.
    both = by_ffmpeg("-c:a", codec, "-f", "ogg") + by_ffmpeg("-c:a", codec, "-serial_offset", "7", "-f", "ogg")
    assert len(decode_to_16k(both, "soxr")) == pytest.approx(1.2 * 16_000, abs=200)


@pytest.mark.parametrize("kind", ["MP3 MPEG_LAYER_III", "ffmpeg vbr to file", "sox mp3"])
def test_mp3_tags_are_not_decoded(make: Callable[[str], bytes], kind: str) -> None:
    bare = make(kind)
    before = b"ID3\x04\0\0\0\0\x02\x00" + b"\0" * 256 if not bare.startswith(b"ID3") else b""
    after = b"APETAGEX" + b"\xff" * 300 + b"TAG" + b"title".ljust(125, b"\0")
    expected = decode_to_16k(bare, "soxr")
    assert len(decode_to_16k(before + bare + after, "soxr")) == pytest.approx(len(expected), abs=2 * 1152)


# Formats that record their length. A stream written to a pipe does not, nor does AAC without a container.
PROMISES = [
    *("WAV PCM_16", "WAV PCM_U8", "WAV DOUBLE", "AIFF PCM_16", "AU PCM_16", "NIST PCM_16", "FLAC PCM_16"),
    *("MP3 MPEG_LAYER_III", "OGG VORBIS", "OGG OPUS", "sox wav", "sox au", "sox sph", "sox flac", "sox ogg"),
    *("ffmpeg mp3 to file", "ffmpeg vbr to file", "ffmpeg opus", "ffmpeg flac in ogg", "ffmpeg m4a", "ffmpeg webm"),
]


@pytest.mark.parametrize("kind", PROMISES)
@pytest.mark.parametrize("share", [0.05, 0.5, 0.7])
def test_truncated_file_is_rejected(make: Callable[[str], bytes], kind: str, share: float) -> None:
    encoded = make(kind)
    error = decoding_error(encoded[: int(share * len(encoded))])
    assert error.reason == "truncated"
    assert str(error).startswith("the file is truncated")


@pytest.mark.parametrize("kind", ["WAV PCM_16", "AIFF PCM_16", "FLAC PCM_16", "OGG OPUS"])
def test_one_missing_byte_shortens_the_clip(make: Callable[[str], bytes], kind: str) -> None:
    samples, missing_seconds = audio.decode_to_16k(make(kind)[:-1], "soxr")
    assert 0 < missing_seconds < 0.1
    assert 0.5 * 16_000 < len(samples) <= 0.6 * 16_000


def test_a_tenth_of_a_second_is_the_limit() -> None:
    encoded = audio_file(recording(2.0))
    _, missing_seconds = audio.decode_to_16k(encoded[:-3200], "soxr")
    assert missing_seconds == 0.1
    assert str(decoding_error(encoded[:-3202])) == "the file is truncated by 3202 bytes"


def test_truncated_flac_stream_is_rejected(make: Callable[[str], bytes]) -> None:
    # Its header does not contain the number of samples; only the incomplete last frame shows the truncation.
    assert decoding_error(make("ffmpeg flac")[:-500]).reason == "unreadable"


@pytest.mark.parametrize(
    ("encoded", "reason"),
    [
        (b"", "empty"),
        (audio_file(np.zeros(0)), "empty"),
        (audio_file(np.zeros(0), subtype="FLOAT"), "empty"),
        (audio_file(np.full(1, 0.1), 48_000), "empty"),
        (b"\0" * 4096, "unreadable"),
        (b"<!doctype html><title>404</title>", "unreadable"),
        (b"RIFF", "truncated"),
        (b"ID3", "unreadable"),
        (audio_file(np.array([0.0, np.nan, 0.1]), subtype="FLOAT"), "unreadable"),
        (audio_file(np.array([3e38, -3e38] * 500), 48_000, subtype="FLOAT"), "unreadable"),
    ],
    ids=[
        *("nothing", "no samples", "no float samples", "less than a sample at 16 kHz", "zeros", "a web page"),
        *("half a header", "a tag alone", "not a number", "absurd numbers"),
    ],
)
def test_invalid_audio_is_rejected_with_a_reason(encoded: bytes, reason: str) -> None:
    assert decoding_error(encoded).reason == reason


@pytest.mark.parametrize("resampler", RESAMPLERS)
@pytest.mark.parametrize("samples", [2, 100])
def test_very_short_clip_is_decoded(resampler: str, samples: int) -> None:
    decoded = decode_to_16k(audio_file(np.full(samples, 0.1), 48_000), resampler)
    assert len(decoded) == pytest.approx(samples / 3, abs=1)


@pytest.mark.parametrize("name", ["clip.mp3", "clip.wav"])
def test_messages_of_all_decoders_are_deterministic(name: str) -> None:
    messages = {str(decoding_error(b"ID of nothing", name)) for _ in range(2)}
    assert len(messages) == 1
    libsndfile, ffmpeg, sox = messages.pop().split("; ")
    assert libsndfile.startswith("libsndfile: ")
    assert sox.startswith("sox: can't ")
    assert ffmpeg == "ffmpeg: Invalid data found when processing input"
    assert not any("/tmp" in part or "0x" in part for part in (libsndfile, sox, ffmpeg))


def test_decoder_programs_are_optional(
    make: Callable[[str], bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    m4a = make("ffmpeg m4a")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert str(decoding_error(m4a)).endswith("; ffmpeg: ffmpeg is not installed; sox: sox is not installed")


@pytest.mark.parametrize("script", ["ffconcat version 1.0\nfile other.wav\n", "#EXTM3U\n#EXTINF:1,\nother.wav\n"])
@pytest.mark.parametrize("name", ["a.m3u", "a.pls", "a.txt"])
def test_playlists_do_not_open_other_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, name: str
) -> None:
    (tmp_path / "other.wav").write_bytes(audio_file(recording(0.3)))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert decoding_error(script.encode(), name).reason == "unreadable"


# Files that libsndfile reads from memory, from a file descriptor, and files that the programs read.
STREAMED = [
    *("WAV PCM_16", "WAV MS_ADPCM", "FLAC PCM_24", "MP3 MPEG_LAYER_III", "ffmpeg vbr to file", "OGG VORBIS"),
    *("OGG OPUS", "AIFF FLOAT", "sox amr", "ffmpeg m4a", "ffmpeg webm"),
]


@pytest.mark.parametrize("kind", STREAMED)
def test_decoding_in_blocks_gives_the_same_samples(
    make: Callable[[str], bytes], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = decode_to_16k(make(kind), "soxr")
    monkeypatch.setattr(audio, "_BLOCK_SAMPLES", 1000)
    np.testing.assert_array_equal(decode_to_16k(make(kind), "soxr"), expected)


@pytest.mark.parametrize("resampler", RESAMPLERS)
@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
def test_mixing_and_resampling_do_not_depend_on_blocks(
    resampler: str, rate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = audio_file(np.stack([noise(0.5, rate, seed=i) for i in range(3)], axis=1), rate, subtype="PCM_24")
    expected = decode_to_16k(encoded, resampler)
    monkeypatch.setattr(audio, "_BLOCK_SAMPLES", 1000)
    np.testing.assert_array_equal(decode_to_16k(encoded, resampler), expected)


@given(st.integers(1_000, 200_000), st.integers(1, 5_000), st.integers(100, 5_000))
def test_blocks_of_any_size_match_a_single_soxr_call(rate: int, length: int, block: int) -> None:
    # Source: soxr.resample on all samples at once.
    samples = np.random.default_rng(rate).uniform(-1, 1, length).astype(np.float32)
    expected = soxr.resample(samples, rate, 16_000, quality="HQ")
    assume(len(expected) > 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audio, "_BLOCK_SAMPLES", block)
        decoded = decode_to_16k(audio_file(samples, rate, subtype="FLOAT"), "soxr")
    np.testing.assert_array_equal(decoded, np.rint(expected.clip(-1, 32767 / 32768) * 32768))


def test_invalid_samples_in_a_later_block_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio, "_BLOCK_SAMPLES", 1000)
    samples = noise(0.5, 48_000)
    samples[-10] = np.inf
    assert str(decoding_error(audio_file(samples, 48_000, subtype="FLOAT"))) == "some samples are not finite numbers"
    samples[-10:] = [3e38, -3e38] * 5
    assert "too large to be resampled" in str(decoding_error(audio_file(samples, 48_000, subtype="FLOAT")))


def test_flac_with_fewer_samples_than_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio, "_BLOCK_SAMPLES", 1000)
    encoded = bytearray(audio_file(recording(1.0), kind="FLAC"))
    # RFC 9639, section 8.2: the number of samples, 16,000 of them, ends at byte 26.
    encoded[23:26] = (18_000).to_bytes(3)
    error = decoding_error(bytes(encoded))
    assert str(error) == "the file is truncated or damaged: only 1.00 s of its 1.12 s can be read"
    assert error.reason == "truncated"


def test_small_file_with_excessive_length_is_rejected() -> None:
    # One second of silence, with 2**35 samples in its header.
    encoded = bytearray(audio_file(np.zeros(16_000), kind="FLAC"))
    encoded[21] |= 0x08
    assert str(decoding_error(bytes(encoded))) == "the file is longer than 6 hours"


@pytest.mark.parametrize("kind", ["WAV PCM_16", "ffmpeg m4a"])
def test_duration_limit_applies_to_every_decoder(
    make: Callable[[str], bytes], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audio, "_BLOCK_SAMPLES", 1000)
    monkeypatch.setattr(audio, "_MAX_HOURS", 0.9 / 3600)
    assert len(decode_to_16k(make(kind), "soxr")) >= 0.6 * 16_000
    monkeypatch.setattr(audio, "_MAX_HOURS", 0.5 / 3600)
    assert str(decoding_error(make(kind))).startswith("the file is longer than")


def test_unblocked_resamplers_have_a_lower_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio, "_MAX_UNBLOCKED_SAMPLES", 10_000)
    for rate, seconds in ((48_000, 0.21), (8_000, 0.63)):
        for resampler in ("sox", "torchaudio"):
            with pytest.raises(UnreadableAudioError, match=f"too long for {resampler}; set .* `resampler` to soxr"):
                decode_to_16k(audio_file(noise(seconds, rate), rate), resampler)
        assert len(decode_to_16k(audio_file(noise(seconds, rate), rate), "soxr")) == pytest.approx(seconds * 16_000)
    assert len(decode_to_16k(audio_file(recording(1.0)), "sox")) == 16_000


def replace_sox(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Put a shell script named `sox` on the path."""
    (folder / "sox").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "sox").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


def au_header(size: int) -> str:
    """Return a shell command that prints an AU header: 32-bit floats at 16 kHz, one channel, `size` bytes."""
    fields = struct.pack(">4s5I", b".snd", 24, size, 6, 16_000, 1)
    octal = "".join(f"\\{byte:03o}" for byte in fields)
    return f"printf '{octal}'"


def test_program_with_endless_audio_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio, "_MAX_HOURS", 1)
    replace_sox(tmp_path, monkeypatch, f"{au_header(0xFFFFFFFF)}; exec cat /dev/zero")
    assert str(decoding_error(b"not audio")) == "the file is longer than 1 hours"


@pytest.mark.parametrize("before", ["", au_header(0xFFFFFFFF)], ids=["before its header", "after its header"])
def test_hanging_program_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str) -> None:
    monkeypatch.setattr(audio, "_TIMEOUT_SECONDS", 0.2)
    replace_sox(tmp_path, monkeypatch, f"{before}\nexec tail -f /dev/null")
    assert "sox: takes longer than 0.2 seconds" in str(decoding_error(b"not audio"))


def test_program_with_endless_output_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_sox(tmp_path, monkeypatch, "exec yes")
    assert "sox: no samples" in str(decoding_error(b"not audio"))


def test_program_may_write_more_than_promised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_sox(tmp_path, monkeypatch, f"{au_header(4 * 100)}; head -c 1000000 /dev/zero")
    assert len(decode_to_16k(b"not audio", "soxr")) == 100


def test_killed_program_does_not_reject_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_sox(tmp_path, monkeypatch, "kill -KILL $$")
    with pytest.raises(SpeechmillError, match="sox was killed, perhaps because memory ran out"):
        decode_to_16k(b"not audio", "soxr")


@pytest.mark.parametrize("rate", [1, 100, 2_000_000_000])
def test_implausible_sampling_rate_is_rejected(rate: int) -> None:
    encoded = bytearray(audio_file(recording(0.1)))
    SIZE.pack_into(encoded, 24, rate)
    assert str(decoding_error(bytes(encoded))) == f"the sample rate of {rate} Hz is outside 1 kHz to 1 MHz"


SMALL = [
    *(audio_file(tone(16_000, 0.05), kind=kind) for kind in ("WAV", "AIFF", "AU", "FLAC", "NIST", "CAF")),
    *(audio_file(tone(48_000, 0.1), 48_000, kind, subtype) for kind, subtype in [("MP3", None), ("OGG", "OPUS")]),
]


@settings(max_examples=40)
@given(st.sampled_from(SMALL), st.data())
def test_damaged_files_raise_no_other_error(encoded: bytes, data: st.DataObject) -> None:
    damaged = bytearray(encoded)
    # Damage in the first bytes, the header, has the most effects.
    places = st.one_of(st.integers(0, 63), st.integers(0, len(encoded) - 1))
    for at, value in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), min_size=1, max_size=6)):
        damaged[at] = value
    cut = data.draw(st.one_of(st.just(len(encoded)), st.integers(1, len(encoded))))
    try:
        samples, missing_seconds = audio.decode_to_16k(bytes(damaged[:cut]), "soxr")
        assert len(samples) > 0
        assert 0 <= missing_seconds <= 0.1
    except UnreadableAudioError as error:
        assert error.reason in ("unreadable", "truncated", "empty")


def frames(*levels: float) -> NDArray[np.int16]:
    """Return a frame of 20 ms for each level, in dB of full scale."""
    wave = np.tile([1, -1], 160)
    return np.concatenate([np.rint(32768 * 10 ** (level / 20) * wave) for level in levels]).astype(np.int16)


def test_silence_is_the_share_of_frames_below_60_db() -> None:
    # The RMS of a square wave is its amplitude: 33 of 32768 is -59.9 dB, 32 is -60.2 dB.
    assert silent_share(frames(-59.9, -60.2, -20, -90)) == 0.5
    assert silent_share(np.concatenate([frames(-20), frames(-90)[:319]])) == 0.0
    assert silent_share(frames(-90)[:100]) == 1.0
    assert silent_share(frames(-20)[:1]) == 0.0


def test_loud_frames_do_not_overflow() -> None:
    # The sum of 320 squares of 32768 does not fit into 32 bits.
    assert silent_share(np.full(3200, -32768, dtype=np.int16)) == 0.0


def test_clipping_is_the_share_at_full_scale() -> None:
    samples = np.array([32767, -32767, -32768, 32766, -32766, 0, 1, -1], dtype=np.int16)
    assert clipped_share(samples) == 3 / 8


@given(st.lists(st.integers(-32768, 32767), min_size=1, max_size=2000))
def test_silence_and_clipping_are_shares(values: list[int]) -> None:
    samples = np.array(values, dtype=np.int16)
    assert 0 <= silent_share(samples) <= 1
    assert 0 <= clipped_share(samples) <= 1
