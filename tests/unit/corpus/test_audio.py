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
from speechmill.core.flac import decode_flac, encode_flac
from speechmill.corpus import audio
from speechmill.corpus.audio import UnreadableAudioError, clipping, decode_to_16k, silence, stored_flac

RESAMPLERS = ["soxr", "sox", "torchaudio"]


def band_limited(seconds: float, rate: int) -> NDArray[np.float64]:
    """White noise up to 80 % of what both `rate` and 16 kHz can carry: no resampler has an excuse."""
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
    """What `ffmpeg` makes of `samples` (a tone if not given), written to a pipe: it cannot go back to its header."""
    encoded = audio_file(tone(rate) if samples is None else samples, rate)
    command = ["ffmpeg", "-v", "error", "-f", "wav", "-i", "-", *options, "-"]
    return subprocess.run(command, input=encoded, capture_output=True, check=True).stdout


def by_ffmpeg_to_file(folder: Path, name: str, *options: str) -> bytes:
    (folder / "tone.wav").write_bytes(audio_file(tone(48_000), 48_000))
    command = ["ffmpeg", "-v", "error", "-y", "-i", folder / "tone.wav", *options, folder / name]
    subprocess.run(command, check=True)
    return (folder / name).read_bytes()


def by_sox(*options: str, samples: NDArray[Any] | None = None, rate: int = 44_100) -> bytes:
    """What `sox` makes of `samples` (a tone if not given), written to a pipe."""
    encoded = audio_file(tone(rate) if samples is None else samples, rate)
    command = ["sox", "-V1", "-t", "wav", "-", *options, "-"]
    return subprocess.run(command, input=encoded, capture_output=True, check=True).stdout


def refusal(encoded: bytes, name: str = "") -> UnreadableAudioError:
    """The error with which `encoded` is refused."""
    with pytest.raises(UnreadableAudioError) as caught:
        decode_to_16k(encoded, "soxr", name)
    return caught.value


def signal_to_difference(one: NDArray[Any], other: NDArray[Any]) -> float:
    """The energy of `one` over that of what `other` differs by, in dB."""
    assert len(one) == len(other)
    difference = one.astype(np.float64) - other
    return float(10 * np.log10(np.square(one.astype(np.float64)).sum() / np.square(difference).sum()))


# Measured, the worst of all pairs: 78 dB (8 kHz), 67 dB (44.1 kHz), 71 dB (48 kHz) where the band is limited; 51, 60
# and 60 dB on noise like speech, which has something left where the filters' edges differ. torchaudio's default
# filter comes to 34 dB, as does a shift by a fraction of a sample: both are below.
@pytest.mark.parametrize("rate", [8_000, 44_100, 48_000])
@pytest.mark.parametrize(("make", "least"), [(band_limited, 60), (noise, 45)], ids=["band-limited", "speech-like"])
def test_resamplers_agree(rate: int, make: Any, least: float) -> None:
    encoded = audio_file(make(1.5, rate), rate)
    resampled = [decode_to_16k(encoded, resampler) for resampler in RESAMPLERS]
    for one, other in itertools.combinations(resampled, 2):
        assert signal_to_difference(one, other) > least


@pytest.mark.parametrize("resampler", RESAMPLERS)
@pytest.mark.parametrize("rate", [8_000, 44_100, 48_000])
def test_a_tone_stays_the_tone_that_it_is(resampler: str, rate: int) -> None:
    # Against mathematics, not against each other: 1 kHz sampled at 16 kHz.
    tone = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(rate) / rate)
    resampled = decode_to_16k(audio_file(tone, rate), resampler)
    expected = 0.5 * 32768 * np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000)
    middle = slice(1000, -1000)  # filters need something on both sides
    assert signal_to_difference(expected[middle], resampled[middle]) > 60


@pytest.mark.parametrize("resampler", RESAMPLERS)
def test_what_16_khz_cannot_carry_is_filtered_out(resampler: str) -> None:
    # Taken without a filter, 12 kHz would sound as 4 kHz.
    tone = 0.5 * np.sin(2 * np.pi * 12_000 * np.arange(48_000) / 48_000)
    resampled = decode_to_16k(audio_file(tone, 48_000), resampler)
    assert np.abs(resampled[1000:-1000]).max() < 0.5 * 32768 / 1000


@pytest.mark.parametrize("resampler", RESAMPLERS)
@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_a_clip_keeps_its_duration(resampler: str, rate: int) -> None:
    assert abs(len(decode_to_16k(audio_file(noise(1.0, rate), rate), resampler)) - 16_000) <= 1


@pytest.mark.parametrize("resampler", RESAMPLERS)
def test_the_same_file_gives_the_same_samples_each_time(resampler: str) -> None:
    encoded = audio_file(noise(0.5, 44_100), 44_100)
    assert encode_flac(decode_to_16k(encoded, resampler)) == encode_flac(decode_to_16k(encoded, resampler))


@pytest.mark.parametrize("resampler", RESAMPLERS)
@pytest.mark.parametrize("kind", ["WAV", "FLAC"])
def test_16_khz_passes_through_bit_by_bit(resampler: str, kind: str) -> None:
    samples = np.concatenate([recording(0.5), np.array([32767, -32768, 0, 1, -1], dtype=np.int16)])
    np.testing.assert_array_equal(decode_to_16k(audio_file(samples, kind=kind), resampler), samples)


def test_channels_are_mixed_by_their_mean() -> None:
    left, right = recording(0.3, seed=1), recording(0.3, seed=2)
    mixed = decode_to_16k(audio_file(np.stack([left, right], axis=1)), "soxr")
    np.testing.assert_allclose(mixed, (left.astype(float) + right) / 2, atol=0.5)


def test_louder_than_full_scale_is_clipped_and_does_not_wrap_around() -> None:
    loud = decode_to_16k(audio_file(np.array([1.5, -1.5, 0.25]), subtype="FLOAT"), "soxr")
    assert loud.tolist() == [32767, -32768, 8192]


def test_flac_keeps_every_sample() -> None:
    samples = np.random.default_rng(3).integers(-32768, 32768, size=20_000).astype(np.int16)
    np.testing.assert_array_equal(decode_flac(encode_flac(samples)), samples)


def test_flac_says_what_it_is() -> None:
    # RFC 9639, section 6: the marker fLaC.
    assert encode_flac(recording(0.1))[:4] == b"fLaC"


def test_a_file_that_is_16_khz_flac_already_keeps_its_frames_and_loses_its_tags(tmp_path: Path) -> None:
    samples = recording(0.5)
    sf.write(tmp_path / "plain.wav", samples, 16_000)
    command = ["ffmpeg", "-v", "error", "-i", tmp_path / "plain.wav", "-metadata", "title=secret", tmp_path / "a.flac"]
    subprocess.run(command, check=True)
    original = (tmp_path / "a.flac").read_bytes()
    stored = stored_flac(decode_to_16k(original, "soxr"), original)
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
def test_all_other_files_are_encoded_anew(original: bytes) -> None:
    samples = decode_to_16k(original, "soxr")
    assert stored_flac(samples, original) == encode_flac(samples)


def test_pysox_says_nothing(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    decode_to_16k(audio_file(noise(0.2, 48_000), 48_000), "sox")
    assert capfd.readouterr() == ("", "")
    assert caplog.messages == []


# Both channels as loud as the one that they come from.
STEREO = ["-ar", "22050", "-af", "pan=stereo|c0=c0|c1=c0"]

# Each kind of file, with the writers that published corpora were made with.
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
    """A file of each of KINDS, by its name."""
    folder = tmp_path_factory.mktemp("kinds")
    return cache(lambda kind: KINDS[kind](folder))


@pytest.mark.parametrize("kind", KINDS)
def test_a_tone_is_the_same_tone_in_every_kind_of_file(make: Callable[[str], bytes], kind: str) -> None:
    decoded = decode_to_16k(make(kind), "soxr")
    # What codecs add: the encoder's delay, and the rest of the last frame.
    assert 0.6 * 16_000 - 1 <= len(decoded) < 0.73 * 16_000
    middle = decoded[3200:8000]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    assert np.argmax(spectrum) * 16_000 / len(middle) == pytest.approx(1000, abs=4)
    decibels = 20 * np.log10(np.sqrt(np.mean(np.square(middle / 32768))) / (0.25 / np.sqrt(2)))
    assert decibels == pytest.approx(0, abs=1)


@pytest.mark.parametrize("kind", ["WAV PCM_16", "OGG OPUS", "ffmpeg m4a", "ffmpeg flac"])
def test_the_content_decides_and_not_the_name(make: Callable[[str], bytes], kind: str) -> None:
    expected = decode_to_16k(make(kind), "soxr")
    for name in ("clip.mp3", "clip.gsm", "clip.m3u", "clip", "../$(rm x).wav", "-x"):
        np.testing.assert_array_equal(decode_to_16k(make(kind), "soxr", name), expected)


def test_the_name_helps_where_the_content_says_nothing() -> None:
    encoded = by_sox("-r", "8000", "-t", "ul")
    assert refusal(encoded).reason == "unreadable"
    assert len(decode_to_16k(encoded, "soxr", "call.UL")) == 9600


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 32_000, 96_000, 192_000])
@pytest.mark.parametrize("channels", [1, 2, 3, 16])
def test_any_rate_and_number_of_channels(rate: int, channels: int) -> None:
    samples = tone(rate, 0.2)[:, np.newaxis] * np.linspace(0.5, 1.5, channels)
    mixed = decode_to_16k(audio_file(samples, rate, "WAV", "FLOAT"), "soxr")
    expected = decode_to_16k(audio_file(samples.mean(axis=1), rate, "WAV", "FLOAT"), "soxr")
    np.testing.assert_allclose(mixed, expected, atol=1)


SIZE = struct.Struct("<I")


@pytest.mark.parametrize(
    "fields",
    [
        # As ffmpeg, SoX and programs that were killed leave the sizes; then what is simply wrong.
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
def test_a_wav_whose_header_lies_is_read_to_its_end(fields: dict[int, int]) -> None:
    encoded = bytearray(audio_file(recording(1.0)))
    for at, value in fields.items():
        SIZE.pack_into(encoded, at, value)
    np.testing.assert_array_equal(decode_to_16k(bytes(encoded), "soxr"), recording(1.0))


def test_a_vbr_mp3_without_a_header_is_read_to_its_end() -> None:
    # libsndfile takes its first frames, which are small, for all, and its length for a third of what it is.
    samples = np.concatenate([tone(48_000), noise(1.2, 48_000, seed=1)])
    encoded = by_ffmpeg("-q:a", "3", "-write_xing", "0", "-f", "mp3", samples=samples)
    assert 1.8 * 16_000 <= len(decode_to_16k(encoded, "soxr")) <= 1.9 * 16_000


@pytest.mark.parametrize("codec", ["libvorbis", "libopus"])
def test_chained_ogg_is_read_to_its_end(codec: str) -> None:
    # RFC 3533, section 4: files one after the other are a file. libsndfile reads the first.
    both = by_ffmpeg("-c:a", codec, "-f", "ogg") + by_ffmpeg("-c:a", codec, "-serial_offset", "7", "-f", "ogg")
    assert len(decode_to_16k(both, "soxr")) == pytest.approx(1.2 * 16_000, abs=200)


@pytest.mark.parametrize("kind", ["MP3 MPEG_LAYER_III", "ffmpeg vbr to file", "sox mp3"])
def test_tags_around_an_mp3_are_not_audio(make: Callable[[str], bytes], kind: str) -> None:
    bare = make(kind)
    before = b"ID3\x04\0\0\0\0\x02\x00" + b"\0" * 256 if not bare.startswith(b"ID3") else b""
    after = b"APETAGEX" + b"\xff" * 300 + b"TAG" + b"title".ljust(125, b"\0")
    whole = decode_to_16k(bare, "soxr")
    assert len(decode_to_16k(before + bare + after, "soxr")) == pytest.approx(len(whole), abs=2 * 1152)


# What promises its length. A stream that a program wrote to a pipe does not, nor does AAC without a container.
PROMISES = [
    *("WAV PCM_16", "WAV PCM_U8", "WAV DOUBLE", "AIFF PCM_16", "AU PCM_16", "NIST PCM_16", "FLAC PCM_16"),
    *("MP3 MPEG_LAYER_III", "OGG VORBIS", "OGG OPUS", "sox wav", "sox au", "sox sph", "sox flac", "sox ogg"),
    *("ffmpeg mp3 to file", "ffmpeg vbr to file", "ffmpeg opus", "ffmpeg flac in ogg", "ffmpeg m4a", "ffmpeg webm"),
]


@pytest.mark.parametrize("kind", PROMISES)
@pytest.mark.parametrize("share", [0.05, 0.5, 0.98])
def test_a_file_that_is_cut_short_is_refused_and_not_rescued(
    make: Callable[[str], bytes], kind: str, share: float
) -> None:
    encoded = make(kind)
    error = refusal(encoded[: int(share * len(encoded))])
    assert error.reason == "truncated"
    assert str(error).startswith("the file is cut short")


@pytest.mark.parametrize("kind", ["WAV PCM_16", "AIFF PCM_16", "FLAC PCM_16", "OGG OPUS", "ffmpeg m4a"])
def test_a_single_byte_that_is_missing_counts(make: Callable[[str], bytes], kind: str) -> None:
    assert refusal(make(kind)[:-1]).reason == "truncated"


def test_a_flac_stream_that_breaks_off_is_refused(make: Callable[[str], bytes]) -> None:
    # Its header does not say how many samples there are, so that only a broken frame tells.
    assert refusal(make("ffmpeg flac")[:-500]).reason == "unreadable"


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
def test_what_holds_no_audio_is_refused_with_its_reason(encoded: bytes, reason: str) -> None:
    assert refusal(encoded).reason == reason


@pytest.mark.parametrize("resampler", RESAMPLERS)
@pytest.mark.parametrize("samples", [2, 100])
def test_a_clip_of_next_to_nothing_has_a_sample(resampler: str, samples: int) -> None:
    decoded = decode_to_16k(audio_file(np.full(samples, 0.1), 48_000), resampler)
    assert len(decoded) == pytest.approx(samples / 3, abs=1)


@pytest.mark.parametrize("name", ["clip.mp3", "clip.wav"])
def test_the_reasons_of_all_decoders_are_given_and_are_the_same_each_time(name: str) -> None:
    said = {str(refusal(b"ID of nothing", name)) for _ in range(2)}
    assert len(said) == 1
    libsndfile, sox, ffmpeg = said.pop().split("; ")
    assert libsndfile.startswith("libsndfile: ")
    assert sox.startswith("sox: can't ")
    assert ffmpeg == "ffmpeg: Invalid data found when processing input"
    assert not any("/tmp" in part or "0x" in part for part in (libsndfile, sox, ffmpeg))


def test_ffmpeg_need_not_be_installed(
    make: Callable[[str], bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    m4a = make("ffmpeg m4a")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert str(refusal(m4a)).endswith("; sox: sox is not installed; ffmpeg: ffmpeg is not installed")


@pytest.mark.parametrize("script", ["ffconcat version 1.0\nfile other.wav\n", "#EXTM3U\n#EXTINF:1,\nother.wav\n"])
@pytest.mark.parametrize("name", ["a.m3u", "a.pls", "a.txt"])
def test_no_other_file_is_opened_for_a_script_that_asks_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, name: str
) -> None:
    (tmp_path / "other.wav").write_bytes(audio_file(recording(0.3)))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert refusal(script.encode(), name).reason == "unreadable"


# Files that libsndfile reads from memory and from a descriptor, and what the programs read.
STREAMED = [
    *("WAV PCM_16", "WAV MS_ADPCM", "FLAC PCM_24", "MP3 MPEG_LAYER_III", "ffmpeg vbr to file", "OGG VORBIS"),
    *("OGG OPUS", "AIFF FLOAT", "sox amr", "ffmpeg m4a", "ffmpeg webm"),
]


@pytest.mark.parametrize("kind", STREAMED)
def test_a_recording_of_many_blocks_is_the_one_that_it_is_in_one(
    make: Callable[[str], bytes], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = decode_to_16k(make(kind), "soxr")
    monkeypatch.setattr(audio, "_BLOCK", 1000)
    np.testing.assert_array_equal(decode_to_16k(make(kind), "soxr"), whole)


@pytest.mark.parametrize("resampler", RESAMPLERS)
@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
def test_channels_are_mixed_and_resampled_block_by_block_as_at_once(
    resampler: str, rate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = audio_file(np.stack([noise(0.5, rate, seed=i) for i in range(3)], axis=1), rate, subtype="PCM_24")
    whole = decode_to_16k(encoded, resampler)
    monkeypatch.setattr(audio, "_BLOCK", 1000)
    np.testing.assert_array_equal(decode_to_16k(encoded, resampler), whole)


@given(st.integers(1_000, 200_000), st.integers(1, 5_000), st.integers(100, 5_000))
def test_blocks_of_any_size_are_resampled_as_soxr_does_it_in_one_call(rate: int, length: int, block: int) -> None:
    # Source: soxr.resample, on the samples as a whole.
    samples = np.random.default_rng(rate).uniform(-1, 1, length).astype(np.float32)
    expected = soxr.resample(samples, rate, 16_000, quality="HQ")
    assume(len(expected) > 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audio, "_BLOCK", block)
        decoded = decode_to_16k(audio_file(samples, rate, subtype="FLOAT"), "soxr")
    np.testing.assert_array_equal(decoded, np.rint(expected.clip(-1, 32767 / 32768) * 32768))


def test_what_is_wrong_with_a_late_block_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio, "_BLOCK", 1000)
    samples = noise(0.5, 48_000)
    samples[-10] = np.inf
    assert str(refusal(audio_file(samples, 48_000, subtype="FLOAT"))) == "the samples are not all finite numbers"
    samples[-10:] = [3e38, -3e38] * 5
    assert "too large to be resampled" in str(refusal(audio_file(samples, 48_000, subtype="FLOAT")))


def test_a_header_that_promises_more_blocks_than_come_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio, "_BLOCK", 1000)
    encoded = bytearray(audio_file(recording(1.0), kind="FLAC"))
    # RFC 9639, section 8.2: the number of samples, 16,000 of them, ends at byte 26.
    encoded[23:26] = (17_000).to_bytes(3)
    error = refusal(bytes(encoded))
    assert str(error) == "the file is cut short or damaged: 16000 of its 17000 samples can be read"
    assert error.reason == "truncated"


def test_a_small_file_that_expands_without_end_is_refused() -> None:
    # A second of silence, whose header says that there are 2**35 samples.
    encoded = bytearray(audio_file(np.zeros(16_000), kind="FLAC"))
    encoded[21] |= 0x08
    assert str(refusal(bytes(encoded))) == "the file holds more than 6 hours"


@pytest.mark.parametrize("kind", ["WAV PCM_16", "ffmpeg m4a"])
def test_six_hours_are_the_most_whatever_reads_them(
    make: Callable[[str], bytes], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audio, "_BLOCK", 1000)
    monkeypatch.setattr(audio, "_MOST_HOURS", 0.9 / 3600)
    assert len(decode_to_16k(make(kind), "soxr")) >= 0.6 * 16_000
    monkeypatch.setattr(audio, "_MOST_HOURS", 0.5 / 3600)
    assert str(refusal(make(kind))).startswith("the file holds more than")


def test_what_cannot_resample_by_blocks_takes_less_and_says_what_takes_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio, "_MOST_AT_ONCE", 10_000)
    for rate, seconds in ((48_000, 0.21), (8_000, 0.63)):
        for resampler in ("sox", "torchaudio"):
            with pytest.raises(UnreadableAudioError, match=f"too long for {resampler}; .* `resampler` may be soxr"):
                decode_to_16k(audio_file(noise(seconds, rate), rate), resampler)
        assert len(decode_to_16k(audio_file(noise(seconds, rate), rate), "soxr")) == pytest.approx(seconds * 16_000)
    assert len(decode_to_16k(audio_file(recording(1.0)), "sox")) == 16_000


def instead_of_sox(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    (folder / "sox").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "sox").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


def au_header(size: int) -> str:
    """What prints the header of an AU file: 32-bit floats at 16 kHz in one channel, `size` bytes of them."""
    fields = struct.pack(">4s5I", b".snd", 24, size, 6, 16_000, 1)
    octal = "".join(f"\\{byte:03o}" for byte in fields)
    return f"printf '{octal}'"


def test_a_program_that_gives_without_end_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio, "_MOST_HOURS", 1)
    instead_of_sox(tmp_path, monkeypatch, f"{au_header(0xFFFFFFFF)}; exec cat /dev/zero")
    assert str(refusal(b"not audio")) == "the file holds more than 1 hours"


@pytest.mark.parametrize("before", ["", au_header(0xFFFFFFFF)], ids=["before its header", "behind its header"])
def test_a_program_that_hangs_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str) -> None:
    monkeypatch.setattr(audio, "_MOST_SECONDS", 0.2)
    instead_of_sox(tmp_path, monkeypatch, f"{before}\nexec tail -f /dev/null")
    assert "sox: takes longer than 0.2 seconds; " in str(refusal(b"not audio"))


def test_a_program_that_gives_no_audio_without_end_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    instead_of_sox(tmp_path, monkeypatch, "exec yes")
    assert "sox: no samples; " in str(refusal(b"not audio"))


def test_a_program_may_give_more_than_its_header_promised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    instead_of_sox(tmp_path, monkeypatch, f"{au_header(4 * 100)}; head -c 1000000 /dev/zero")
    assert len(decode_to_16k(b"not audio", "soxr")) == 100


def test_a_program_that_is_killed_from_without_says_nothing_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    instead_of_sox(tmp_path, monkeypatch, "kill -KILL $$")
    with pytest.raises(SpeechmillError, match="sox was killed, perhaps for want of memory"):
        decode_to_16k(b"not audio", "soxr")


@pytest.mark.parametrize("rate", [1, 100, 2_000_000_000])
def test_a_rate_that_nobody_records_at_is_refused(rate: int) -> None:
    encoded = bytearray(audio_file(recording(0.1)))
    SIZE.pack_into(encoded, 24, rate)
    assert str(refusal(bytes(encoded))) == f"a sample rate of {rate} Hz is none of audio"


SMALL = [
    *(audio_file(tone(16_000, 0.05), kind=kind) for kind in ("WAV", "AIFF", "AU", "FLAC", "NIST", "CAF")),
    *(audio_file(tone(48_000, 0.1), 48_000, kind, subtype) for kind, subtype in [("MP3", None), ("OGG", "OPUS")]),
]


@settings(max_examples=40)
@given(st.sampled_from(SMALL), st.data())
def test_damage_never_ends_in_another_error(encoded: bytes, data: st.DataObject) -> None:
    damaged = bytearray(encoded)
    # Most of what matters is in the first bytes.
    places = st.one_of(st.integers(0, 63), st.integers(0, len(encoded) - 1))
    for at, value in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), min_size=1, max_size=6)):
        damaged[at] = value
    cut = data.draw(st.one_of(st.just(len(encoded)), st.integers(1, len(encoded))))
    try:
        assert len(decode_to_16k(bytes(damaged[:cut]), "soxr")) > 0
    except UnreadableAudioError as error:
        assert error.reason in ("unreadable", "truncated", "empty")


def frames(*levels: float) -> NDArray[np.int16]:
    """A frame of 20 ms for each level, in dB of full scale."""
    wave = np.tile([1, -1], 160)
    return np.concatenate([np.rint(32768 * 10 ** (level / 20) * wave) for level in levels]).astype(np.int16)


def test_silence_is_the_share_of_frames_below_60_db() -> None:
    # A square wave's RMS is its level: 33 of 32768 is -59.9 dB, 32 is -60.2 dB.
    assert silence(frames(-59.9, -60.2, -20, -90)) == 0.5
    assert silence(np.concatenate([frames(-20), frames(-90)[:319]])) == 0.0
    assert silence(frames(-90)[:100]) == 1.0
    assert silence(frames(-20)[:1]) == 0.0


def test_loud_frames_are_not_taken_for_silent() -> None:
    # 320 squares of 32768 are more than 32 bits hold.
    assert silence(np.full(3200, -32768, dtype=np.int16)) == 0.0


def test_clipping_is_the_share_of_samples_at_full_scale() -> None:
    samples = np.array([32767, -32767, -32768, 32766, -32766, 0, 1, -1], dtype=np.int16)
    assert clipping(samples) == 3 / 8


@given(st.lists(st.integers(-32768, 32767), min_size=1, max_size=2000))
def test_what_is_measured_is_a_share(values: list[int]) -> None:
    samples = np.array(values, dtype=np.int16)
    assert 0 <= silence(samples) <= 1
    assert 0 <= clipping(samples) <= 1
