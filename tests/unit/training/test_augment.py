from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCTC,
    PreTrainedModel,
    Wav2Vec2FeatureExtractor,
)
from transformers.models.wav2vec2 import modeling_wav2vec2

from material import LAYER_NORM, noise
from speechmill.config.augment import AugmentConfig
from speechmill.core.command import SpeechmillError
from speechmill.core.schemas import SAMPLE_RATE
from speechmill.model.spec_augment import span_mask, spec_augment_on_device
from speechmill.training.augment import (
    Augmenter,
    DeviceFeatures,
    RecordingCache,
    audio_files,
    normalise,
)

EVERYTHING = AugmentConfig.model_validate(
    {
        "speed": [0.9, 1.0, 1.1],
        "room": {"probability": 0.5, "rt60_seconds": [0.1, 0.3]},
        "noise": {"probability": 0.5, "snr_db": [5, 20]},
    }
)


def batch_of(recordings: list[NDArray[np.float64]]) -> tuple[Tensor, Tensor]:
    clips = [torch.from_numpy(each).float() for each in recordings]
    return torch.nn.utils.rnn.pad_sequence(clips, batch_first=True), torch.tensor([len(each) for each in clips])


def speech(clips: int = 6) -> tuple[Tensor, Tensor]:
    return batch_of([noise(0.4 + 0.1 * i, seed=i) for i in range(clips)])


def tone(hertz: float, seconds: float, rate: int = SAMPLE_RATE) -> NDArray[np.float64]:
    return np.asarray(0.3 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate))


def loudest_hertz(samples: Tensor) -> float:
    return float(torch.fft.rfft(samples).abs().argmax()) * SAMPLE_RATE / len(samples)


def noise_settings(probability: float = 1, low: float = 10, high: float = 10) -> AugmentConfig:
    return AugmentConfig.model_validate({"noise": {"probability": probability, "snr_db": [low, high]}})


def room_settings(seconds: float = 0.5) -> AugmentConfig:
    return AugmentConfig.model_validate({"room": {"probability": 1, "rt60_seconds": [seconds, seconds]}})


def measured_snr(clean: Tensor, noisy: Tensor, num_samples: Tensor) -> list[float]:
    return [
        float(10 * torch.log10(was[:n].square().sum() / (now[:n] - was[:n]).square().sum()))
        for was, now, n in zip(clean, noisy, num_samples, strict=True)
    ]


def test_empty_settings_change_nothing() -> None:
    samples, num_samples = speech()
    augmented, lengths = Augmenter(AugmentConfig(), seed=1)(samples, num_samples, 0)
    assert torch.equal(augmented, samples)
    assert torch.equal(lengths, num_samples)
    assert not AugmentConfig().is_on
    assert EVERYTHING.is_on


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_speed_changes_length_and_pitch(factor: float) -> None:
    samples, num_samples = batch_of([tone(1000, 1), tone(1000, 0.7)])
    augmented, lengths = Augmenter(AugmentConfig(speed=[factor]), seed=1)(samples, num_samples, 0)
    assert lengths.tolist() == [int(np.ceil(n / factor)) for n in num_samples.tolist()]
    for clip, n in zip(augmented, lengths.tolist(), strict=True):
        assert loudest_hertz(clip[:n]) == pytest.approx(1000 * factor, abs=2)


@settings(max_examples=30)
@given(st.lists(st.integers(1, 3000), min_size=1, max_size=4), st.integers(50, 200))
def test_lengths_round_up_and_stay_within_the_batch(lengths: list[int], hundredths: int) -> None:
    samples, num_samples = batch_of([np.ones(n) for n in lengths])
    augmented, after = Augmenter(AugmentConfig(speed=[hundredths / 100]), seed=1)(samples, num_samples, 0)
    assert after.tolist() == [-(-n * 100 // hundredths) for n in lengths]
    assert augmented.shape == (len(lengths), max(after.tolist()))


def test_every_speed_is_drawn_one_per_batch() -> None:
    samples, num_samples = speech()
    augmenter = Augmenter(AugmentConfig(speed=[0.9, 1.0, 1.1]), seed=1)
    widths = {augmenter(samples, num_samples, batch)[0].shape[1] for batch in range(20)}
    assert widths == {int(np.ceil(samples.shape[1] / factor)) for factor in (0.9, 1.0, 1.1)}


def test_longest_and_shortest_factor() -> None:
    settings = AugmentConfig(speed=[0.8, 1.25])
    assert (settings.longest_factor, settings.shortest_factor) == (pytest.approx(1.25), pytest.approx(0.8))
    assert (AugmentConfig().longest_factor, AugmentConfig().shortest_factor) == (1, 1)


@pytest.mark.parametrize("ratio", [-5, 0, 10, 30])
def test_noise_has_the_requested_snr(ratio: float) -> None:
    samples, num_samples = speech()
    noisy, _ = Augmenter(noise_settings(low=ratio, high=ratio), seed=1)(samples, num_samples, 0)
    assert measured_snr(samples, noisy, num_samples) == pytest.approx([ratio] * len(samples), abs=0.1)


def test_snr_varies_over_the_range() -> None:
    samples, num_samples = batch_of([noise(0.1, seed=i) for i in range(100)])
    noisy, _ = Augmenter(noise_settings(low=0, high=20), seed=1)(samples, num_samples, 0)
    ratios = np.array(measured_snr(samples, noisy, num_samples))
    assert (ratios > -0.1).all()
    assert (ratios < 20.1).all()
    assert np.histogram(ratios, 4, (0, 20))[0].min() > 10


def test_share_of_noisy_clips_is_the_probability() -> None:
    samples, num_samples = batch_of([noise(0.02, seed=i) for i in range(2000)])
    noisy, _ = Augmenter(noise_settings(probability=0.3), seed=1)(samples, num_samples, 0)
    assert float((noisy != samples).any(1).float().mean()) == pytest.approx(0.3, abs=0.04)


def test_silent_clip_stays_silent() -> None:
    samples, num_samples = batch_of([np.zeros(1000), noise(0.1)])
    noisy, _ = Augmenter(noise_settings(), seed=1)(samples, num_samples, 0)
    assert not noisy[0].any()
    assert not torch.equal(noisy[1], samples[1])


def test_noise_file_keeps_pitch_and_is_repeated(tmp_path: Path) -> None:
    # A full number of periods, so that the repeated file has no discontinuity.
    sf.write(tmp_path / "hum.wav", tone(500, 0.25, rate=8000), 8000)
    samples, num_samples = batch_of([noise(1.0), noise(0.6, seed=1)])
    augmenter = Augmenter(noise_settings(), 1, noise_files=audio_files(tmp_path))
    noisy, _ = augmenter(samples, num_samples, 0)
    assert measured_snr(samples, noisy, num_samples) == pytest.approx([10, 10], abs=0.1)
    for last in (noisy[0, -4000:] - samples[0, -4000:], noisy[1, 5600:9600] - samples[1, 5600:9600]):
        assert loudest_hertz(last) == pytest.approx(500, abs=4)


def test_excerpts_of_a_long_file_differ(tmp_path: Path) -> None:
    sf.write(tmp_path / "rising.wav", np.linspace(0.01, 0.5, 10 * SAMPLE_RATE), SAMPLE_RATE)
    samples, num_samples = batch_of([noise(0.1)] * 20)
    noisy, _ = Augmenter(noise_settings(), 1, noise_files=audio_files(tmp_path))(samples, num_samples, 0)
    # The clips and levels are equal: only the position of the excerpt differs.
    assert len({tuple(row.tolist()) for row in noisy}) == 20


@pytest.mark.parametrize("rate", [SAMPLE_RATE, 44_100])
def test_kept_recordings_give_the_excerpts_of_the_files(rate: int, tmp_path: Path) -> None:
    for i, seconds in enumerate((0.3, 2.0, 5.0)):
        sf.write(tmp_path / f"{i}.flac", noise(seconds, rate, seed=i), rate)
    kept, read_again = RecordingCache(1 << 20, 1 << 20), RecordingCache(1 << 20, 0)
    for position in (0.0, 0.4, 0.99):
        for path in audio_files(tmp_path):
            expected = read_again.excerpt(path, SAMPLE_RATE, position)
            assert np.array_equal(kept.excerpt(path, SAMPLE_RATE, position), expected)
    assert read_again.bytes == 0


def test_recordings_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("noise", "room"):
        (tmp_path / kind).mkdir()
        sf.write(tmp_path / kind / "recording.wav", noise(1.0), SAMPLE_RATE)
    noise_files, room_files = audio_files(tmp_path / "noise"), audio_files(tmp_path / "room")
    settings = AugmentConfig.model_validate(
        {"noise": {"probability": 1, "snr_db": [5, 5]}, "room": {"probability": 1, "rt60_seconds": [0.1, 0.3]}}
    )
    augmenter = Augmenter(settings, 1, noise_files, room_files)
    augmenter(*speech(), 0)
    monkeypatch.setattr("soundfile.SoundFile", None)
    augmenter(*speech(), 1)


def test_memory_of_kept_recordings_is_limited(tmp_path: Path) -> None:
    for i in range(5):
        sf.write(tmp_path / f"{i}.wav", noise(1.0, seed=i), SAMPLE_RATE)
    recordings = RecordingCache(2 * 4 * SAMPLE_RATE, 4 * SAMPLE_RATE)
    for path in audio_files(tmp_path):
        recordings.excerpt(path, SAMPLE_RATE, 0.0)
    assert recordings.bytes == 2 * 4 * SAMPLE_RATE


def test_silent_noise_leaves_clips_unchanged(tmp_path: Path) -> None:
    sf.write(tmp_path / "silence.flac", np.zeros(SAMPLE_RATE), SAMPLE_RATE)
    samples, num_samples = speech()
    noisy, _ = Augmenter(noise_settings(), 1, noise_files=audio_files(tmp_path))(samples, num_samples, 0)
    assert torch.equal(noisy, samples)


@pytest.mark.parametrize("seconds", [0.3, 0.8])
def test_reverberation_decays_by_60_db_in_rt60(seconds: float) -> None:
    clicks = torch.zeros(64, SAMPLE_RATE)
    clicks[:, 0] = 1
    augmented, _ = Augmenter(room_settings(seconds), seed=1)(clicks, torch.full((64,), SAMPLE_RATE), 0)

    def level(at: float) -> float:
        start = round(at * SAMPLE_RATE)
        return float(10 * torch.log10(augmented[:, start : start + 800].square().mean()))

    assert level(0) - level(seconds / 2) == pytest.approx(30, abs=0.5)


def test_recorded_room_response_adds_no_delay(tmp_path: Path) -> None:
    sf.write(tmp_path / "room.wav", np.array([0, 0, 0.01, 0.8, 0, 0.6]), SAMPLE_RATE, subtype="FLOAT")
    samples, num_samples = speech()
    augmented, lengths = Augmenter(room_settings(), 1, room_files=audio_files(tmp_path))(samples, num_samples, 0)
    echoed = 0.8 * samples
    echoed[:, 2:] += 0.6 * samples[:, :-2]
    assert torch.equal(lengths, num_samples)
    for now, expected, n in zip(augmented, echoed, lengths.tolist(), strict=True):
        assert torch.allclose(now[:n], expected[:n], atol=1e-5)


def test_room_responses_of_different_lengths_in_a_batch(tmp_path: Path) -> None:
    for taps in (3, 50_000):
        sf.write(tmp_path / f"{taps}.wav", 0.9 ** np.arange(taps), SAMPLE_RATE, subtype="FLOAT")
    samples, num_samples = speech()
    augmented, _ = Augmenter(room_settings(), 1, room_files=audio_files(tmp_path))(samples, num_samples, 0)
    assert augmented.shape == samples.shape
    assert augmented.isfinite().all()


def test_padding_stays_zero() -> None:
    samples, num_samples = speech()
    for batch in range(8):
        augmented, lengths = Augmenter(EVERYTHING, seed=1)(samples, num_samples, batch)
        assert augmented.isfinite().all()
        for clip, n in zip(augmented, lengths.tolist(), strict=True):
            assert not clip[n:].any()
            assert clip[:n].any()


def test_draws_depend_only_on_seed_and_batch() -> None:
    samples, num_samples = speech()
    uninterrupted = [Augmenter(EVERYTHING, seed=1)(samples, num_samples, batch) for batch in range(4)]
    resumed = Augmenter(EVERYTHING, seed=1)
    torch.manual_seed(99)
    for batch in (3, 2):
        augmented, lengths = resumed(samples, num_samples, batch)
        assert torch.equal(augmented, uninterrupted[batch][0])
        assert torch.equal(lengths, uninterrupted[batch][1])
    loud = Augmenter(noise_settings(), seed=1)(samples, num_samples, 0)[0]
    assert not torch.equal(loud, Augmenter(noise_settings(), seed=1)(samples, num_samples, 1)[0])
    assert not torch.equal(loud, Augmenter(noise_settings(), seed=2)(samples, num_samples, 0)[0])


def test_global_torch_generator_is_unchanged() -> None:
    before = torch.get_rng_state()
    Augmenter(EVERYTHING, seed=1)(*speech(), 0)
    assert torch.equal(torch.get_rng_state(), before)


def test_autocast_does_not_affect_samples() -> None:
    augmenter = Augmenter(EVERYTHING.model_copy(update={"speed": [0.9]}), seed=1)
    plain, _ = augmenter(*speech(), 0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast, _ = augmenter(*speech(), 0)
    assert torch.equal(plain, cast)


def test_audio_files_are_sorted_by_path(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    for name in ("inner/b.wav", "c.FLAC", "a.ogg"):
        sf.write(tmp_path / name, np.zeros(100), SAMPLE_RATE)
    (tmp_path / "LICENSE.txt").write_text("free")
    assert [path.name for path in audio_files(tmp_path)] == ["a.ogg", "c.FLAC", "b.wav"]


def test_empty_folder_and_broken_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(SpeechmillError, match=f"{tmp_path} contains no audio files"):
        audio_files(tmp_path)
    (tmp_path / "broken.wav").write_bytes(b"not audio")
    with pytest.raises(SpeechmillError, match=r"broken\.wav cannot be read"):
        audio_files(tmp_path)


def test_silent_room_response_is_named(tmp_path: Path) -> None:
    sf.write(tmp_path / "mute.wav", np.zeros(100), SAMPLE_RATE)
    augmenter = Augmenter(room_settings(), 1, room_files=audio_files(tmp_path))
    with pytest.raises(SpeechmillError, match=r"mute\.wav is silent"):
        augmenter(*speech(), 0)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"speed": [0.3]}, "greater than or equal to 0.5"),
        ({"speed": [1.005]}, "two decimals"),
        ({"noise": {"probability": 1.5, "snr_db": [0, 1]}}, "less than or equal to 1"),
        ({"noise": {"probability": 1, "snr_db": [20, 5]}}, r"must be \[lowest, highest\]"),
        ({"room": {"probability": 1, "rt60_seconds": [0.8, 0.2]}}, r"must be \[shortest, longest\]"),
        ({"room": {"probability": 1, "rt60_seconds": [0, 0.2]}}, "greater than 0"),
        ({"pitch": [1.0]}, "pitch"),
    ],
)
def test_invalid_settings_are_rejected(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        AugmentConfig.model_validate(section)


@pytest.mark.parametrize("returns_mask", [True, False])
@pytest.mark.parametrize("normalises", [True, False])
def test_device_features_match_the_extractor(returns_mask: bool, normalises: bool) -> None:
    extractor = Wav2Vec2FeatureExtractor(return_attention_mask=returns_mask, do_normalize=normalises)
    loud, quiet = noise(0.7), 0.001 * noise(1.3, seed=1)
    clips = [np.asarray(each, dtype=np.float32) for each in (loud, quiet, loud + 0.4, np.zeros(500), np.full(9, 0.1))]
    expected = extractor(clips, sampling_rate=SAMPLE_RATE, padding=True, return_tensors="pt")
    features = DeviceFeatures(extractor)(*batch_of([np.asarray(each, dtype=np.float64) for each in clips]))
    assert features.keys() == dict(expected).keys()
    for key, value in features.items():
        assert value.dtype == expected[key].dtype
        assert torch.allclose(value, expected[key], rtol=1e-6, atol=1e-6), key


def test_normalised_clips_have_zero_mean_unit_variance() -> None:
    samples, num_samples = batch_of([0.1 + noise(0.3), noise(0.5)])
    for clip, n in zip(normalise(samples, num_samples), num_samples.tolist(), strict=True):
        assert float(clip[:n].mean()) == pytest.approx(0, abs=1e-4)
        assert float(clip[:n].var(correction=0)) == pytest.approx(1, abs=1e-3)
        assert not clip[n:].any()


SPANS = st.tuples(
    st.lists(st.integers(0, 60), min_size=1, max_size=5),
    st.floats(0, 1),
    st.integers(1, 20),
    st.integers(0, 4),
)


@given(SPANS, st.integers(0, 2**31))
def test_number_and_place_of_spans(spans: tuple[list[int], float, int, int], seed: int) -> None:
    lengths, probability, span, min_spans = spans
    size = max(max(lengths), 1)
    torch.manual_seed(seed)
    mask = span_mask(torch.tensor(lengths), size, probability, span, min_spans)
    assert mask.shape == (len(lengths), size)
    for row, length in zip(mask, lengths, strict=True):
        most = min(max(int(probability * length / span + 1), min_spans), size // span, max(length - span + 1, 0))
        fewest = min(max(int(probability * length / span), min_spans), size // span, max(length - span + 1, 0))
        assert not row[length:].any()
        # Span starts differ, so each further span masks at least one more frame and at most a complete span.
        assert (span + fewest - 1 if fewest else 0) <= int(row.sum()) <= most * span


def test_span_count_is_rounded_at_random() -> None:
    torch.manual_seed(1)
    counts = [span_mask(torch.full((5,), 30), 30, 0.25, 1, 0).sum(1).tolist() for _ in range(300)]
    assert all(len(set(each)) == 1 for each in counts)
    assert {each[0] for each in counts} == {7, 8}
    assert np.mean(counts) == pytest.approx(7.5, abs=0.1)


@pytest.mark.parametrize(
    ("probability", "span", "min_spans"),
    # The defaults of Wav2Vec2Config; many spans; so few that the minimum applies. No number of spans is rounded here.
    [(0.05, 10, 2), (0.5, 10, 0), (0.01, 4, 1)],
)
def test_mask_frequency_matches_transformers(probability: float, span: int, min_spans: int) -> None:
    size, clips = 120, 8000
    torch.manual_seed(3)
    np.random.seed(3)
    for length in (120, 80, 40):
        real = (torch.arange(size) < length).expand(clips, -1)
        masked_share = span_mask(real.sum(1), size, probability, span, min_spans).float().mean(0)
        expected = modeling_wav2vec2._compute_mask_indices((clips, size), probability, span, real.long(), min_spans)
        expected_share = torch.from_numpy(expected).float().mean(0)
        assert float(masked_share[:length].mean()) == pytest.approx(float(expected_share[:length].mean()), abs=0.003)
        assert float((masked_share - expected_share).abs().max()) < 0.03
        assert (masked_share[:length] > 0).all()
        assert not masked_share[length:].any()


TINY_MASKED = LAYER_NORM | {
    "apply_spec_augment": True,
    "mask_time_prob": 0.3,
    "mask_time_length": 3,
    "mask_feature_prob": 0.3,
    "mask_feature_length": 4,
}
BERT = {key: value for key, value in TINY_MASKED.items() if not key.startswith(("conv_", "feat_extract", "num_feat"))}
BERT["conformer_conv_dropout"] = 0.0


def tiny(model_type: str, **changes: Any) -> PreTrainedModel:
    given = dict(BERT if model_type == "wav2vec2-bert" else TINY_MASKED)
    del given["model_type"]
    if model_type == "wavlm":
        given["num_buckets"] = 20
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, vocab_size=7, pad_token_id=0, **(given | changes))
    model: PreTrainedModel = AutoModelForCTC.from_config(config)
    return model


def inputs(model: PreTrainedModel) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    if model.main_input_name == "input_features":
        values, lengths = torch.randn(2, 60, 160, generator=generator), torch.tensor([60, 40])
    else:
        values, lengths = torch.randn(2, 16000, generator=generator), torch.tensor([16000, 12000])
    mask = torch.arange(values.shape[1]) < lengths[:, None]
    return {
        model.main_input_name: values,
        "attention_mask": mask.long(),
        "labels": torch.tensor([[1, 2, 3], [4, 5, -100]]),
    }


each_model = pytest.mark.parametrize("model_type", ["wav2vec2", "hubert", "wavlm", "wav2vec2-bert"])


@pytest.fixture
def no_masks_of_transformers(monkeypatch: pytest.MonkeyPatch) -> Callable[[PreTrainedModel], None]:
    def forbid(model: PreTrainedModel) -> None:
        def called(*args: object, **kwargs: object) -> None:
            raise AssertionError("transformers created a mask on the CPU")

        monkeypatch.setattr(f"{type(model).__module__}._compute_mask_indices", called)

    return forbid


@each_model
def test_device_masks_give_finite_gradients(
    model_type: str, no_masks_of_transformers: Callable[[PreTrainedModel], None]
) -> None:
    model = tiny(model_type).train()
    no_masks_of_transformers(model)
    spec_augment_on_device(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(**inputs(model)).loss
    loss.backward()
    assert loss.isfinite()
    embedding = model.base_model.masked_spec_embed
    assert isinstance(embedding, Tensor)
    assert embedding.grad is not None
    assert embedding.grad.isfinite().all()
    assert embedding.grad.any()


@each_model
def test_masks_are_drawn_from_torch_generator(model_type: str) -> None:
    model = tiny(model_type).train()
    spec_augment_on_device(model)

    def loss(seed: int) -> float:
        torch.manual_seed(seed)
        return float(model(**inputs(model)).loss.detach())

    assert loss(1) == loss(1)
    assert len({loss(seed) for seed in range(4)}) > 1


@each_model
def test_no_masks_in_eval_mode_or_if_disabled(model_type: str) -> None:
    evaluated, unmasked = tiny(model_type).eval(), tiny(model_type, apply_spec_augment=False).train()
    with torch.no_grad():
        expected = evaluated(**inputs(evaluated)).logits
        for model in (evaluated, unmasked):
            spec_augment_on_device(model)
            assert torch.equal(model(**inputs(model)).logits, expected)


@each_model
def test_masked_values(model_type: str) -> None:
    model = tiny(model_type, mask_time_prob=0.4, mask_feature_prob=0.25).train()
    spec_augment_on_device(model)
    base: Any = model.base_model
    hidden = torch.full((4, 50, 16), 7.0)
    real = torch.arange(50) < torch.tensor([50, 40, 30, 2])[:, None]
    masked = base._mask_hidden_states(hidden, attention_mask=real.long()).detach()
    assert (hidden == 7).all()
    dead = (masked == 0).all(1)
    # A quarter of 16 features in spans of 4: one span.
    assert dead.sum(1).tolist() == [4] * 4
    for clip, zero, length in zip(masked, dead, [50, 40, 30, 2], strict=True):
        alive = clip[:, ~zero]
        embedded = (alive == base.masked_spec_embed.detach()[~zero]).all(1)
        assert ((alive == 7).all(1) ^ embedded).all()
        assert embedded[:length].any() == (length >= 3)
        assert not embedded[length:].any()


def test_group_norm_masks_cover_the_padding() -> None:
    model = tiny("wav2vec2", mask_time_prob=0.9, mask_feature_prob=0).train()
    spec_augment_on_device(model)
    base: Any = model.base_model
    torch.manual_seed(0)
    hidden = sum((base._mask_hidden_states(torch.full((1, 20, 16), 7.0)) != 7).any(2).float() for _ in range(50))
    assert (hidden > 0).all()


def test_masks_do_not_synchronise() -> None:
    # Tensors on `meta` have no values: reading one raises an error.
    model = tiny("wav2vec2").to("meta").train()
    spec_augment_on_device(model)
    base: Any = model.base_model
    hidden = torch.zeros(3, 50, 16, device="meta")
    assert base._mask_hidden_states(hidden, attention_mask=torch.ones(3, 50, device="meta")).shape == hidden.shape


def test_masks_compile_into_one_graph() -> None:
    model = tiny("wav2vec2").train()
    spec_augment_on_device(model)
    base: Any = model.base_model
    compiled = torch.compile(base._mask_hidden_states, backend="eager", fullgraph=True)
    hidden, real = torch.ones(2, 30, 16), torch.ones(2, 30, dtype=torch.long)
    torch.manual_seed(1)
    expected = base._mask_hidden_states(hidden, attention_mask=real)
    torch.manual_seed(1)
    assert torch.equal(compiled(hidden, attention_mask=real), expected)


def test_feature_mask_wider_than_features_is_rejected() -> None:
    with pytest.raises(SpeechmillError, match="mask_feature_length is 64, more than its 16"):
        spec_augment_on_device(tiny("wav2vec2", mask_feature_length=64))
