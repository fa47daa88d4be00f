"""Batches of clips: pure functions of the clips, the plan's settings and the epoch.

In each epoch the row groups of the shards are shuffled and cut into pools. All further mixing stays within a pool, and
the pools follow one another, so that only the row groups of one pool have to be at hand at a time.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from speechmill.config.plan import PlanConfig
from speechmill.core.tables import SAMPLE_RATE

Lengths = NDArray[np.int64]
"""The number of samples of each clip, shape (clips,)."""

Indices = NDArray[np.int64]
"""The clips of a batch or a pool by their place in the table, shape (clips,)."""

# With `by_length`, so many batches of random clips are sorted by length together, as transformers'
# `LengthGroupedSampler` does it; of fewer clips at least so many parts are made.
_MEGABATCH, _LEAST_PARTS = 50, 4


@dataclass(frozen=True)
class Clips:
    """What the order of batches depends on."""

    lengths: Lengths
    groups: NDArray[np.int64]
    """For each clip a number for its row group, shape (clips,): the same number, the same shard and row group."""


def clips_of(table: pa.Table) -> Clips:
    """The lengths and row groups of a table of clips."""
    columns = table.select(["dataset", "split", "shard", "row_group", "num_samples"]).combine_chunks()
    groups = np.zeros(len(columns), dtype=np.int64)
    for name in ("dataset", "split", "shard", "row_group"):
        # Numbers of one column after another, as digits of one number.
        digit = np.unique(columns[name].dictionary_encode().chunk(0).indices.to_numpy(), return_inverse=True)[1]
        groups = groups * (digit.max(initial=0) + 1) + digit
    return Clips(columns["num_samples"].to_numpy().astype(np.int64), groups)


def epoch_batches(clips: Clips, plan: PlanConfig, epoch: int) -> list[Indices]:
    """The batches of one epoch; every clip stands in exactly one.

    With `batch.seconds` each holds clips of similar length whose padded seconds (the longest times the number) stay
    within the budget, a clip that is longer than the budget alone. With `batch.clips` they are drawn at random, or,
    with `by_length`, hold clips of similar length; only the epoch's last one may have fewer clips.
    """
    random = np.random.default_rng([plan.seed, epoch])
    pools = _pools(clips.groups, plan.pool_clips, random)
    size = plan.batch.clips
    if size is None:
        budget = (plan.batch.seconds or 0.0) * SAMPLE_RATE
        return _by_seconds(pools, clips.lengths, budget, random)
    if plan.batch.by_length:
        return _by_length(pools, clips.lengths, size, random)
    order = np.concatenate(pools)
    return [order[i : i + size] for i in range(0, len(order), size)]


def _pools(groups: NDArray[np.int64], size: int, random: np.random.Generator) -> list[Indices]:
    """All clips in pools of whole row groups, at most one row group more than `size` clips each, in random order."""
    _, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    count = math.ceil(len(groups) / size)
    drawn = random.permutation(len(sizes))
    before = np.cumsum(sizes[drawn]) - sizes[drawn]
    pool_of_group = np.empty(len(sizes), dtype=np.int64)
    pool_of_group[drawn] = before * count // len(groups)
    order = random.permutation(len(groups))
    pool = pool_of_group[group[order]]
    ends = np.cumsum(np.bincount(pool, minlength=count))
    return np.split(order[np.argsort(pool, kind="stable")], ends[:-1])


def _by_seconds(pools: list[Indices], lengths: Lengths, budget: float, random: np.random.Generator) -> list[Indices]:
    batches: list[Indices] = []
    for pool in pools:
        filled = pack_batches(pool[np.argsort(lengths[pool], kind="stable")], lengths, budget)
        batches += [filled[i] for i in random.permutation(len(filled))]
    return batches


def _by_length(pools: list[Indices], lengths: Lengths, size: int, random: np.random.Generator) -> list[Indices]:
    sorted_together = size * max(1, min(_MEGABATCH, len(lengths) // (_LEAST_PARTS * size)))
    batches: list[Indices] = []
    # What does not fill a batch goes into the next pool.
    rest = np.empty(0, dtype=np.int64)
    for pool in pools:
        drawn = np.concatenate([rest, pool])
        whole = len(drawn) - len(drawn) % size
        drawn, rest = drawn[:whole], drawn[whole:]
        part = np.arange(whole) // sorted_together
        grouped = drawn[np.lexsort((lengths[drawn], part))].reshape(-1, size)
        batches += list(grouped[random.permutation(len(grouped))])
    return [*batches, rest] if len(rest) else batches


def pack_batches(ordered: Indices, lengths: Lengths, budget: float) -> list[Indices]:
    """Cut `ordered`, indices sorted by length upwards, into runs of at most `budget` padded samples each."""
    # A run that ends after a clip fits if it starts there or later; as clips grow, these starts do.
    earliest = np.arange(1, len(ordered) + 1) - int(budget) // np.maximum(1, lengths[ordered])
    starts = np.arange(len(ordered))
    # A clip that is longer than the budget stands alone.
    ends = np.maximum(starts + 1, np.searchsorted(earliest, starts, side="right")).tolist()
    batches: list[Indices] = []
    start = 0
    while start < len(ends):
        batches.append(ordered[start : ends[start]])
        start = ends[start]
    return batches


def all_batches(clips: Clips, plan: PlanConfig) -> Iterator[Indices]:
    """The batches of all epochs, one after the other: the order that training follows."""
    for epoch in range(plan.epochs):
        yield from epoch_batches(clips, plan, epoch)


@dataclass(frozen=True)
class BatchStats:
    """How much there is of `all_batches`."""

    batches: int
    padded_samples: int
    largest: int
    """The padded samples of the largest batch."""

    def padding_share(self, samples: int) -> float:
        """The share of the padded samples that is not among the `samples` of real audio."""
        return 1.0 - samples / self.padded_samples


def batch_stats(clips: Clips, plan: PlanConfig) -> BatchStats:
    """Go through `all_batches` and count."""
    count, padded_samples, largest = 0, 0, 0
    for epoch in range(plan.epochs):
        batches = epoch_batches(clips, plan, epoch)
        sizes = np.array([len(batch) for batch in batches], dtype=np.int64)
        longest = np.maximum.reduceat(clips.lengths[np.concatenate(batches)], np.cumsum(sizes) - sizes)
        count += len(batches)
        padded_samples += int((longest * sizes).sum())
        largest = max(largest, int((longest * sizes).max()))
    return BatchStats(count, padded_samples, largest)


class SampledClip(NamedTuple):
    """A clip as a batch holds it."""

    clip: int
    """Its place in the table of clips."""
    batch: int = 0
    """The batch's number, counted over all epochs and processes."""
    weight: float = 1.0
    """0 where it only fills up a step that has too few batches, so that it must not count."""


class PlannedBatches:
    """A batch sampler over all epochs, in the plan's order, so that a step's batches never depend on what ran before.

    A step of the optimiser takes `gradient_accumulation * processes` batches that follow one another: forward pass `a`
    of process `r` is batch `(step * gradient_accumulation + a) * processes + r`. Where the last step has too few, the
    others repeat its first batch with weight 0, so that every process does the same number of forward passes.

    `len` is the number of batches of one process from the first step on, wherever it starts: to the Trainer all is one
    long epoch, and its length must not change when training goes on.
    """

    def __init__(
        self, clips: Clips, plan: PlanConfig, count: int, rank: int = 0, processes: int = 1, start: int = 0
    ) -> None:
        """`count` is the number of batches in all, of all processes; `start` the optimiser's step to start from."""
        self._clips, self._plan, self._count = clips, plan, count
        self._rank, self._processes, self._start = rank, processes, start
        self._a_step = plan.gradient_accumulation * processes
        self._steps = math.ceil(count / self._a_step)
        self._sizes: list[NDArray[np.int64]] = []

    def __len__(self) -> int:
        return self._steps * self._plan.gradient_accumulation

    def __iter__(self) -> Iterator[list[SampledClip]]:
        batches = self._batches_from(self._start * self._a_step)
        for step in range(self._start, self._steps):
            numbers = range(step * self._a_step, (step + 1) * self._a_step)
            real = list(islice(batches, min(self._a_step, self._count - numbers.start)))
            for place in range(self._rank, self._a_step, self._processes):
                batch, weight = (real[place], 1.0) if place < len(real) else (real[0], 0.0)
                yield [SampledClip(i, numbers[place], weight) for i in batch.tolist()]

    def clips_in_step(self, step: int) -> int:
        """The number of clips that all processes see in a step of the optimiser; what only fills up is not counted."""
        first = step * self._a_step
        last, clips = min(self._count, first + self._a_step), 0
        for epoch in range(self._plan.epochs):
            sizes = self._epoch_sizes(epoch)
            clips += int(sizes[max(0, first) : max(0, last)].sum())
            first, last = first - len(sizes), last - len(sizes)
            if last <= 0:
                break
        return clips

    def _batches_from(self, first: int) -> Iterator[Indices]:
        """What is left of `all_batches` from batch `first` on."""
        for epoch in range(self._plan.epochs):
            if first and first >= len(self._epoch_sizes(epoch)):
                first -= len(self._epoch_sizes(epoch))
                continue
            yield from epoch_batches(self._clips, self._plan, epoch)[first:]
            first = 0

    def _epoch_sizes(self, epoch: int) -> NDArray[np.int64]:
        """The number of clips in each batch of an epoch, shape (batches,)."""
        clips, size = len(self._clips.lengths), self._plan.batch.clips
        if size is not None:
            # Nothing has to be drawn to know them.
            return np.minimum(size, clips - np.arange(0, clips, size))
        while len(self._sizes) <= epoch:
            batches = epoch_batches(self._clips, self._plan, len(self._sizes))
            self._sizes.append(np.array([len(batch) for batch in batches]))
        return self._sizes[epoch]
