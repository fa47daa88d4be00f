"""The speed of inference on the CPU, compared with the pipeline of transformers at 64 clips per batch.

The pipeline gets samples in memory, while speechmill reads shards and also computes the loss of each clip. Both compute
in fp32, on the same clips. Processor time on one thread is compared, which other programs affect little.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Wav2Vec2ForCTC, pipeline
from transformers.utils import logging

from benchmarks.bench_train import INIT, LETTERS
from benchmarks.clock import processor_seconds
from benchmarks.stock import store_clips
from benchmarks.table import Row
from material import recording
from speechmill.core.flac import Int16Samples
from speechmill.core.schemas import SAMPLE_RATE
from speechmill.inference.log_probs import transcribe
from speechmill.model.models import load_checkpoint, model_config, new_model
from speechmill.text.vocab import VocabSettings, processor, vocabulary

CLIP_COUNT, ROUNDS, BATCH = 128, 2, 64
# The lengths of Common Voice, as in `bench_loader`.
MEAN_SECONDS, SPREAD = 5.2, 0.35
BATCH_SECONDS = 120.0
FASTER_THAN_THE_PIPELINE = 1.3
CPU = torch.device("cpu")


class BlankInPadding(Wav2Vec2ForCTC):
    """A model that predicts blanks in padding, as a trained model does; random weights would predict characters."""

    def forward(self, input_values: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs: Any) -> Any:
        """Return the output of the model for `input_values` of shape (batch, samples)."""
        out = super().forward(input_values, attention_mask=attention_mask, **kwargs)
        if attention_mask is not None:
            is_frame = self._get_feature_vector_attention_mask(out.logits.shape[1], attention_mask)
            out.logits[..., 0] += 1e4 * ~is_frame.bool()
        return out


def sample_clips() -> tuple[list[str], list[Int16Samples]]:
    """Return noise with the lengths of speech, and texts of twelve letters per second."""
    rng = np.random.default_rng(0)
    seconds = rng.lognormal(np.log(MEAN_SECONDS) - SPREAD**2 / 2, SPREAD, CLIP_COUNT).clip(1, 12)
    source = recording(60)
    starts = rng.integers(48 * SAMPLE_RATE, size=CLIP_COUNT)
    texts = ["".join(rng.choice(list(LETTERS), round(12 * s))) for s in seconds]
    return texts, [source[start : start + round(s * SAMPLE_RATE)] for start, s in zip(starts, seconds, strict=True)]


def rows() -> Iterator[Row]:
    """Yield the speed of both, the best of alternating rounds."""
    torch.set_num_threads(1)
    # The pipeline would warn that a dataset is better than a list, although it is no faster here.
    logging.set_verbosity_error()
    texts, recordings = sample_clips()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        letters = processor(vocabulary([LETTERS]), VocabSettings(init=INIT), base=None)
        vocab = letters.tokenizer.get_vocab()
        torch.manual_seed(0)
        saved = new_model(model_config(INIT, None, {}, len(vocab)), None, vocab)
        # The default initialisation gives the same output for every clip.
        torch.nn.init.normal_(saved.lm_head.weight)
        saved.save_pretrained(folder / "model")
        letters.save_pretrained(folder / "model")
        table, shards = store_clips(texts, recordings, folder)
        clips = table.to_pylist()
        model, _ = load_checkpoint(folder / "model")
        peer = pipeline(
            "automatic-speech-recognition",
            model=BlankInPadding.from_pretrained(folder / "model").eval(),
            tokenizer=letters.tokenizer,
            feature_extractor=letters.feature_extractor,
            device="cpu",
        )
        hypotheses: dict[str, list[str]] = {}

        def with_speechmill() -> None:
            hypotheses["speechmill"] = transcribe(model, letters, clips, shards, BATCH_SECONDS, CPU)[0]

        def with_pipeline() -> None:
            # Prepared in each round, since the pipeline modifies its input.
            floats = (clip.astype(np.float32) / np.float32(32768) for clip in recordings)
            samples = [{"raw": clip, "sampling_rate": SAMPLE_RATE} for clip in floats]
            hypotheses["pipeline"] = [each["text"] for each in peer(samples, batch_size=BATCH)]

        functions = {"speechmill": with_speechmill, "pipeline": with_pipeline}
        best = dict.fromkeys(functions, float("inf"))
        for _ in range(ROUNDS):
            for name, function in functions.items():
                best[name] = min(best[name], processor_seconds(function))
    seconds = sum(map(len, recordings)) / SAMPLE_RATE
    equal = sum(one == other for one, other in zip(hypotheses["speechmill"], hypotheses["pipeline"], strict=True))
    yield Row("evaluate, pipeline with 64 clips per batch: audio per second", seconds / best["pipeline"], unit="s")
    yield Row("evaluate: faster than the pipeline", best["pipeline"] / best["speechmill"], FASTER_THAN_THE_PIPELINE)
    yield Row("evaluate: hypotheses equal to those of the pipeline", 100 * equal / len(recordings), 100, "%")
