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
from speechmill.core.flac import Int16Samples, decode_flac
from speechmill.core.tables import (
    CLIPS,
    clip_schema,
    clips_digest,
    read_json,
    read_table,
    write_in_row_groups,
    write_json,
    write_table,
)
from speechmill.inference import perturb as perturb_module
from speechmill.inference.perturb import active_power, changed, perturb
from speechmill.model.clip_reader import ClipReader

FULL_SCALE = np.where(np.random.default_rng(0).random(16_000) < 0.5, -32768, 32767).astype(np.int16)
STATIONARY = np.asarray(np.random.default_rng(1).standard_normal(48_000) * 1000, dtype=np.int16)
Stored = tuple[list[dict[str, Any]], list[Path]]
FASTER = {"tempo_slow": 0.85, "tempo_fast": 1.2}


def share_of_power(samples: Int16Samples, low: float, high: float) -> float:
    """The share of a clip's power that lies between two frequencies, in dB."""
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
        pytest.param(np.array([1000], dtype=np.int16), id="a sample"),
        pytest.param(np.zeros(1600, dtype=np.int16), id="silence"),
        pytest.param(FULL_SCALE, id="full scale"),
    ],
)
def test_every_clip_comes_out_and_only_tempo_makes_it_longer_or_shorter(name: str, clip: Int16Samples) -> None:
    out = changed(clip, DEFAULT_EFFECTS[name], "clip")
    assert out.dtype == np.int16
    # From 8 kHz back to 16 kHz, a clip of an odd length has a sample more.
    assert 0 <= len(out) - max(1, round(len(clip) / FASTER.get(name, 1))) <= (name == "telephone")
    assert out.any() or not clip.any() or len(clip) == 1


@pytest.mark.parametrize("codec", ["gsm", "mp3_16k"])
@given(num_samples=st.integers(1, 4000))
@settings(max_examples=12, deadline=None)
def test_a_codec_keeps_the_length_of_a_clip(codec: str, num_samples: int) -> None:
    assert len(changed(recording(0.25)[:num_samples], DEFAULT_EFFECTS[codec], "clip")) == num_samples


@pytest.mark.parametrize("name", ["telephone", "gsm", "mp3_16k", "quiet", "clipped", "noise_20db"])
def test_a_clip_stays_where_it_is_in_time(name: str) -> None:
    click = np.zeros(16_000, dtype=np.int16)
    click[-400:-360] = np.resize([12_000] * 4 + [-12_000] * 4, 40)
    out = changed(click, DEFAULT_EFFECTS[name], "clip").astype(float)
    place = np.correlate(np.abs(out), np.abs(click[-400:-360].astype(float)), "valid").argmax()
    assert abs(place - (16_000 - 400)) <= 16


@pytest.mark.parametrize("snr", [20, 10, 0, -5])
def test_noise_has_the_ratio_that_is_asked_for(snr: float) -> None:
    mixed = changed(STATIONARY, Effect(noise_snr_db=snr), "clip")
    assert decibels(power(STATIONARY) / power(mixed - STATIONARY.astype(float))) == pytest.approx(snr, abs=0.05)


def test_the_ratio_counts_only_where_there_is_sound() -> None:
    pauses = np.concatenate([np.zeros(16_000, np.int16), STATIONARY, np.zeros(32_000, np.int16)])
    # What rings in a room at night, 60 dB below.
    pauses[:16_000:2] = 1
    assert decibels(active_power(pauses) / power(STATIONARY)) == pytest.approx(0, abs=0.05)
    noise = changed(pauses, Effect(noise_snr_db=10), "clip") - pauses.astype(float)
    assert decibels(power(STATIONARY) / power(noise)) == pytest.approx(10, abs=0.05)
    # As loud in the pauses as in the speech.
    assert decibels(power(noise[-32_000:]) / power(noise[16_000:64_000])) == pytest.approx(0, abs=0.5)


def test_noise_that_would_clip_takes_the_clip_down_with_it() -> None:
    mixed = changed(FULL_SCALE, Effect(noise_snr_db=0), "clip").astype(float)
    clean = FULL_SCALE.astype(float)
    gain = (mixed @ clean) / (clean @ clean)
    assert np.abs(mixed).max() <= 32767
    assert decibels(power(gain * clean) / power(mixed - gain * clean)) == pytest.approx(0, abs=0.2)


def test_noise_is_pink() -> None:
    noise = changed(STATIONARY, Effect(noise_snr_db=-20), "clip") - STATIONARY.astype(float)
    # As much in each octave.
    octaves = [share_of_power(noise, low, 2 * low) for low in (125, 250, 500, 1000, 2000, 4000)]
    assert max(octaves) - min(octaves) < 2
    assert share_of_power(noise, 0, 30) < -15


def test_each_clip_has_noise_of_its_own() -> None:
    ten = Effect(noise_snr_db=10)
    first, again, other = (changed(STATIONARY, ten, name) for name in ("a", "a", "b"))
    np.testing.assert_array_equal(first, again)
    noises = [mixed - STATIONARY.astype(float) for mixed in (first, other)]
    assert abs(np.corrcoef(noises)[0, 1]) < 0.2


def test_a_recording_that_is_longer_than_the_noise_has_noise_throughout() -> None:
    long = np.resize(STATIONARY, 130 * 16_000)
    noise = changed(long, Effect(noise_snr_db=10), "clip") - long.astype(float)
    levels = [decibels(power(part)) for part in np.split(noise, 13)]
    assert max(levels) - min(levels) < 1.5


def test_a_telephone_has_no_sound_above_its_band() -> None:
    assert share_of_power(STATIONARY, 3600, 8001) > -3
    out = changed(STATIONARY, DEFAULT_EFFECTS["telephone"], "clip")
    assert share_of_power(out, 3600, 8001) < -50
    assert share_of_power(out, 0, 200) < -50
    assert share_of_power(out, 300, 3400) > -0.5


@pytest.mark.parametrize(("name", "most"), [("gsm", 4100), ("mp3_16k", 8000)])
def test_a_codec_of_a_low_bit_rate_is_heard(name: str, most: float) -> None:
    out = changed(STATIONARY, DEFAULT_EFFECTS[name], "clip")
    similarity = np.corrcoef(out.astype(float), STATIONARY.astype(float))[0, 1]
    assert 0.2 < similarity < 0.9
    assert most == 8000 or share_of_power(out, most, 8001) < -30


def test_quiet_is_20_db_below_and_clipped_is_cut_at_full_scale() -> None:
    quiet = changed(STATIONARY, DEFAULT_EFFECTS["quiet"], "clip")
    assert decibels(power(quiet) / power(STATIONARY)) == pytest.approx(-20, abs=0.1)
    clipped = changed(STATIONARY * 5, DEFAULT_EFFECTS["clipped"], "clip")
    assert np.mean(np.abs(clipped.astype(int)) >= 32767) > 0.3


def test_a_room_sounds_on_after_a_word_but_not_after_the_clip() -> None:
    word = np.concatenate([STATIONARY[:8000], np.zeros(8000, np.int16)])
    out = changed(word, DEFAULT_EFFECTS["reverberation"], "clip")
    assert len(out) == len(word)
    after = power(out[8800:12_000])
    assert -40 < decibels(after / power(out[:8000])) < -3
    assert power(out[13_000:]) < after


def test_what_sox_refuses_is_said_in_its_words() -> None:
    with pytest.raises(SpeechmillError, match=r"reverb 500. fails .*must be between 0 and 100.*correct the effect"):
        changed(STATIONARY, Effect(sox=[["reverb", 500]]), "clip")


def test_an_effect_that_leaves_nothing_of_a_clip_is_an_error() -> None:
    with pytest.raises(SpeechmillError, match=r"`sox speed 100` leaves nothing of clip, 10 samples"):
        changed(STATIONARY[:10], Effect(sox=[["speed", 100]]), "clip")


def test_a_machine_without_sox_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.devnull)
    with pytest.raises(SpeechmillError, match="apt-get install sox libsox-fmt-mp3"):
        changed(STATIONARY, DEFAULT_EFFECTS["quiet"], "clip")


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    """The rows of a table of nine clips of 0.1 to 0.5 s, and their two shards, in row groups of three."""
    recordings = [recording(0.1 + i / 20, seed=i) for i in range(9)]
    return store(tmp_path / "clean", recordings, [f"say {i}" for i in range(9)], ["anna", None, "ben"] * 3)


SLOW = DEFAULT_EFFECTS["tempo_slow"]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "copies" / "corpus" / "dev" / "shard-00000.parquet"


def test_a_copy_has_the_clips_of_the_set_and_no_others(stored: Stored, place: Path) -> None:
    rows = [stored[0][i] for i in (8, 1, 2, 5)]
    perturb(rows, stored[1], SLOW, place)
    copies = {row["id"]: row for row in read_table(place).to_pylist()}
    clean = {row["id"]: row for shard in stored[1] for row in read_table(shard).to_pylist()}
    assert set(copies) == {row["id"] for row in rows}
    for name, after in copies.items():
        samples = decode_flac(after.pop("audio")["bytes"])
        assert after.pop("num_samples") == len(samples) == round(clean[name]["num_samples"] / 0.85)
        assert after.pop("audio_sha256") == hashlib.sha256(samples.astype("<i2").tobytes()).hexdigest()
        assert after == {key: clean[name][key] for key in after}


@pytest.mark.parametrize("name", ["noise_10db", "reverberation", "mp3_16k", "telephone"])
def test_the_same_clips_give_the_same_bytes(name: str, stored: Stored, tmp_path: Path) -> None:
    copies = [tmp_path / f"{name}-{i}" / "corpus" / "dev" / "shard-00000.parquet" for i in range(2)]
    for copy in copies:
        perturb(stored[0], stored[1], DEFAULT_EFFECTS[name], copy)
    assert copies[0].read_bytes() == copies[1].read_bytes()


def test_a_copy_of_a_set_that_could_not_be_had_says_what_it_is_a_copy_of(tmp_path: Path, place: Path) -> None:
    shard = tmp_path / "corpus" / "train" / "shard-00000.parquet"
    write_in_row_groups([], clip_schema(name="Corpus", version="1", configuration="abc"), shard, 3)
    assert perturb([], [shard], Effect(noise_snr_db=10), place) == []
    metadata = pq.read_schema(place).metadata
    assert metadata[b"effect"] == b'{"noise_snr_db":10.0}'
    assert (metadata[b"name"], metadata[b"version"], metadata[b"configuration"]) == (b"Corpus", b"1", b"abc")
    assert read_table(place).num_rows == 0


def test_datasets_reads_a_copy_as_audio(stored: Stored, place: Path) -> None:
    from datasets import Audio, Dataset

    perturb(*stored, SLOW, place)
    assert Dataset.from_parquet(str(place)).features["audio"] == Audio(sampling_rate=16_000)


def test_a_reader_of_clips_finds_the_changed_ones(stored: Stored, place: Path) -> None:
    rows = perturb(*stored, SLOW, place)
    reader = ClipReader(pa.Table.from_pylist(rows), [place])
    for i, (clean, row) in enumerate(zip(stored[0], rows, strict=True)):
        assert len(reader.samples(i)) == row["num_samples"] == round(clean["num_samples"] / 0.85)
        assert (row["id"], row["text"], row["split"], row["shard"]) == (clean["id"], clean["text"], "dev", 0)
        assert row["audio_sha256"] != clean["audio_sha256"]


@pytest.mark.parametrize("cut", [100, 3000])
def test_a_damaged_shard_is_named(cut: int, stored: Stored, place: Path) -> None:
    shard = stored[1][0]
    shard.write_bytes(shard.read_bytes()[:-cut])
    with pytest.raises(SpeechmillError, match=f"{shard} cannot be read"):
        perturb(*stored, SLOW, place)
    assert not place.exists()


def test_a_damaged_clip_is_named(stored: Stored, place: Path) -> None:
    shard = stored[1][0]
    rows = read_table(shard).to_pylist()
    rows[2]["audio"]["bytes"] = b"fLaC, more or less"
    write_in_row_groups(rows, clip_schema(), shard, 3)
    with pytest.raises(SpeechmillError, match=f"{shard} holds clip-004 damaged"):
        perturb(*stored, SLOW, place)


def test_clips_that_no_shard_holds_are_an_error(stored: Stored, place: Path) -> None:
    rows, shards = stored
    with pytest.raises(SpeechmillError, match=r"none of the shards: \('corpus', 'train', 1\)"):
        perturb(rows, shards[:1], SLOW, place)
    with pytest.raises(SpeechmillError, match=r"shard-00001.parquet does not hold another where its index says"):
        perturb([rows[1] | {"id": "another"}], shards, SLOW, place)


def test_the_program_makes_a_set_that_is_scored_like_any(
    stored: Stored, tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, shards = stored
    clean, counts = tmp_path / "clean.parquet", tmp_path / "clean.json"
    write_table([dict.fromkeys(CLIPS.names) | row | {"sha256": "0"} for row in rows], CLIPS, clean)
    write_json({"sets": ["corpus-train"], "listed": 9, "unavailable": None, "seconds": 2.7}, counts)
    made = [tmp_path / f"slow.{ending}" for ending in ("parquet", "sha256", "json")]
    arguments = ["--effect", SLOW.model_dump_json(exclude_none=True), "--clips", clean, "--counts", counts]
    arguments += ["--shards", *shards, "--perturbed", place]
    arguments += ["--perturbed-clips", made[0], "--perturbed-digest", made[1], "--perturbed-counts", made[2]]
    monkeypatch.setattr("sys.argv", ["perturb", *map(str, arguments)])
    perturb_module.main()

    clips = read_table(made[0])
    assert clips.schema.equals(CLIPS)
    assert made[1].read_text().strip() == clips_digest(clips.to_pylist())
    assert read_json(made[2]) == read_json(counts) | {"seconds": pytest.approx(2.7 / 0.85, rel=1e-3)}
    assert len(ClipReader(clips, [place]).samples(0)) == clips["num_samples"][0].as_py()
