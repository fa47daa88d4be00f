from itertools import chain, pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from transformers.trainer_pt_utils import get_length_grouped_indices

from speechmill.config.plan import Batch, PlanConfig
from speechmill.core.schemas import SAMPLE_RATE
from speechmill.model.batching import (
    Clips,
    PlannedBatches,
    all_batches,
    batch_stats,
    clips_from_table,
    epoch_batches,
    pack_batches,
)

LENGTHS = st.lists(st.integers(1, 20 * SAMPLE_RATE), min_size=1, max_size=200).map(np.array)
BY_CLIPS = st.builds(Batch, clips=st.integers(1, 40), by_length=st.booleans())
BATCHES = st.one_of(st.builds(Batch, seconds=st.floats(0.5, 60)), BY_CLIPS)
KINDS = pytest.mark.parametrize(
    "batch",
    [Batch(seconds=40), Batch(clips=16), Batch(clips=16, by_length=True)],
    ids=["seconds", "clips", "by_length"],
)


@st.composite
def many_clips(draw: st.DrawFn) -> Clips:
    """Clips in row groups of up to 20."""
    lengths = draw(LENGTHS)
    size = draw(st.integers(1, 20))
    numbers = np.arange(len(lengths)) // size
    # The order must not rely on the positions of row groups in the table or on their numbers.
    return Clips(lengths, draw(st.permutations(numbers.tolist()).map(np.array)) * draw(st.integers(1, 1000)))


def plans(batch: st.SearchStrategy[Batch] = BATCHES) -> st.SearchStrategy[PlanConfig]:
    return st.builds(
        PlanConfig,
        epochs=st.integers(1, 3),
        batch=batch,
        gradient_accumulation=st.integers(1, 4),
        pool_clips=st.integers(1, 300),
        save_steps=st.just(1),
        seed=st.integers(0, 2**32),
    )


def plan(batch: Batch, epochs: int = 1, seed: int = 42, pool_clips: int = 8192, **more: Any) -> PlanConfig:
    return PlanConfig(epochs=epochs, batch=batch, seed=seed, pool_clips=pool_clips, save_steps=1, **more)


def corpus(clips: int = 3000, group: int = 16) -> Clips:
    """Clips with the lengths of read speech: about five seconds, with a tail up to twenty."""
    seconds = np.random.default_rng(7).gamma(4, 1.3, size=clips).clip(0.5, 20)
    return Clips(np.asarray(seconds * SAMPLE_RATE, dtype=np.int64), np.arange(clips) // group)


def order(batches: list[NDArray[np.int64]]) -> list[list[int]]:
    return [batch.tolist() for batch in batches]


@given(many_clips(), plans(), st.integers(0, 100))
def test_every_clip_occurs_once_per_epoch(clips: Clips, given_plan: PlanConfig, epoch: int) -> None:
    batches = epoch_batches(clips, given_plan, epoch)
    assert sorted(chain.from_iterable(order(batches))) == list(range(len(clips.lengths)))
    assert all(len(each) for each in batches)


@given(many_clips(), plans(st.builds(Batch, seconds=st.floats(0.5, 60))))
def test_padded_seconds_stay_within_budget(clips: Clips, given_plan: PlanConfig) -> None:
    assert given_plan.batch.seconds is not None
    for batch in epoch_batches(clips, given_plan, 0):
        # A clip that exceeds the budget is a batch of its own.
        assert len(batch) == 1 or clips.lengths[batch].max() * len(batch) <= given_plan.batch.seconds * SAMPLE_RATE


@given(many_clips(), plans(BY_CLIPS))
def test_only_the_last_batch_by_clips_is_not_full(clips: Clips, given_plan: PlanConfig) -> None:
    size, count = given_plan.batch.clips, len(clips.lengths)
    assert size is not None
    sizes = [len(batch) for batch in epoch_batches(clips, given_plan, 0)]
    assert sizes == [size] * (count // size) + ([count % size] if count % size else [])


@given(many_clips(), plans(), st.integers(0, 2**32 - 1))
def test_order_depends_on_seed_and_epoch_only(clips: Clips, given_plan: PlanConfig, state: int) -> None:
    first = order(epoch_batches(clips, given_plan, 3))
    np.random.seed(state)
    torch.manual_seed(state)
    other = given_plan.model_copy(update={"epochs": 5, "gradient_accumulation": 7, "save_steps": 9})
    assert order(epoch_batches(clips, other, 3)) == first


@KINDS
def test_epochs_and_seeds_have_different_orders(batch: Batch) -> None:
    clips = corpus(300)
    first = order(epoch_batches(clips, plan(batch), 0))
    assert order(epoch_batches(clips, plan(batch), 1)) != first
    assert order(epoch_batches(clips, plan(batch, seed=43), 0)) != first


@given(many_clips(), plans())
def test_only_one_pool_of_row_groups_is_open(clips: Clips, given_plan: PlanConfig) -> None:
    # A row group is open from the first batch that needs it to the last one.
    batches = epoch_batches(clips, given_plan, 0)
    number = np.empty(len(clips.lengths), dtype=int)
    for i, batch in enumerate(batches):
        number[batch] = i
    groups = np.unique(clips.groups)
    spans = [(number[clips.groups == g].min(), number[clips.groups == g].max()) for g in groups]
    sizes = {g: int((clips.groups == g).sum()) for g in groups}
    held = max(
        sum(sizes[g] for g, (first, last) in zip(groups, spans, strict=True) if first <= i <= last)
        for i in range(len(batches))
    )
    # A batch that crosses the end of a pool needs a second pool, and further ones if they are smaller than a batch.
    assert held <= 2 * (given_plan.pool_clips + max(sizes.values())) + 2 * (given_plan.batch.clips or 0)


@KINDS
def test_pools_differ_between_epochs(batch: Batch) -> None:
    clips = corpus(640)
    pools = [
        set(clips.groups[np.concatenate(epoch_batches(clips, plan(batch, pool_clips=64), epoch))[:32]].tolist())
        for epoch in (0, 1)
    ]
    assert len(pools[0]) <= 10
    assert pools[0] != pools[1]


def test_all_batches_concatenates_the_epochs() -> None:
    clips, three = corpus(50), plan(Batch(clips=8), epochs=3)
    assert order(list(all_batches(clips, three))) == [
        each for epoch in range(3) for each in order(epoch_batches(clips, three, epoch))
    ]


@pytest.mark.parametrize("batch", [Batch(seconds=40), Batch(clips=8, by_length=True)], ids=["seconds", "by_length"])
def test_batches_are_not_sorted_by_length(batch: Batch) -> None:
    clips = corpus()
    longest = [clips.lengths[b].max() for b in epoch_batches(clips, plan(batch), 0)]
    # If they were sorted, nearly every batch would be longer than the previous one.
    assert 0.4 < np.mean(np.diff(longest) > 0) < 0.6


def test_similar_lengths_reduce_padding() -> None:
    clips = corpus()
    by_seconds, by_length, at_random = (
        batch_stats(clips, plan(batch)).padding_share
        for batch in (Batch(seconds=80), Batch(clips=16, by_length=True), Batch(clips=16))
    )
    assert by_seconds < 0.05
    assert by_length < 0.1
    assert at_random > 0.3


@pytest.mark.parametrize("count", [3000, 100])
def test_padding_by_length_matches_transformers(count: int) -> None:
    # Reference: get_length_grouped_indices of transformers, which the Trainer uses for group_by_length.
    clips = corpus(count)
    indices = get_length_grouped_indices(clips.lengths.tolist(), 8, generator=torch.Generator().manual_seed(0))
    padded = [int(clips.lengths[indices[i : i + 8]].max()) * len(indices[i : i + 8]) for i in range(0, count, 8)]
    stats = batch_stats(clips, plan(Batch(clips=8, by_length=True)))
    assert stats.batches == len(padded)
    assert stats.padded_samples == pytest.approx(sum(padded), rel=0.03)


def test_batches_by_seconds_are_nearly_full() -> None:
    clips = corpus()
    padded = [clips.lengths[b].max() * len(b) / SAMPLE_RATE for b in epoch_batches(clips, plan(Batch(seconds=80)), 0)]
    assert np.mean(padded) > 0.9 * 80


@given(LENGTHS, st.floats(0.5, 60))
def test_packed_batches_are_ordered_and_full(lengths: NDArray[np.int64], seconds: float) -> None:
    ordered, budget = np.argsort(lengths, kind="stable"), seconds * SAMPLE_RATE
    batches = pack_batches(ordered, lengths, budget)
    assert list(chain.from_iterable(order(batches))) == ordered.tolist()
    for batch, following in pairwise(batches):
        assert len(batch) == 1 or lengths[batch[-1]] * len(batch) <= budget
        assert lengths[following[0]] * (len(batch) + 1) > budget


def test_packing_no_clips_gives_no_batches() -> None:
    assert pack_batches(np.array([], dtype=np.int64), corpus(1).lengths, 1e6) == []


@given(many_clips(), plans())
def test_batch_stats_match_the_batches(clips: Clips, given_plan: PlanConfig) -> None:
    stats = batch_stats(clips, given_plan)
    padded = [int(clips.lengths[b].max()) * len(b) for b in all_batches(clips, given_plan)]
    assert (stats.batches, stats.padded_samples, stats.largest) == (len(padded), sum(padded), max(padded))
    assert 0 <= stats.padding_share < 1


def test_row_groups_have_unique_numbers() -> None:
    row_groups = [
        ("a", "train", 0, 0),
        ("a", "train", 0, 1),
        ("a", "train", 1, 0),
        ("a", "dev", 0, 0),
        ("b", "train", 0, 0),
    ]
    rows = [
        {"dataset": dataset, "split": split, "shard": shard, "row_group": group, "num_samples": 10 * i}
        for i, (dataset, split, shard, group) in enumerate(row_groups * 2)
    ]
    table = pa.concat_tables([pa.Table.from_pylist(rows[:3]), pa.Table.from_pylist(rows[3:])])
    clips = clips_from_table(table)
    assert clips.lengths.tolist() == [10 * i for i in range(10)]
    assert clips.groups[:5].tolist() == clips.groups[5:].tolist()
    assert len(set(clips.groups.tolist())) == len(row_groups)


@given(many_clips(), plans(), st.integers(1, 3), st.data())
def test_resumed_sampler_yields_the_same_rest(
    clips: Clips, given_plan: PlanConfig, processes: int, data: st.DataObject
) -> None:
    count = batch_stats(clips, given_plan).batches
    rank = data.draw(st.integers(0, processes - 1))
    full = PlannedBatches(clips, given_plan, count, rank, processes)
    steps = len(full) // given_plan.gradient_accumulation
    start = data.draw(st.integers(0, steps))
    resumed = PlannedBatches(clips, given_plan, count, rank, processes, start)
    batches = list(full)
    assert len(batches) == len(full) == len(resumed)
    assert list(resumed) == batches[start * given_plan.gradient_accumulation :]
    assert [resumed.clips_in_step(s) for s in range(start, steps)] == [
        full.clips_in_step(s) for s in range(start, steps)
    ]


@given(many_clips(), plans(), st.integers(1, 4))
def test_batches_of_a_step_are_split_by_process(clips: Clips, given_plan: PlanConfig, processes: int) -> None:
    planned = order(list(all_batches(clips, given_plan)))
    ranks = [PlannedBatches(clips, given_plan, len(planned), rank, processes) for rank in range(processes)]
    passes = list(zip(*ranks, strict=True))
    batches = [batch for forward_pass in passes for batch in forward_pass]
    assert [{sampled.batch for sampled in batch} for batch in batches] == [{number} for number in range(len(batches))]
    assert [[sampled.clip for sampled in batch] for batch in batches[: len(planned)]] == planned
    assert {sampled.weight for batch in batches[: len(planned)] for sampled in batch} == {1.0}
    step_batches = given_plan.gradient_accumulation * processes
    # The last step is completed with repetitions of its first batch, which have weight 0.
    assert len(batches) == -(-len(planned) // step_batches) * step_batches
    for batch in batches[len(planned) :]:
        assert [sampled.clip for sampled in batch] == planned[len(batches) - step_batches]
        assert {sampled.weight for sampled in batch} == {0.0}
    for step in range(len(batches) // step_batches):
        sampled_clips = chain.from_iterable(batches[step * step_batches : (step + 1) * step_batches])
        assert ranks[0].clips_in_step(step) == sum(sampled.weight for sampled in sampled_clips)


def test_resuming_skips_finished_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    clips, ten = corpus(100), plan(Batch(clips=8, by_length=True), epochs=10)
    computed: list[int] = []

    def recording(clips: Clips, plan: PlanConfig, epoch: int) -> list[NDArray[np.int64]]:
        computed.append(epoch)
        return epoch_batches(clips, plan, epoch)

    monkeypatch.setattr("speechmill.model.batching.epoch_batches", recording)
    resumed = PlannedBatches(clips, ten, 130, start=8 * 13 + 5)
    assert next(iter(resumed))[0].batch == 8 * 13 + 5
    assert resumed.clips_in_step(8 * 13 + 12) == 4
    assert computed == [8]
