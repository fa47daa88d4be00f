"""Batches of clips: pure functions of the lengths, the settings, the seed and the epoch."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from speechmill.config.plan import Batch
from speechmill.tables import SAMPLE_RATE

Lengths = NDArray[np.int64]
"""The number of samples of each clip, shape (clips,)."""

# Clips are sorted by length within pools of about so many batches: larger pools pad less, smaller ones mix better.
_POOL_BATCHES = 32


def epoch_batches(lengths: Lengths, batch: Batch, seed: int, epoch: int) -> list[NDArray[np.int64]]:
    """The batches of one epoch, each an array of indices into `lengths`; every clip stands in exactly one.

    With `batch.clips` they are drawn at random; with `batch.seconds` each holds clips of similar length whose padded
    seconds (the longest times the number) stay within the budget, a clip that is longer than the budget alone.
    """
    order = np.random.default_rng([seed, epoch]).permutation(len(lengths))
    if batch.clips is not None:
        return [order[i : i + batch.clips] for i in range(0, len(order), batch.clips)]
    budget = (batch.seconds or 0.0) * SAMPLE_RATE
    pool = max(1, int(_POOL_BATCHES * budget / max(1.0, float(lengths.mean()))))
    batches: list[NDArray[np.int64]] = []
    for start in range(0, len(order), pool):
        drawn = order[start : start + pool]
        batches += fill(drawn[np.argsort(lengths[drawn], kind="stable")], lengths, budget)
    mixed = np.random.default_rng([seed, epoch, 1]).permutation(len(batches))
    return [batches[i] for i in mixed]


def fill(ordered: NDArray[np.int64], lengths: Lengths, budget: float) -> list[NDArray[np.int64]]:
    """Cut `ordered`, indices sorted by length upwards, into runs of at most `budget` padded samples each."""
    batches: list[NDArray[np.int64]] = []
    start = 0
    for end in range(len(ordered)):
        if end > start and lengths[ordered[end]] * (end + 1 - start) > budget:
            batches.append(ordered[start:end])
            start = end
    return [*batches, ordered[start:]] if start < len(ordered) else batches


def all_batches(lengths: Lengths, batch: Batch, seed: int, epochs: int) -> Iterator[NDArray[np.int64]]:
    """The batches of all epochs, one after the other: the order that training follows."""
    for epoch in range(epochs):
        yield from epoch_batches(lengths, batch, seed, epoch)


@dataclass(frozen=True)
class Extent:
    """How much there is of `all_batches`."""

    batches: int
    padded_samples: int
    largest: int
    """The padded samples of the largest batch."""

    def padding_share(self, samples: int) -> float:
        """The share of the padded samples that is not among the `samples` of real audio."""
        return 1.0 - samples / self.padded_samples


def measure(lengths: Lengths, batch: Batch, seed: int, epochs: int) -> Extent:
    """Go through `all_batches` and count."""
    sizes = [int(lengths[b].max()) * len(b) for b in all_batches(lengths, batch, seed, epochs)]
    return Extent(len(sizes), sum(sizes), max(sizes))
