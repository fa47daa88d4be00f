"""Changes of training batches on the device that trains: speed, rooms, noise."""

from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf
import soxr
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchaudio.functional import add_noise, fftconvolve
from torchaudio.transforms import Resample
from transformers import Wav2Vec2FeatureExtractor

from speechmill.config.augment import AugmentConfig, Noise, Room
from speechmill.core.command import SpeechmillError
from speechmill.core.flac import FloatSamples
from speechmill.core.tables import SAMPLE_RATE

_SUFFIXES = {".flac", ".mp3", ".ogg", ".opus", ".wav"}

# Keeps what is drawn here apart from what the order of the clips draws of the same seed.
_STREAM = 0xA06


def audio_files(folder: Path) -> list[Path]:
    """The audio files below `folder`, by name.

    Raises SpeechmillError where there is none, or one that cannot be opened: better now than in the midst of training.
    """
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)
    if not files:
        raise SpeechmillError(f"{folder} has no audio files; mend the `folder` below runs.*.augment")
    for path in files:
        try:
            sf.info(path)
        except sf.LibsndfileError as error:
            raise SpeechmillError(f"{path} cannot be read ({error}); delete it or put it right") from error
    return files


class Augmenter:
    """Changes a batch as the settings say: its speed, then the rooms that its clips are heard in, then noise.

    What is drawn is a function of `seed` and of the batch's number, so that a training that goes on hears what an
    undisturbed one would. Nothing waits for the device.
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
        self._resamplers = {factor: Resample(round(100 * factor), 100) for factor in settings.speed}

    def __call__(self, samples: Tensor, num_samples: Tensor, batch: int) -> tuple[Tensor, Tensor]:
        """The clips as they are heard this time, on the device of `samples`.

        Args:
            samples: From -1 to 1, shape (clips, samples), each clip followed by zeros.
            num_samples: The length of each clip, shape (clips,), on the same device.
            batch: The batch's number in the whole training, over all processes.

        Returns:
            Samples and lengths of the same shapes, but for another number of samples where the speed was changed. The
            padding is zero; the samples may lie beyond -1 and 1.

        Raises:
            SpeechmillError: A recording of a room is silent.
        """
        rng = np.random.default_rng([self._seed, batch, _STREAM])
        generator = torch.Generator(samples.device).manual_seed(int(rng.integers(2**63)))
        # The Trainer computes a step under autocast, which would resample in 16 bits.
        with torch.autocast(samples.device.type, enabled=False):
            if self._settings.speed:
                samples, num_samples = self._at_speed(samples, num_samples, float(rng.choice(self._settings.speed)))
            if self._settings.room:
                samples = self._in_rooms(self._settings.room, samples, rng, generator)
            if self._settings.noise:
                samples = self._with_noise(self._settings.noise, samples, num_samples, rng, generator)
        return samples * _real(samples, num_samples), num_samples

    def _at_speed(self, samples: Tensor, num_samples: Tensor, factor: float) -> tuple[Tensor, Tensor]:
        faster: Tensor = self._resamplers[factor].to(samples.device)(samples)
        hundredths = round(100 * factor)
        # Whole numbers round up exactly; torchaudio's, in floats, may be a sample less.
        length = (num_samples * 100 + hundredths - 1) // hundredths
        return faster, length.clamp(max=faster.shape[1])

    def _in_rooms(self, room: Room, samples: Tensor, rng: np.random.Generator, generator: torch.Generator) -> Tensor:
        drawn = np.flatnonzero(rng.random(len(samples)) < room.probability)
        if not len(drawn):
            return samples
        device = samples.device
        if self._room_files:
            chosen = [_response(self._room_files[i]) for i in rng.integers(len(self._room_files), size=len(drawn))]
            taps = min(max(map(len, chosen)), samples.shape[1])
            padded = [np.pad(each[:taps], (0, max(0, taps - len(each)))) for each in chosen]
            responses = _on(device, np.stack(padded))
        else:
            # The late response of a room after Polack (1988): Gaussian noise that falls by 60 dB in `seconds`.
            seconds = _on(device, rng.uniform(*room.rt60_seconds, size=(len(drawn), 1)).astype(np.float32))
            times = torch.arange(ceil(room.rt60_seconds[1] * SAMPLE_RATE), device=device) / SAMPLE_RATE
            responses = torch.randn(len(drawn), len(times), generator=generator, device=device)
            responses = responses * 10 ** (-3 * times / seconds)
        responses = responses / torch.linalg.vector_norm(responses, dim=1, keepdim=True)
        rows = _on(device, drawn)
        heard = fftconvolve(samples[rows], responses)[:, : samples.shape[1]]
        return samples.index_copy(0, rows, heard)

    def _with_noise(
        self,
        settings: Noise,
        samples: Tensor,
        num_samples: Tensor,
        rng: np.random.Generator,
        generator: torch.Generator,
    ) -> Tensor:
        drawn = np.flatnonzero(rng.random(len(samples)) < settings.probability)
        if not len(drawn):
            return samples
        device, width = samples.device, samples.shape[1]
        ratios = _on(device, rng.uniform(*settings.snr_db, size=len(drawn)).astype(np.float32))
        if self._noise_files:
            chosen = rng.integers(len(self._noise_files), size=len(drawn))
            stretches = [_stretch(self._noise_files[i], width, rng.random()) for i in chosen]
            noise = _on(device, np.stack(stretches))
        else:
            noise = torch.randn(len(drawn), width, generator=generator, device=device)
        rows = _on(device, drawn)
        noisy = add_noise(samples[rows], noise, ratios, num_samples[rows])
        # A stretch of pure silence can be made as loud as asked by no factor.
        return samples.index_copy(0, rows, torch.where(noisy.isfinite(), noisy, samples[rows]))


class DeviceFeatures:
    """What a processor's feature extractor gives, within 1e-6, made of samples that are on a device already.

    Raises SpeechmillError where the extractor makes mel spectra, which it does on the CPU.
    """

    def __init__(self, extractor: object) -> None:
        if not isinstance(extractor, Wav2Vec2FeatureExtractor):
            raise SpeechmillError(
                "runs.*.augment: this model hears mel spectra, not samples, and only samples can be changed; remove"
                " the section, and use SpecAugment: `mask_time_prob` and its kin in the model's configuration"
            )
        self._normalises, self._gives_mask = extractor.do_normalize, extractor.return_attention_mask

    def __call__(self, samples: Tensor, num_samples: Tensor) -> dict[str, Tensor]:
        """`input_values`, shape (clips, samples), and `attention_mask`, the same, where the extractor gives one."""
        mask = _real(samples, num_samples)
        if self._normalises:
            # Without a mask, the extractor takes the padding for a part of the clip.
            width = torch.full_like(num_samples, samples.shape[1])
            samples = normalised(samples, num_samples if self._gives_mask else width)
        return {"input_values": samples} | ({"attention_mask": mask.int()} if self._gives_mask else {})


def normalised(samples: Tensor, num_samples: Tensor) -> Tensor:
    """Clips, each followed by zeros, with zero mean and unit variance; the same shape, and zeros where they were.

    As transformers' `Wav2Vec2FeatureExtractor.zero_mean_unit_var_norm` has it, within 1e-6.
    """
    length = num_samples[:, None]
    # In 64 bits, as else the mean of a quiet clip that is off zero is worse than numpy's.
    mean = samples.sum(1, keepdim=True, dtype=torch.float64) / length
    centred = (samples - mean.to(samples.dtype)) * _real(samples, num_samples)
    variance = centred.square().sum(1, keepdim=True, dtype=torch.float64) / length
    return centred / (variance + 1e-7).sqrt().to(samples.dtype)


def _real(samples: Tensor, num_samples: Tensor) -> Tensor:
    """Which samples are a clip's and which are padding, shape (clips, samples)."""
    return torch.arange(samples.shape[1], device=samples.device) < num_samples[:, None]


def _on(device: torch.device, values: NDArray[Any]) -> Tensor:
    """The values on the device; the host does not wait for what the device is at."""
    tensor = torch.from_numpy(values)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def _stretch(path: Path, width: int, share: float) -> FloatSamples:
    """`width` samples at 16 kHz of a file's first channel, from a `share` of the way in; a short file is repeated."""
    with sf.SoundFile(path) as file:
        frames = ceil(width * file.samplerate / SAMPLE_RATE)
        file.seek(int(share * max(1, file.frames - frames + 1)))
        return np.resize(_at_16k(file.read(frames, dtype="float32", always_2d=True)[:, 0], file.samplerate), width)


def _response(path: Path) -> FloatSamples:
    """A room's response at 16 kHz, from its loudest sample on, so that it delays nothing."""
    samples, rate = sf.read(path, dtype="float32", always_2d=True)
    response = _at_16k(samples[:, 0], rate)
    if not response.any():
        raise SpeechmillError(f"{path} is silent, so it is no response of a room; delete it")
    return response[np.abs(response).argmax() :]


def _at_16k(samples: FloatSamples, rate: int) -> FloatSamples:
    return samples if rate == SAMPLE_RATE else np.asarray(soxr.resample(samples, rate, SAMPLE_RATE))
