"""A reference implementation of CTC inference with plain transformers, one clip at a time."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import ctc_loss
from transformers import AutoModelForCTC, AutoProcessor

from speechmill.core.flac import Int16Samples
from speechmill.core.schemas import SAMPLE_RATE
from speechmill.inference.log_probs import Chunk, LogProbsSettings, autocast, clip_chunks
from speechmill.model.labels import LabelEncoder
from speechmill.model.models import output_frames, samples_per_frame


class ReferenceModel:
    """A CTC model that is loaded by the Auto classes of transformers and processes clips without batching."""

    def __init__(self, model: Path, device: torch.device) -> None:
        self.processor = AutoProcessor.from_pretrained(model, trust_remote_code=False)
        self.model = AutoModelForCTC.from_pretrained(model, trust_remote_code=False).eval().to(device)
        self._device = device
        self._frame_samples = samples_per_frame(self.model)

    @property
    def vocab_size(self) -> int:
        """The number of outputs of the model."""
        return int(self.model.config.vocab_size)

    def chunks(self, num_samples: int, settings: LogProbsSettings) -> list[Chunk]:
        """Return the parts of a clip that are processed separately, as in the evaluation."""
        return clip_chunks(num_samples, settings, self._frame_samples)

    def log_probs(self, samples: Int16Samples, settings: LogProbsSettings) -> NDArray[np.float32]:
        """Return the natural log-probabilities of a clip, shape (frames, vocabulary)."""
        parts = []
        for chunk in self.chunks(len(samples), settings):
            output = self._forward(samples[chunk.start : chunk.stop], settings)
            parts.append(output[chunk.kept_frames(len(output), self._frame_samples)])
        return np.concatenate(parts)

    def _forward(self, samples: Int16Samples, settings: LogProbsSettings) -> NDArray[np.float32]:
        if output_frames(self.model, torch.tensor([len(samples)])) <= 0:
            # The clip is shorter than the receptive field of one frame.
            return np.empty((0, self.vocab_size), dtype=np.float32)
        floats = samples.astype(np.float32) / (np.iinfo(np.int16).max + 1)
        inputs = self.processor(floats, sampling_rate=SAMPLE_RATE, return_tensors="pt").to(self._device)
        with torch.inference_mode(), autocast(settings, self._device):
            logits = self.model(**inputs).logits[0]
        log_probs: NDArray[np.float32] = torch.log_softmax(logits.float(), -1).cpu().numpy()
        return log_probs

    def decode(self, log_probs: NDArray[np.float32]) -> str:
        """Return the greedy hypothesis: the text of the most probable token of each frame."""
        text: str = self.processor.tokenizer.decode(log_probs.argmax(-1)) if len(log_probs) else ""
        return text

    def loss(self, log_probs: NDArray[np.float32], text: str) -> float:
        """Return the CTC loss of a text per token; infinite if the frames are too few for the text."""
        labels = torch.tensor(LabelEncoder(self.processor)(text), dtype=torch.long)
        if not len(log_probs):
            return float("inf") if len(labels) else 0.0
        frames = torch.from_numpy(log_probs)[:, None]
        loss = ctc_loss(
            frames,
            labels[None],
            torch.tensor([len(frames)]),
            torch.tensor([len(labels)]),
            blank=self.model.config.pad_token_id,
            reduction="sum",
        )
        return float(loss) / max(1, len(labels))
