"""Clips with the lengths of Common Voice, and batches of them in memory."""

import numpy as np
import torch

from speechmill.model.ctc import IGNORED_LABEL

RATE = 16_000
# Clips of Common Voice 8.0 ru have a mean of 5.23 s, and few are above 10 s.
MEAN, SPREAD, SHORTEST, LONGEST = 5.23, 0.35, 1.5, 15.0
LETTERS_PER_SECOND, LABELS = 12, 40

Batch = dict[str, torch.Tensor]


def clip_lengths(seconds: float) -> list[int]:
    """Return the lengths in samples of clips with a total of at least `seconds`."""
    rng = np.random.default_rng(0)
    lengths: list[int] = []
    while sum(lengths) < seconds * RATE:
        length = rng.lognormal(np.log(MEAN) - SPREAD**2 / 2, SPREAD)
        lengths.append(round(RATE * min(max(length, SHORTEST), LONGEST)))
    return lengths


def batch_of(lengths: list[int]) -> Batch:
    """Return a padded batch of noise with random labels, in host memory, pinned where there is a GPU."""
    generator = torch.Generator().manual_seed(len(lengths))
    samples = torch.tensor(lengths)
    mask = torch.arange(max(lengths)) < samples[:, None]
    texts = (samples * LETTERS_PER_SECOND / RATE).long()
    labels = torch.randint(3, LABELS, (len(lengths), int(texts.max())), generator=generator)
    labels[torch.arange(labels.shape[1]) >= texts[:, None]] = IGNORED_LABEL
    noise = torch.randn(mask.shape, generator=generator) * mask
    batch = {"input_values": noise, "attention_mask": mask.int(), "labels": labels, "num_samples": samples}
    return {key: tensor.pin_memory() for key, tensor in batch.items()} if torch.cuda.is_available() else batch
