import itertools
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from material import audio_file, noise, recording
from speechmill.audio import UnreadableAudioError, decode_flac, decode_to_16k, encode_flac

RESAMPLERS = ["soxr", "sox", "torchaudio"]


def band_limited(seconds: float, rate: int) -> NDArray[np.float64]:
    """White noise up to 80 % of what both `rate` and 16 kHz can carry: no resampler has an excuse."""
    n = round(seconds * rate)
    hertz = np.fft.rfftfreq(n, 1 / rate)
    spectrum = np.fft.rfft(np.random.default_rng(5).standard_normal(n))
    spectrum[(hertz < 50) | (hertz > 0.4 * min(rate, 16_000))] = 0
    samples = np.fft.irfft(spectrum, n)
    return np.asarray(0.3 * samples / np.abs(samples).max())


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


@pytest.mark.parametrize(
    ("kind", "subtype", "least"),
    [("OGG", "VORBIS", 10), ("MP3", "MPEG_LAYER_III", 10), ("AIFF", "PCM_16", 60), ("WAV", "ULAW", 20)],
)
def test_formats_of_published_corpora_are_decoded(kind: str, subtype: str, least: float) -> None:
    samples = noise(1.0)
    decoded = decode_to_16k(audio_file(samples, kind=kind, subtype=subtype), "soxr")
    assert len(decoded) == pytest.approx(16_000, abs=16)
    assert signal_to_difference(32768 * samples[:15_900], decoded[:15_900]) > least


def test_flac_keeps_every_sample() -> None:
    samples = np.random.default_rng(3).integers(-32768, 32768, size=20_000).astype(np.int16)
    np.testing.assert_array_equal(decode_flac(encode_flac(samples)), samples)


def test_flac_says_what_it_is() -> None:
    # RFC 9639, section 6: the marker fLaC.
    assert encode_flac(recording(0.1))[:4] == b"fLaC"


WHOLE = {
    "WAV": audio_file(noise(1.0)),
    "44.1 kHz WAV": audio_file(noise(1.0, 44_100), 44_100),
    "float WAV": audio_file(noise(1.0), subtype="FLOAT"),
    "FLAC": audio_file(noise(1.0), kind="FLAC"),
}


@pytest.mark.parametrize("kind", WHOLE)
@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_a_file_that_is_cut_short_is_unreadable(kind: str, share: float) -> None:
    encoded = WHOLE[kind]
    with pytest.raises(UnreadableAudioError):
        decode_to_16k(encoded[: int(share * len(encoded))], "soxr")


@pytest.mark.parametrize(
    "encoded",
    [b"", b"\0" * 4096, b"<!doctype html><title>404</title>", audio_file(np.zeros(0)), b"RIFF", b"ID3"],
    ids=["nothing", "zeros", "a web page", "no samples", "half a header", "a tag alone"],
)
def test_what_is_not_audio_is_unreadable(encoded: bytes) -> None:
    with pytest.raises(UnreadableAudioError):
        decode_to_16k(encoded, "soxr")


def test_samples_that_are_not_numbers_are_unreadable() -> None:
    with pytest.raises(UnreadableAudioError, match="finite"):
        decode_to_16k(audio_file(np.array([0.0, np.nan, 0.1]), subtype="FLOAT"), "soxr")


@pytest.mark.parametrize("promised", [0xFFFFFFFF, 0x7FFFFFFF], ids=["ffmpeg", "sox"])
def test_a_wav_that_was_written_to_a_pipe_is_whole(promised: int) -> None:
    # A program that cannot go back to the header promises the most that fits into it.
    encoded = bytearray(WHOLE["WAV"])
    encoded[4:8] = encoded[40:44] = promised.to_bytes(4, "little")
    assert len(decode_to_16k(bytes(encoded), "soxr")) == 16_000


@pytest.mark.parametrize("resampler", RESAMPLERS)
@pytest.mark.parametrize("samples", [1, 2, 100])
def test_a_clip_of_next_to_nothing_has_a_sample_or_is_unreadable(resampler: str, samples: int) -> None:
    try:
        assert len(decode_to_16k(audio_file(np.full(samples, 0.1), 48_000), resampler)) == pytest.approx(
            samples / 3, abs=1
        )
    except UnreadableAudioError as error:
        assert samples == 1
        assert "shorter than a sample" in str(error)


def test_the_reason_is_the_same_each_time() -> None:
    reasons = set()
    for _ in range(3):
        with pytest.raises(UnreadableAudioError) as caught:
            decode_to_16k(b"not audio", "soxr")
        reasons.add(str(caught.value))
    assert reasons == {"Format not recognised."}
