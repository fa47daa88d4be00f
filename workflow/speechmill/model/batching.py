"""Batches of clips for training, as pure functions of the clips, the plan's settings and the epoch.

In each epoch the row groups of the shards are shuffled and divided into pools. Clips are shuffled only within a pool,
and the pools follow one another, so that only the row groups of one pool have to be in memory at a time.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from speechmill.config.mixing import MixingSettings
from speechmill.config.plan import PlanConfig
from speechmill.core.schemas import SAMPLE_RATE
from speechmill.model.mixing import Mix, mix

Lengths = NDArray[np.int64]
"""The number of samples of each clip, shape (clips,)."""

Indices = NDArray[np.int64]
"""The positions of the clips of a batch or a pool in the table, shape (clips,)."""

# With `by_length`, this number of batches of random clips is sorted by length together, as in transformers'
# `LengthGroupedSampler`, or a quarter of the clips if that is less.
_MEGABATCH, _MIN_MEGABATCHES = 50, 4


@dataclass(frozen=True)
class Clips:
    """The properties of clips that determine the batches."""

    lengths: Lengths
    groups: NDArray[np.int64]
    """A number for the row group of each clip, shape (clips,): equal for clips of the same shard and row group."""
    mix: Mix | None = None
    """How often each clip occurs in an epoch; None for once."""


def clips_from_table(table: pa.Table, mixing: MixingSettings | None = None) -> Clips:
    """Return the lengths and row groups of a table of clips, and their mix, if they are mixed."""
    columns = table.select(["dataset", "split", "shard", "row_group", "num_samples"]).combine_chunks()
    groups = np.zeros(len(columns), dtype=np.int64)
    for name in ("dataset", "split", "shard", "row_group"):
        # A mixed-radix number in which each column is a digit.
        digit = np.unique(columns[name].dictionary_encode().chunk(0).indices.to_numpy(), return_inverse=True)[1]
        groups = groups * (digit.max(initial=0) + 1) + digit
    mixed = mix(table, mixing) if mixing else None
    return Clips(columns["num_samples"].to_numpy().astype(np.int64), groups, mixed)


def epoch_batches(clips: Clips, plan: PlanConfig, epoch: int) -> list[Indices]:
    """Return the batches of one epoch, in which every clip occurs once, or as often as `clips.mix` says.

    With `batch.seconds`, a batch has clips of similar length, and its duration with padding (the longest clip times the
    number of clips) stays within that budget, except that a longer clip is a batch of its own. With `batch.clips`,
    batches have random clips or, with `by_length`, clips of similar length; only the last one may have fewer.
    """
    rng = np.random.default_rng([plan.seed, epoch])
    if clips.mix is None:
        return _batches(_pools(clips.groups, plan.pool_clips, rng), clips.lengths, plan, rng)
    chosen = clips.mix.epoch(plan.seed, epoch)
    pools = [
        part
        for pool in _pools(clips.groups[chosen], plan.pool_clips, rng)
        for part in _parts_without_repetition(pool, chosen, rng)
    ]
    return [chosen[batch] for batch in _batches(pools, clips.lengths[chosen], plan, rng)]


def _batches(pools: list[Indices], lengths: Lengths, plan: PlanConfig, rng: np.random.Generator) -> list[Indices]:
    size = plan.batch.clips
    if size is None:
        budget = (plan.batch.seconds or 0.0) * SAMPLE_RATE
        return _batches_by_seconds(pools, lengths, budget, rng)
    if plan.batch.by_length:
        return _batches_by_length(pools, lengths, size, rng)
    order = np.concatenate(pools)
    return [order[i : i + size] for i in range(0, len(order), size)]


def _pools(groups: NDArray[np.int64], size: int, rng: np.random.Generator) -> list[Indices]:
    """Return all clips in pools of complete row groups, each of at most `size` clips plus one row group, shuffled."""
    _, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    count = math.ceil(len(groups) / size)
    group_order = rng.permutation(len(sizes))
    clips_before = np.cumsum(sizes[group_order]) - sizes[group_order]
    pool_of_group = np.empty(len(sizes), dtype=np.int64)
    pool_of_group[group_order] = clips_before * count // len(groups)
    clip_order = rng.permutation(len(groups))
    pool = pool_of_group[group[clip_order]]
    ends = np.cumsum(np.bincount(pool, minlength=count))
    return np.split(clip_order[np.argsort(pool, kind="stable")], ends[:-1])


def _parts_without_repetition(pool: Indices, clips: Indices, rng: np.random.Generator) -> list[Indices]:
    """Divide a pool of positions in `clips` into random parts, in each of which every clip occurs at most once.

    Otherwise batches of similar length would mostly contain the repetitions of a clip together.
    """
    _, clip, counts = np.unique(clips[pool], return_inverse=True, return_counts=True)
    parts = int(counts.max(initial=1))
    if parts == 1:
        return [pool]
    by_clip = np.argsort(clip, kind="stable")
    repetition = np.empty(len(pool), dtype=np.int64)
    repetition[by_clip] = np.arange(len(pool)) - np.repeat(np.cumsum(counts) - counts, counts)
    part = (rng.integers(parts, size=len(counts))[clip] + repetition) % parts
    return np.split(pool[np.argsort(part, kind="stable")], np.cumsum(np.bincount(part, minlength=parts))[:-1])


def _batches_by_seconds(
    pools: list[Indices], lengths: Lengths, budget: float, rng: np.random.Generator
) -> list[Indices]:
    batches: list[Indices] = []
    for pool in pools:
        packed = pack_batches(pool[np.argsort(lengths[pool], kind="stable")], lengths, budget)
        batches += [packed[i] for i in rng.permutation(len(packed))]
    return batches


def _batches_by_length(pools: list[Indices], lengths: Lengths, size: int, rng: np.random.Generator) -> list[Indices]:
    megabatch = size * max(1, min(_MEGABATCH, len(lengths) // (_MIN_MEGABATCHES * size)))
    batches: list[Indices] = []
    # Clips that do not fill a batch are moved to the next pool.
    rest = np.empty(0, dtype=np.int64)
    for pool in pools:
        order = np.concatenate([rest, pool])
        full = len(order) - len(order) % size
        order, rest = order[:full], order[full:]
        megabatches = np.arange(full) // megabatch
        grouped = order[np.lexsort((lengths[order], megabatches))].reshape(-1, size)
        batches += list(grouped[rng.permutation(len(grouped))])
    return [*batches, rest] if len(rest) else batches


def pack_batches(ordered: Indices, lengths: Lengths, budget: float) -> list[Indices]:
    """Divide `ordered`, indices sorted by increasing length, into batches of at most `budget` samples with padding.

    A clip that is longer than the budget is a batch of its own.
    """
    # A batch that ends after a clip fits the budget if it starts at this position or later. Since the clips become
    # longer, the positions increase.
    earliest = np.arange(1, len(ordered) + 1) - int(budget) // np.maximum(1, lengths[ordered])
    starts = np.arange(len(ordered))
    # At least one clip, even if it is longer than the budget.
    ends = np.maximum(starts + 1, np.searchsorted(earliest, starts, side="right")).tolist()
    batches: list[Indices] = []
    start = 0
    while start < len(ends):
        batches.append(ordered[start : ends[start]])
        start = ends[start]
    return batches


def all_batches(clips: Clips, plan: PlanConfig) -> Iterator[Indices]:
    """Yield the batches of all epochs in training order."""
    for epoch in range(plan.epochs):
        yield from epoch_batches(clips, plan, epoch)


@dataclass(frozen=True)
class BatchStats:
    """The number and the sizes of `all_batches`."""

    batches: int
    clips: int
    """The clips of all batches, each as often as it occurs."""
    samples: int
    """The samples of these clips, without padding."""
    padded_samples: int
    """The samples of all batches with padding."""
    largest: int
    """The samples of the largest batch with padding."""

    @property
    def padding_share(self) -> float:
        """The share of padding."""
        return 1.0 - self.samples / self.padded_samples


def batch_stats(clips: Clips, plan: PlanConfig, limit: int | None = None) -> BatchStats:
    """Return the statistics of `all_batches`, or of the first `limit` of them."""
    count, occurrences, samples, padded_samples, largest = 0, 0, 0, 0, 0
    for epoch in range(plan.epochs):
        batches = epoch_batches(clips, plan, epoch)[: None if limit is None else limit - count]
        if not batches:
            break
        sizes = np.array([len(batch) for batch in batches], dtype=np.int64)
        lengths = clips.lengths[np.concatenate(batches)]
        longest = np.maximum.reduceat(lengths, np.cumsum(sizes) - sizes)
        count += len(batches)
        occurrences += len(lengths)
        samples += int(lengths.sum())
        padded_samples += int((longest * sizes).sum())
        largest = max(largest, int((longest * sizes).max()))
    return BatchStats(count, occurrences, samples, padded_samples, largest)


class SampledClip(NamedTuple):
    """A clip as an element of a batch."""

    clip: int
    """The clip's position in the table."""
    batch: int = 0
    """The batch's number, counted over all epochs and processes."""
    weight: float = 1.0
    """0 for a clip that is repeated only to complete a step with too few batches, and must not count."""


class PlannedBatches:
    """Batch sampler over all epochs, whose order depends on nothing but the plan, so that training can resume.

    An optimizer step takes `gradient_accumulation * processes` consecutive batches: forward pass `a` of process `r` is
    batch `(step * gradient_accumulation + a) * processes + r`. If the last step has too few, its first batch is
    repeated with weight 0, so that every process does the same number of forward passes.

    `len` is the number of batches of one process from the first step on, whatever the start: the Trainer treats all
    epochs as a single one, whose length must not change when training resumes.

    Args:
        clips: The clips to train on.
        plan: The plan's settings.
        count: The number of all batches, of all epochs and processes.
        rank: The rank of this process.
        processes: The number of processes.
        start: The optimizer step to start from.
    """

    def __init__(
        self, clips: Clips, plan: PlanConfig, count: int, rank: int = 0, processes: int = 1, start: int = 0
    ) -> None:
        self._clips, self._plan, self._count = clips, plan, count
        self._rank, self._processes, self._start = rank, processes, start
        self._step_batches = plan.gradient_accumulation * processes
        self._steps = math.ceil(count / self._step_batches)
        self._sizes: list[NDArray[np.int64]] = []

    def __len__(self) -> int:
        return self._steps * self._plan.gradient_accumulation

    def __iter__(self) -> Iterator[list[SampledClip]]:
        batches = self._batches_from(self._start * self._step_batches)
        for step in range(self._start, self._steps):
            numbers = range(step * self._step_batches, (step + 1) * self._step_batches)
            planned = list(islice(batches, min(self._step_batches, self._count - numbers.start)))
            for i in range(self._rank, self._step_batches, self._processes):
                batch, weight = (planned[i], 1.0) if i < len(planned) else (planned[0], 0.0)
                yield [SampledClip(clip, numbers[i], weight) for clip in batch.tolist()]

    def clips_in_step(self, step: int) -> int:
        """Return the number of clips of an optimizer step in all processes, without repeated batches."""
        first = step * self._step_batches
        last, clips = min(self._count, first + self._step_batches), 0
        for epoch in range(self._plan.epochs):
            sizes = self._epoch_sizes(epoch)
            clips += int(sizes[max(0, first) : max(0, last)].sum())
            first, last = first - len(sizes), last - len(sizes)
            if last <= 0:
                break
        return clips

    def _batches_from(self, first: int) -> Iterator[Indices]:
        """Yield `all_batches` from batch `first` on."""
        for epoch in range(self._plan.epochs):
            if first and first >= len(self._epoch_sizes(epoch)):
                first -= len(self._epoch_sizes(epoch))
                continue
            yield from epoch_batches(self._clips, self._plan, epoch)[first:]
            first = 0

    def _epoch_sizes(self, epoch: int) -> NDArray[np.int64]:
        """Return the number of clips in each batch of an epoch, shape (batches,)."""
        clips, size = len(self._clips.lengths), self._plan.batch.clips
        if size is not None and self._clips.mix is None:
            # The sizes are known without computing the batches.
            return np.minimum(size, clips - np.arange(0, clips, size))
        while len(self._sizes) <= epoch:
            batches = epoch_batches(self._clips, self._plan, len(self._sizes))
            self._sizes.append(np.array([len(batch) for batch in batches]))
        return self._sizes[epoch]
