"""A perfect model: it reads the tokens of a text from the levels of the samples."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from transformers import Wav2Vec2Config, Wav2Vec2Processor

from speechmill.core.flac import Int16Samples
from speechmill.text.vocab import VocabSettings, vocabulary
from speechmill.text.vocab import processor as new_processor

LEVEL = 1000


class Levels(torch.nn.Module):
    """A perfect model of `encode_as_levels`: in each frame, the amplitude of the samples is the id of the token."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.config = Wav2Vec2Config(conv_kernel=[400], conv_stride=[320], conv_dim=[1], vocab_size=tokens)
        self.config.feat_extract_norm = "layer"

    def forward(self, input_values: torch.Tensor, attention_mask: torch.Tensor | None = None) -> SimpleNamespace:
        frames = int(self._get_feat_extract_output_lengths(input_values.shape[1]))
        levels = input_values[:, 160::320][:, :frames] * 32768 / LEVEL
        ids = torch.arange(self.config.vocab_size)
        return SimpleNamespace(logits=-((levels[..., None] - ids) ** 2))

    def _get_feat_extract_output_lengths(self, samples: Any) -> Any:
        return (samples - 400) // 320 + 1


def encode_as_levels(text: str, processor: Wav2Vec2Processor) -> Int16Samples:
    """Samples that `Levels` transcribes as `text`: three frames per character, each followed by two blank frames."""
    levels = [level for i in processor.tokenizer(f"{text} ").input_ids for level in [i] * 3 + [0] * 2]
    return np.repeat(np.array(levels, dtype=np.int16) * LEVEL, 320)


def levels_model(characters: str) -> tuple[Any, Wav2Vec2Processor]:
    """Return the model of a vocabulary of `characters` and its processor."""
    settings = VocabSettings(init={"model_type": "wav2vec2", "feat_extract_norm": "layer"})
    processor = new_processor(vocabulary([characters]), settings, base=None)
    processor.feature_extractor.do_normalize = False
    return Levels(len(processor.tokenizer.get_vocab())).eval(), processor
