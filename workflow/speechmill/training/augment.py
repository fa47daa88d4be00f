"""Augmentation of training batches on the training device: speed, room reverberation, noise."""

from collections.abc import Callable, Sequence
from math import ceil
from pathlib import Path

import numpy as np
import soundfile as sf
import soxr
import torch
from torch import Tensor
from torchaudio.functional import add_noise, fftconvolve
from torchaudio.transforms import Resample
from transformers import Wav2Vec2FeatureExtractor

from speechmill.config.augment import AUDIO_SUFFIXES, AugmentConfig, Noise, Room
from speechmill.core.command import SpeechmillError
from speechmill.core.flac import FloatSamples
from speechmill.core.schemas import SAMPLE_RATE
from speechmill.model.devices import to_device

# Makes these random numbers independent of the order of the clips, which is drawn from the same seed.
_STREAM = 0xA06
# Recordings are kept in memory up to these sizes, so that not every batch opens and decodes files again.
_CACHE_BYTES, _FILE_BYTES = 1 << 29, 1 << 26


def audio_files(folder: Path) -> list[Path]:
    """Return the audio files below `folder`, sorted by path.

    Raises:
        SpeechmillError: There are no audio files, or one cannot be opened; checked before training starts.
    """
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES)
    if not files:
        raise SpeechmillError(f"{folder} contains no audio files; correct `folder` in runs.*.augment")
    for path in files:
        try:
            sf.info(path)
        except sf.LibsndfileError as error:
            raise SpeechmillError(f"{path} cannot be read ({error}); delete or replace it") from error
    return files


class Augmenter:
    """Augmentation of a batch: speed perturbation, then room reverberation, then additive noise.

    All random numbers are a function of `seed` and the batch number, so a resumed training run augments as an
    uninterrupted one does. Nothing here synchronises with the device.
    """

    def __init__(
        self,
        settings: AugmentConfig,
        seed: int,
        noise_files: Sequence[Path] = (),
        room_files: Sequence[Path] = (),
    ) -> None:
        self._settings, self._seed = settings, seed
        self._noise_files, self._room_files = noise_files, room_files
        self._recordings = RecordingCache(_CACHE_BYTES, _FILE_BYTES)
        self._resamplers = {factor: Resample(round(100 * factor), 100) for factor in settings.speed}

    def __call__(self, samples: Tensor, num_samples: Tensor, batch: int) -> tuple[Tensor, Tensor]:
        """Return the augmented clips, on the device of `samples`.

        Args:
            samples: From -1 to 1, shape (clips, samples), each clip followed by zeros.
            num_samples: The length of each clip, shape (clips,), on the host.
            batch: The number of the batch in the training run, over all processes.

        Returns:
            Samples and lengths of the same shapes, except that a change of speed changes the number of samples. The
            padding is zero; the samples may lie outside -1 to 1.

        Raises:
            SpeechmillError: A recorded room response is silent.
        """
        rng = np.random.default_rng([self._seed, batch, _STREAM])
        generator = torch.Generator(samples.device).manual_seed(int(rng.integers(2**63)))
        # The Trainer runs a step under autocast, which would resample in 16 bits.
        with torch.autocast(samples.device.type, enabled=False):
            if self._settings.speed:
                samples, num_samples = self._change_speed(samples, num_samples, float(rng.choice(self._settings.speed)))
            if self._settings.room:
                samples = self._add_reverberation(self._settings.room, samples, rng, generator)
            if self._settings.noise:
                samples = self._add_noise(self._settings.noise, samples, num_samples, rng, generator)
        return samples * _clip_mask(samples, to_device(num_samples, samples.device)), num_samples

    def _change_speed(self, samples: Tensor, num_samples: Tensor, factor: float) -> tuple[Tensor, Tensor]:
        resampled: Tensor = self._resamplers[factor].to(samples.device, non_blocking=True)(samples)
        hundredths = round(100 * factor)
        # Integers round up exactly; torchaudio computes lengths in floats and may be one sample short.
        length = (num_samples * 100 + hundredths - 1) // hundredths
        return resampled, length.clamp(max=resampled.shape[1])

    def _add_reverberation(
        self, room: Room, samples: Tensor, rng: np.random.Generator, generator: torch.Generator
    ) -> Tensor:
        selected = np.flatnonzero(rng.random(len(samples)) < room.probability)
        if not len(selected):
            return samples
        device = samples.device
        if self._room_files:
            recorded = [
                self._recordings.room_response(self._room_files[i])
                for i in rng.integers(len(self._room_files), size=len(selected))
            ]
            taps = min(max(map(len, recorded)), samples.shape[1])
            padded = [np.pad(each[:taps], (0, max(0, taps - len(each)))) for each in recorded]
            responses = to_device(torch.from_numpy(np.stack(padded)), device)
        else:
            # Polack's (1988) model of late reverberation: Gaussian noise that decays by 60 dB in the time RT60.
            drawn = rng.uniform(*room.rt60_seconds, size=(len(selected), 1)).astype(np.float32)
            rt60 = to_device(torch.from_numpy(drawn), device)
            times = torch.arange(ceil(room.rt60_seconds[1] * SAMPLE_RATE), device=device) / SAMPLE_RATE
            responses = torch.randn(len(selected), len(times), generator=generator, device=device)
            responses = responses * 10 ** (-3 * times / rt60)
        responses = responses / torch.linalg.vector_norm(responses, dim=1, keepdim=True)
        rows = to_device(torch.from_numpy(selected), device)
        reverberant = fftconvolve(samples[rows], responses)[:, : samples.shape[1]]
        return samples.index_copy(0, rows, reverberant)

    def _add_noise(
        self,
        settings: Noise,
        samples: Tensor,
        num_samples: Tensor,
        rng: np.random.Generator,
        generator: torch.Generator,
    ) -> Tensor:
        selected = np.flatnonzero(rng.random(len(samples)) < settings.probability)
        if not len(selected):
            return samples
        device, width = samples.device, samples.shape[1]
        drawn = rng.uniform(*settings.snr_db, size=len(selected)).astype(np.float32)
        ratios = to_device(torch.from_numpy(drawn), device)
        if self._noise_files:
            chosen = rng.integers(len(self._noise_files), size=len(selected))
            excerpts = [self._recordings.excerpt(self._noise_files[i], width, rng.random()) for i in chosen]
            noise = to_device(torch.from_numpy(np.stack(excerpts)), device)
        else:
            noise = torch.randn(len(selected), width, generator=generator, device=device)
        rows = to_device(torch.from_numpy(selected), device)
        noisy = add_noise(samples[rows], noise, ratios, to_device(num_samples[selected], device))
        # No gain brings digital silence to the requested ratio; such clips stay unchanged.
        return samples.index_copy(0, rows, torch.where(noisy.isfinite(), noisy, samples[rows]))


class RecordingCache:
    """Noise and room recordings, which stay decoded in memory; the least recently used are dropped first.

    Long recordings are opened for each excerpt.
    """

    def __init__(self, max_bytes: int, max_file_bytes: int) -> None:
        """Keep recordings of up to `max_bytes` in total, and none that takes more than `max_file_bytes`."""
        self._max_bytes, self._max_file_bytes = max_bytes, max_file_bytes
        # The least recently used comes first. Room responses are kept apart: they are resampled and cut.
        self._kept: dict[tuple[str, Path], tuple[FloatSamples, int]] = {}
        self.bytes = 0
        """The size of the recordings that are kept."""

    def excerpt(self, path: Path, width: int, position: float) -> FloatSamples:
        """Return `width` samples at 16 kHz of the first channel, from the fraction `position` on.

        A short recording is repeated.
        """
        if ("noise", path) not in self._kept:
            with sf.SoundFile(path) as file:
                if 4 * file.frames > self._max_file_bytes:
                    frames = ceil(width * file.samplerate / SAMPLE_RATE)
                    file.seek(_excerpt_start(file.frames, frames, position))
                    samples = file.read(frames, dtype="float32", always_2d=True)[:, 0]
                    return np.resize(_resample(samples, file.samplerate), width)
        samples, rate = self._get("noise", path, _read_first_channel)
        frames = ceil(width * rate / SAMPLE_RATE)
        start = _excerpt_start(len(samples), frames, position)
        return np.resize(_resample(samples[start : start + frames], rate), width)

    def room_response(self, path: Path) -> FloatSamples:
        """Return the impulse response of a room at 16 kHz, from its peak on, so that it adds no delay.

        Raises:
            SpeechmillError: It is silent.
        """
        return self._get("room", path, _read_room_response)[0]

    def _get(self, kind: str, path: Path, read: Callable[[Path], tuple[FloatSamples, int]]) -> tuple[FloatSamples, int]:
        """Return the samples and the rate of a recording, and keep them."""
        found = self._kept.pop((kind, path), None)
        if found is None:
            found = read(path)
            self.bytes += found[0].nbytes
        self._kept[kind, path] = found
        while self.bytes > self._max_bytes:
            self.bytes -= self._kept.pop(next(iter(self._kept)))[0].nbytes
        return found


class DeviceFeatures:
    """Features of samples that are already on a device, equal within 1e-6 to those of a feature extractor."""

    def __init__(self, extractor: Wav2Vec2FeatureExtractor) -> None:
        self._normalises, self._returns_mask = extractor.do_normalize, extractor.return_attention_mask

    def __call__(self, samples: Tensor, num_samples: Tensor) -> dict[str, Tensor]:
        """Return `input_values`, shape (clips, samples), and `attention_mask` if the extractor returns one.

        `num_samples` is on the host.
        """
        num_samples = to_device(num_samples, samples.device)
        mask = _clip_mask(samples, num_samples)
        if self._normalises:
            # Without a mask, the extractor normalises over the padding as well.
            width = torch.full_like(num_samples, samples.shape[1])
            samples = normalise(samples, num_samples if self._returns_mask else width)
        return {"input_values": samples} | ({"attention_mask": mask.int()} if self._returns_mask else {})


def normalise(samples: Tensor, num_samples: Tensor) -> Tensor:
    """Return clips normalised to zero mean and unit variance, shape (clips, samples); the padding stays zero.

    Equals `Wav2Vec2FeatureExtractor.zero_mean_unit_var_norm` of transformers within 1e-6.
    """
    length = num_samples[:, None]
    # In 64 bits; in 32, the mean of a quiet clip with a DC offset is less accurate than numpy's.
    mean = samples.sum(1, keepdim=True, dtype=torch.float64) / length
    centred = (samples - mean.to(samples.dtype)) * _clip_mask(samples, num_samples)
    variance = centred.square().sum(1, keepdim=True, dtype=torch.float64) / length
    return centred / (variance + 1e-7).sqrt().to(samples.dtype)


def _clip_mask(samples: Tensor, num_samples: Tensor) -> Tensor:
    """Return True for samples of a clip and False for padding, shape (clips, samples)."""
    return torch.arange(samples.shape[1], device=samples.device) < num_samples[:, None]


def _excerpt_start(length: int, frames: int, position: float) -> int:
    return int(position * max(1, length - frames + 1))


def _read_first_channel(path: Path) -> tuple[FloatSamples, int]:
    samples, rate = sf.read(path, dtype="float32", always_2d=True)
    return np.ascontiguousarray(samples[:, 0]), rate


def _read_room_response(path: Path) -> tuple[FloatSamples, int]:
    response = _resample(*_read_first_channel(path))
    if not response.any():
        raise SpeechmillError(f"{path} is silent and cannot be used as a room response; delete it")
    # A copy, since a view would keep what is cut off in memory.
    return response[np.abs(response).argmax() :].copy(), SAMPLE_RATE


def _resample(samples: FloatSamples, rate: int) -> FloatSamples:
    return samples if rate == SAMPLE_RATE else np.asarray(soxr.resample(samples, rate, SAMPLE_RATE))
