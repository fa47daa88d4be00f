"""The feature extractors of transformers as modules of torch, which become part of an exported graph.

Each computes, for a single clip, what the extractor of its name does. A spectrum is linear in the samples, with its
window and pre-emphasis, so it is one convolution, which every exporter and runtime has; not all have Fourier
transforms.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    LasrFeatureExtractor,
    ParakeetFeatureExtractor,
    SeamlessM4TFeatureExtractor,
    Wav2Vec2FeatureExtractor,
)

from speechmill.core.command import SpeechmillError

Features = tuple[Tensor, Tensor | None]
"""The features of a clip, shape (1, length) or (1, spectra, size), and a mask, shape (1, spectra), or None for none."""


class _Samples(nn.Module):
    """Wav2Vec2FeatureExtractor: the samples, with zero mean and unit variance if the processor says so."""

    def __init__(self, extractor: Any) -> None:
        super().__init__()
        self._normalise = extractor.do_normalize

    def forward(self, samples: Tensor) -> Features:
        if not self._normalise:
            return samples, None
        centred = samples - samples.mean()
        return centred / torch.sqrt((centred * centred).mean() + 1e-7), None


class _MelPower(nn.Module):
    """The energy in each band of the mel scale, shape (1, spectra, bands)."""

    kernel: Tensor
    filters: Tensor

    def __init__(self, frame: Tensor, fft: int, hop: int, filters: Any) -> None:
        """Prepare a transform.

        Args:
            frame: The matrix that is applied to the samples of a frame before the transform, shape (length, length).
            fft: The size of the Fourier transform.
            hop: The number of samples from one frame to the next.
            filters: The weights of the bands, shape (fft // 2 + 1, bands).
        """
        super().__init__()
        basis = torch.fft.rfft(frame.double().T, n=fft).T
        kernel = torch.cat([basis.real, basis.imag]).float()
        self.register_buffer("kernel", kernel[:, None])
        self.register_buffer("filters", torch.as_tensor(filters).float())
        self._hop = hop

    def forward(self, samples: Tensor) -> Tensor:
        real, imaginary = torch.conv1d(samples[:, None], self.kernel, stride=self._hop).chunk(2, dim=1)
        return (real * real + imaginary * imaginary).transpose(1, 2) @ self.filters


class _Seamless(nn.Module):
    """SeamlessM4TFeatureExtractor, of w2v-BERT: the spectra of Kaldi, normalised, two in a row."""

    def __init__(self, extractor: Any) -> None:
        super().__init__()
        length = len(extractor.window)
        without_mean = torch.eye(length).double() - 1 / length
        emphasis = torch.eye(length).double() - 0.97 * torch.diag(torch.ones(length - 1), -1)
        emphasis[0, 0] -= 0.97
        window = torch.diag(torch.from_numpy(extractor.window)).double()
        self._power = _MelPower(window @ emphasis @ without_mean, 512, 160, extractor.mel_filters)

    def forward(self, samples: Tensor) -> Features:
        spectra = self._power(samples * 2**15).clamp(min=1.192092955078125e-07).log()
        spectra = (spectra - spectra.mean(1, keepdim=True)) / torch.sqrt(spectra.var(1, keepdim=True) + 1e-7)
        # An odd number of spectra is padded with one that is masked.
        count = spectra.shape[1]
        even = (count + 1) // 2 * 2
        padded = torch.cat([spectra, torch.zeros_like(spectra[:, :1])], dim=1)[:, :even]
        mask = torch.cat([torch.ones_like(spectra[:, :, 0]), torch.zeros_like(spectra[:, :1, 0])], dim=1)[:, :even]
        return padded.reshape(1, -1, 2 * spectra.shape[2]), mask[:, 1::2]


class _Parakeet(nn.Module):
    """ParakeetFeatureExtractor: normalised spectra, of which the last one is masked."""

    def __init__(self, extractor: Any) -> None:
        super().__init__()
        window = torch.hann_window(extractor.win_length, periodic=False)
        frame = torch.diag(_centred(window, extractor.n_fft))
        self._power = _MelPower(frame, extractor.n_fft, extractor.hop_length, extractor.mel_filters.T)
        self._padding, self._emphasis = extractor.n_fft // 2, extractor.preemphasis

    def forward(self, samples: Tensor) -> Features:
        emphasised = torch.cat([samples[:, :1], samples[:, 1:] - self._emphasis * samples[:, :-1]], dim=1)
        padded = nn.functional.pad(emphasised, (self._padding, self._padding))
        spectra = torch.log(self._power(padded) + 2**-24)[:, :-1]
        spectra = (spectra - spectra.mean(1, keepdim=True)) / (spectra.std(1, keepdim=True) + 1e-5)
        last = torch.zeros_like(spectra[:, :1])
        mask = torch.cat([torch.ones_like(spectra[:, :, 0]), last[:, :, 0]], dim=1)
        return torch.cat([spectra, last], dim=1), mask.bool()


class _Lasr(nn.Module):
    """LasrFeatureExtractor: spectra."""

    def __init__(self, extractor: Any) -> None:
        super().__init__()
        frame = torch.diag(torch.hann_window(extractor.win_length, periodic=False, dtype=torch.float64))
        self._power = _MelPower(frame, extractor.n_fft, extractor.hop_length, extractor.mel_filters)

    def forward(self, samples: Tensor) -> Features:
        return self._power(samples).clamp(min=1e-5).log(), None


def _centred(window: Tensor, size: int) -> Tensor:
    """Return a window with zeros on both sides."""
    left = (size - len(window)) // 2
    return nn.functional.pad(window, (left, size - len(window) - left))


_MODULES: dict[type, type[nn.Module]] = {
    Wav2Vec2FeatureExtractor: _Samples,
    SeamlessM4TFeatureExtractor: _Seamless,
    ParakeetFeatureExtractor: _Parakeet,
    LasrFeatureExtractor: _Lasr,
}


def graph_features(extractor: Any) -> nn.Module:
    """Return a module that computes the `Features` of samples, shape (1, length), as a feature extractor does.

    Raises:
        SpeechmillError: There is no module for the class of the extractor.
    """
    kind = type(extractor)
    if kind not in _MODULES:
        raise SpeechmillError(f"export: the features of {kind.__name__} cannot be computed in ONNX; remove `export`")
    return _MODULES[kind](extractor)
