import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from material import recording, store
from speechmill.config.robustness import DEFAULT_EFFECTS, Effect
from speechmill.core.command import SpeechmillError
from speechmill.core.files import read_json, write_json
from speechmill.core.flac import Int16Samples, decode_flac
from speechmill.core.schemas import CLIPS, clip_schema
from speechmill.core.tables import clips_digest, read_table, write_in_row_groups, write_table
from speechmill.inference import perturb as perturb_module
from speechmill.inference.perturb import active_power, apply_effect, perturb
from speechmill.model.clip_reader import ClipReader

FULL_SCALE = np.where(np.random.default_rng(0).random(16_000) < 0.5, -32768, 32767).astype(np.int16)
STATIONARY = np.asarray(np.random.default_rng(1).standard_normal(48_000) * 1000, dtype=np.int16)
Stored = tuple[list[dict[str, Any]], list[Path]]
TEMPO = {"tempo_slow": 0.85, "tempo_fast": 1.2}


def share_of_power(samples: Int16Samples, low: float, high: float) -> float:
    """The share of the power of a clip between two frequencies in Hz, in dB."""
    power = np.abs(np.fft.rfft(samples * np.hanning(len(samples)))) ** 2
    hertz = np.fft.rfftfreq(len(samples), 1 / 16_000)
    return float(10 * np.log10(power[(hertz >= low) & (hertz < high)].sum() / power.sum()))


def decibels(ratio: float) -> float:
    return float(10 * np.log10(ratio))


def power(samples: Any) -> float:
    return float(np.square(samples, dtype=np.float64).mean())


@pytest.mark.parametrize("name", DEFAULT_EFFECTS)
@pytest.mark.parametrize(
    "clip",
    [
        pytest.param(recording(0.05), id="50 ms"),
        pytest.param(recording(0.01), id="10 ms"),
        pytest.param(np.array([1000], dtype=np.int16), id="1 sample"),
        pytest.param(np.zeros(1600, dtype=np.int16), id="silence"),
        pytest.param(FULL_SCALE, id="full scale"),
    ],
)
def test_only_tempo_changes_length(name: str, clip: Int16Samples) -> None:
    out = apply_effect(clip, DEFAULT_EFFECTS[name], "clip")
    assert out.dtype == np.int16
    # Resampling from 8 kHz back to 16 kHz adds a sample to a clip of odd length.
    assert 0 <= len(out) - max(1, round(len(clip) / TEMPO.get(name, 1))) <= (name == "telephone")
    assert out.any() or not clip.any() or len(clip) == 1


@pytest.mark.parametrize("codec", ["gsm", "mp3_16k"])
@given(num_samples=st.integers(1, 4000))
@settings(max_examples=12, deadline=None)
def test_codec_preserves_length(codec: str, num_samples: int) -> None:
    assert len(apply_effect(recording(0.25)[:num_samples], DEFAULT_EFFECTS[codec], "clip")) == num_samples


@pytest.mark.parametrize("name", ["telephone", "gsm", "mp3_16k", "quiet", "clipped", "noise_20db"])
def test_effects_preserve_timing(name: str) -> None:
    click = np.zeros(16_000, dtype=np.int16)
    click[-400:-360] = np.resize([12_000] * 4 + [-12_000] * 4, 40)
    out = apply_effect(click, DEFAULT_EFFECTS[name], "clip").astype(float)
    position = np.correlate(np.abs(out), np.abs(click[-400:-360].astype(float)), "valid").argmax()
    assert abs(position - (16_000 - 400)) <= 16


@pytest.mark.parametrize("snr", [20, 10, 0, -5])
def test_noise_has_requested_snr(snr: float) -> None:
    mixed = apply_effect(STATIONARY, Effect(noise_snr_db=snr), "clip")
    assert decibels(power(STATIONARY) / power(mixed - STATIONARY.astype(float))) == pytest.approx(snr, abs=0.05)


def test_snr_ignores_silence() -> None:
    pauses = np.concatenate([np.zeros(16_000, np.int16), STATIONARY, np.zeros(32_000, np.int16)])
    # Background noise 60 dB below the speech.
    pauses[:16_000:2] = 1
    assert decibels(active_power(pauses) / power(STATIONARY)) == pytest.approx(0, abs=0.05)
    noise = apply_effect(pauses, Effect(noise_snr_db=10), "clip") - pauses.astype(float)
    assert decibels(power(STATIONARY) / power(noise)) == pytest.approx(10, abs=0.05)
    # The added noise is as loud in the pauses as in the speech.
    assert decibels(power(noise[-32_000:]) / power(noise[16_000:64_000])) == pytest.approx(0, abs=0.5)


def test_mix_is_attenuated_to_full_scale() -> None:
    mixed = apply_effect(FULL_SCALE, Effect(noise_snr_db=0), "clip").astype(float)
    clean = FULL_SCALE.astype(float)
    gain = (mixed @ clean) / (clean @ clean)
    assert np.abs(mixed).max() <= 32767
    assert decibels(power(gain * clean) / power(mixed - gain * clean)) == pytest.approx(0, abs=0.2)


def test_noise_is_pink() -> None:
    noise = apply_effect(STATIONARY, Effect(noise_snr_db=-20), "clip") - STATIONARY.astype(float)
    # Pink noise has equal power in each octave.
    octaves = [share_of_power(noise, low, 2 * low) for low in (125, 250, 500, 1000, 2000, 4000)]
    assert max(octaves) - min(octaves) < 2
    assert share_of_power(noise, 0, 30) < -15


def test_clips_have_different_noise() -> None:
    ten = Effect(noise_snr_db=10)
    first, again, other = (apply_effect(STATIONARY, ten, name) for name in ("a", "a", "b"))
    np.testing.assert_array_equal(first, again)
    noises = [mixed - STATIONARY.astype(float) for mixed in (first, other)]
    assert abs(np.corrcoef(noises)[0, 1]) < 0.2


def test_noise_repeats_for_long_clips() -> None:
    long = np.resize(STATIONARY, 130 * 16_000)
    noise = apply_effect(long, Effect(noise_snr_db=10), "clip") - long.astype(float)
    levels = [decibels(power(part)) for part in np.split(noise, 13)]
    assert max(levels) - min(levels) < 1.5


def test_telephone_is_band_limited() -> None:
    assert share_of_power(STATIONARY, 3600, 8001) > -3
    out = apply_effect(STATIONARY, DEFAULT_EFFECTS["telephone"], "clip")
    assert share_of_power(out, 3600, 8001) < -50
    assert share_of_power(out, 0, 200) < -50
    assert share_of_power(out, 300, 3400) > -0.5


@pytest.mark.parametrize(("name", "cutoff_hertz"), [("gsm", 4100), ("mp3_16k", 8000)])
def test_codec_changes_audio(name: str, cutoff_hertz: float) -> None:
    out = apply_effect(STATIONARY, DEFAULT_EFFECTS[name], "clip")
    similarity = np.corrcoef(out.astype(float), STATIONARY.astype(float))[0, 1]
    assert 0.2 < similarity < 0.9
    assert cutoff_hertz == 8000 or share_of_power(out, cutoff_hertz, 8001) < -30


def test_quiet_and_clipped_levels() -> None:
    quiet = apply_effect(STATIONARY, DEFAULT_EFFECTS["quiet"], "clip")
    assert decibels(power(quiet) / power(STATIONARY)) == pytest.approx(-20, abs=0.1)
    clipped = apply_effect(STATIONARY * 5, DEFAULT_EFFECTS["clipped"], "clip")
    assert np.mean(np.abs(clipped.astype(int)) >= 32767) > 0.3


def test_reverberation_stays_within_clip() -> None:
    word = np.concatenate([STATIONARY[:8000], np.zeros(8000, np.int16)])
    out = apply_effect(word, DEFAULT_EFFECTS["reverberation"], "clip")
    assert len(out) == len(word)
    after = power(out[8800:12_000])
    assert -40 < decibels(after / power(out[:8000])) < -3
    assert power(out[13_000:]) < after


def test_sox_error_is_reported() -> None:
    with pytest.raises(SpeechmillError, match=r"reverb 500. fails .*must be between 0 and 100.*correct the effect"):
        apply_effect(STATIONARY, Effect(sox=[["reverb", 500]]), "clip")


def test_effect_without_output_is_reported() -> None:
    with pytest.raises(SpeechmillError, match=r"`sox speed 100` removes all 10 samples of clip"):
        apply_effect(STATIONARY[:10], Effect(sox=[["speed", 100]]), "clip")


def test_missing_sox_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.devnull)
    with pytest.raises(SpeechmillError, match="apt-get install sox libsox-fmt-mp3"):
        apply_effect(STATIONARY, DEFAULT_EFFECTS["quiet"], "clip")


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    """The rows of nine clips of 0.1 to 0.5 s, and their two shards in row groups of three."""
    recordings = [recording(0.1 + i / 20, seed=i) for i in range(9)]
    return store(tmp_path / "clean", recordings, [f"say {i}" for i in range(9)], ["anna", None, "ben"] * 3)


SLOW = DEFAULT_EFFECTS["tempo_slow"]


@pytest.fixture
def perturbed(tmp_path: Path) -> Path:
    return tmp_path / "copies" / "corpus" / "dev" / "shard-00000.parquet"


def test_copy_contains_exactly_the_clips(stored: Stored, perturbed: Path) -> None:
    rows = [stored[0][i] for i in (8, 1, 2, 5)]
    perturb(rows, stored[1], SLOW, perturbed)
    copies = {row["id"]: row for row in read_table(perturbed).to_pylist()}
    clean = {row["id"]: row for shard in stored[1] for row in read_table(shard).to_pylist()}
    assert set(copies) == {row["id"] for row in rows}
    for name, after in copies.items():
        samples = decode_flac(after.pop("audio")["bytes"])
        assert after.pop("num_samples") == len(samples) == round(clean[name]["num_samples"] / 0.85)
        assert after.pop("audio_sha256") == hashlib.sha256(samples.astype("<i2").tobytes()).hexdigest()
        assert after == {key: clean[name][key] for key in after}


@pytest.mark.parametrize("name", ["noise_10db", "reverberation", "mp3_16k", "telephone"])
def test_output_is_reproducible(name: str, stored: Stored, tmp_path: Path) -> None:
    copies = [tmp_path / f"{name}-{i}" / "corpus" / "dev" / "shard-00000.parquet" for i in range(2)]
    for copy in copies:
        perturb(stored[0], stored[1], DEFAULT_EFFECTS[name], copy)
    assert copies[0].read_bytes() == copies[1].read_bytes()


def test_copy_of_unavailable_set_keeps_metadata(tmp_path: Path, perturbed: Path) -> None:
    shard = tmp_path / "corpus" / "train" / "shard-00000.parquet"
    write_in_row_groups([], clip_schema(name="Corpus", version="1", configuration="abc"), shard, 3)
    assert perturb([], [shard], Effect(noise_snr_db=10), perturbed) == []
    metadata = pq.read_schema(perturbed).metadata
    assert metadata[b"effect"] == b'{"noise_snr_db":10.0}'
    assert (metadata[b"name"], metadata[b"version"], metadata[b"configuration"]) == (b"Corpus", b"1", b"abc")
    assert read_table(perturbed).num_rows == 0


def test_datasets_reads_copy_as_audio(stored: Stored, perturbed: Path) -> None:
    from datasets import Audio, Dataset

    perturb(*stored, SLOW, perturbed)
    assert Dataset.from_parquet(str(perturbed)).features["audio"] == Audio(sampling_rate=16_000)


def test_clip_reader_finds_perturbed_clips(stored: Stored, perturbed: Path) -> None:
    rows = perturb(*stored, SLOW, perturbed)
    reader = ClipReader(pa.Table.from_pylist(rows), [perturbed])
    for i, (clean, row) in enumerate(zip(stored[0], rows, strict=True)):
        assert len(reader.samples(i)) == row["num_samples"] == round(clean["num_samples"] / 0.85)
        assert (row["id"], row["text"], row["split"], row["shard"]) == (clean["id"], clean["text"], "dev", 0)
        assert row["audio_sha256"] != clean["audio_sha256"]


@pytest.mark.parametrize("cut", [100, 3000])
def test_truncated_shard_is_named(cut: int, stored: Stored, perturbed: Path) -> None:
    shard = stored[1][0]
    shard.write_bytes(shard.read_bytes()[:-cut])
    with pytest.raises(SpeechmillError, match=f"{shard} cannot be read"):
        perturb(*stored, SLOW, perturbed)
    assert not perturbed.exists()


def test_damaged_clip_is_named(stored: Stored, perturbed: Path) -> None:
    shard = stored[1][0]
    rows = read_table(shard).to_pylist()
    rows[2]["audio"]["bytes"] = b"fLaC and no audio"
    write_in_row_groups(rows, clip_schema(), shard, 3)
    with pytest.raises(SpeechmillError, match=f"{shard} contains damaged audio for clip-004"):
        perturb(*stored, SLOW, perturbed)


def test_missing_clips_are_reported(stored: Stored, perturbed: Path) -> None:
    rows, shards = stored
    with pytest.raises(SpeechmillError, match=r"shards that --shards does not list: corpus/train/shard-00001"):
        perturb(rows, shards[:1], SLOW, perturbed)
    with pytest.raises(SpeechmillError, match=r"shard-00001.parquet does not contain another where its index says"):
        perturb([rows[1] | {"id": "another"}], shards, SLOW, perturbed)


def test_main_writes_complete_set(
    stored: Stored, tmp_path: Path, perturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, shards = stored
    clean, counts = tmp_path / "clean.parquet", tmp_path / "clean.json"
    write_table([dict.fromkeys(CLIPS.names) | row | {"sha256": "0"} for row in rows], CLIPS, clean)
    write_json({"sets": ["corpus-train"], "listed": 9, "unavailable": None, "seconds": 2.7}, counts)
    outputs = [tmp_path / f"slow.{ending}" for ending in ("parquet", "sha256", "json")]
    arguments = ["--effect", SLOW.model_dump_json(exclude_none=True), "--clips", clean, "--counts", counts]
    arguments += ["--shards", *shards, "--perturbed", perturbed]
    arguments += ["--perturbed-clips", outputs[0], "--perturbed-digest", outputs[1], "--perturbed-counts", outputs[2]]
    monkeypatch.setattr("sys.argv", ["perturb", *map(str, arguments)])
    perturb_module.main()

    clips = read_table(outputs[0])
    assert clips.schema.equals(CLIPS)
    assert outputs[1].read_text().strip() == clips_digest(clips.to_pylist())
    assert read_json(outputs[2]) == read_json(counts) | {"seconds": pytest.approx(2.7 / 0.85, rel=1e-3)}
    assert len(ClipReader(clips, [perturbed]).samples(0)) == clips["num_samples"][0].as_py()
