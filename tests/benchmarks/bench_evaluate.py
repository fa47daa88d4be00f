"""How fast a set is heard on the CPU, against the pipeline of transformers with 64 clips a batch, on the same clips.

The pipeline is handed samples that wait in memory, while ours reads shards and computes each clip's loss as well. Both
compute in fp32. Processor time on one thread is compared, so that other work on the machine disturbs little.
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
from benchmarks.stock import stored
from benchmarks.table import Row
from material import recording
from speechmill.core.flac import Int16Samples
from speechmill.core.tables import SAMPLE_RATE
from speechmill.inference.log_probs import transcribe
from speechmill.model.models import load_checkpoint, model_config, new_model
from speechmill.text.vocab import VocabSettings, processor, vocabulary

CLIP_COUNT, ROUNDS, BATCH = 128, 2, 64
# Of Common Voice, as `bench_loader` has it.
MEAN_SECONDS, SPREAD = 5.2, 0.35
BATCH_SECONDS = 120.0
FASTER_THAN_THE_PIPELINE = 1.3
CPU = torch.device("cpu")


class SilentWhereNothingIs(Wav2Vec2ForCTC):
    """Gives the blank in padding, as a trained model does; random weights would have the pipeline write something."""

    def forward(self, input_values: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs: Any) -> Any:
        """What the model gives, for `input_values` of shape (batch, samples)."""
        out = super().forward(input_values, attention_mask=attention_mask, **kwargs)
        if attention_mask is not None:
            heard = self._get_feature_vector_attention_mask(out.logits.shape[1], attention_mask)
            out.logits[..., 0] += 1e4 * ~heard.bool()
        return out


def drawn_clips() -> tuple[list[str], list[Int16Samples]]:
    """Noise of the lengths that speech has, with twelve letters a second."""
    drawn = np.random.default_rng(0)
    seconds = drawn.lognormal(np.log(MEAN_SECONDS) - SPREAD**2 / 2, SPREAD, CLIP_COUNT).clip(1, 12)
    long = recording(60)
    starts = drawn.integers(48 * SAMPLE_RATE, size=CLIP_COUNT)
    texts = ["".join(drawn.choice(list(LETTERS), round(12 * s))) for s in seconds]
    return texts, [long[start : start + round(s * SAMPLE_RATE)] for start, s in zip(starts, seconds, strict=True)]


def rows() -> Iterator[Row]:
    """Ours against the pipeline, in rounds that take turns; the best of each counts."""
    torch.set_num_threads(1)
    # It would say that a data set is better than a list, which is no faster here.
    logging.set_verbosity_error()
    texts, recordings = drawn_clips()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = processor(vocabulary([LETTERS]), VocabSettings(init=INIT), base=None)
        vocab = made.tokenizer.get_vocab()
        torch.manual_seed(0)
        saved = new_model(model_config(INIT, None, {}, len(vocab)), None, vocab)
        # Random weights hear the same in every clip; these listen to what comes.
        torch.nn.init.normal_(saved.lm_head.weight)
        saved.save_pretrained(folder / "model")
        made.save_pretrained(folder / "model")
        table, shards = stored(texts, recordings, folder)
        clips = table.to_pylist()
        model, _ = load_checkpoint(folder / "model")
        peer = pipeline(
            "automatic-speech-recognition",
            model=SilentWhereNothingIs.from_pretrained(folder / "model").eval(),
            tokenizer=made.tokenizer,
            feature_extractor=made.feature_extractor,
            device="cpu",
        )
        said: dict[str, list[str]] = {}

        def ours() -> None:
            said["ours"] = transcribe(model, made, clips, shards, BATCH_SECONDS, CPU)[0]

        def theirs() -> None:
            # Anew each time: the pipeline takes what it is handed apart.
            heard = (clip.astype(np.float32) / np.float32(32768) for clip in recordings)
            samples = [{"raw": clip, "sampling_rate": SAMPLE_RATE} for clip in heard]
            said["theirs"] = [each["text"] for each in peer(samples, batch_size=BATCH)]

        ways = {"ours": ours, "theirs": theirs}
        best = dict.fromkeys(ways, float("inf"))
        for _ in range(ROUNDS):
            for way, work in ways.items():
                best[way] = min(best[way], processor_seconds(work))
    seconds = sum(map(len, recordings)) / SAMPLE_RATE
    equal = sum(one == other for one, other in zip(said["ours"], said["theirs"], strict=True))
    yield Row("evaluate, the pipeline with 64 clips a batch: audio a second", seconds / best["theirs"], unit="s")
    yield Row("evaluate, ours: faster than the pipeline", best["theirs"] / best["ours"], FASTER_THAN_THE_PIPELINE)
    yield Row("evaluate, ours: equal hypotheses", 100 * equal / len(recordings), 100, "%")
