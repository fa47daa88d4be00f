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
from speechmill.core.tables import SAMPLE_RATE
from speechmill.model.batching import (
    Clips,
    PlannedBatches,
    all_batches,
    batch_stats,
    clips_of,
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
    """Clips in row groups of at most a few."""
    lengths = draw(LENGTHS)
    size = draw(st.integers(1, 20))
    numbers = np.arange(len(lengths)) // size
    # Where a row group lies in the table, and how it is called, is nothing that the order may build on.
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
    """Lengths like those of read speech: about five seconds, with a tail up to twenty."""
    seconds = np.random.default_rng(7).gamma(4, 1.3, size=clips).clip(0.5, 20)
    return Clips(np.asarray(seconds * SAMPLE_RATE, dtype=np.int64), np.arange(clips) // group)


def order(batches: list[NDArray[np.int64]]) -> list[list[int]]:
    return [batch.tolist() for batch in batches]


@given(many_clips(), plans(), st.integers(0, 100))
def test_every_clip_is_seen_exactly_once_an_epoch(clips: Clips, given_plan: PlanConfig, epoch: int) -> None:
    batches = epoch_batches(clips, given_plan, epoch)
    assert sorted(chain.from_iterable(order(batches))) == list(range(len(clips.lengths)))
    assert all(len(each) for each in batches)


@given(many_clips(), plans(st.builds(Batch, seconds=st.floats(0.5, 60))))
def test_padded_seconds_stay_within_the_budget(clips: Clips, given_plan: PlanConfig) -> None:
    assert given_plan.batch.seconds is not None
    for batch in epoch_batches(clips, given_plan, 0):
        # A clip that does not fit into the budget stands alone.
        assert len(batch) == 1 or clips.lengths[batch].max() * len(batch) <= given_plan.batch.seconds * SAMPLE_RATE


@given(many_clips(), plans(BY_CLIPS))
def test_batches_by_clips_are_full_except_the_last_wherever_pools_end(clips: Clips, given_plan: PlanConfig) -> None:
    size, count = given_plan.batch.clips, len(clips.lengths)
    assert size is not None
    sizes = [len(batch) for batch in epoch_batches(clips, given_plan, 0)]
    assert sizes == [size] * (count // size) + ([count % size] if count % size else [])


@given(many_clips(), plans(), st.integers(0, 2**32 - 1))
def test_the_order_depends_on_seed_and_epoch_only(clips: Clips, given_plan: PlanConfig, state: int) -> None:
    first = order(epoch_batches(clips, given_plan, 3))
    np.random.seed(state)
    torch.manual_seed(state)
    other = given_plan.model_copy(update={"epochs": 5, "gradient_accumulation": 7, "save_steps": 9})
    assert order(epoch_batches(clips, other, 3)) == first


@KINDS
def test_another_epoch_and_another_seed_are_another_order(batch: Batch) -> None:
    clips = corpus(300)
    first = order(epoch_batches(clips, plan(batch), 0))
    assert order(epoch_batches(clips, plan(batch), 1)) != first
    assert order(epoch_batches(clips, plan(batch, seed=43), 0)) != first


@given(many_clips(), plans())
def test_only_the_row_groups_of_a_pool_are_open_at_a_time(clips: Clips, given_plan: PlanConfig) -> None:
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
    # Where a batch reaches over the end of a pool, a second pool is open, and others if they are smaller than a batch.
    assert held <= 2 * (given_plan.pool_clips + max(sizes.values())) + 2 * (given_plan.batch.clips or 0)


@KINDS
def test_row_groups_of_a_pool_are_others_in_each_epoch(batch: Batch) -> None:
    clips = corpus(640)
    pools = [
        set(clips.groups[np.concatenate(epoch_batches(clips, plan(batch, pool_clips=64), epoch))[:32]].tolist())
        for epoch in (0, 1)
    ]
    assert len(pools[0]) <= 10
    assert pools[0] != pools[1]


def test_all_epochs_follow_one_another() -> None:
    clips, three = corpus(50), plan(Batch(clips=8), epochs=3)
    assert order(list(all_batches(clips, three))) == [
        each for epoch in range(3) for each in order(epoch_batches(clips, three, epoch))
    ]


@pytest.mark.parametrize("batch", [Batch(seconds=40), Batch(clips=8, by_length=True)], ids=["seconds", "by_length"])
def test_lengths_do_not_come_in_order(batch: Batch) -> None:
    clips = corpus()
    longest = [clips.lengths[b].max() for b in epoch_batches(clips, plan(batch), 0)]
    # Were they sorted, nearly every batch would be longer than the one before.
    assert 0.4 < np.mean(np.diff(longest) > 0) < 0.6


def test_clips_of_similar_length_share_a_batch_so_that_little_is_padding() -> None:
    clips = corpus()
    by_seconds, by_length, at_random = (
        batch_stats(clips, plan(batch)).padding_share(int(clips.lengths.sum()))
        for batch in (Batch(seconds=80), Batch(clips=16, by_length=True), Batch(clips=16))
    )
    assert by_seconds < 0.05
    assert by_length < 0.1
    assert at_random > 0.3


@pytest.mark.parametrize("count", [3000, 100])
def test_batches_by_length_pad_as_much_as_those_of_transformers(count: int) -> None:
    # Source: get_length_grouped_indices of transformers, which the Trainer's group_by_length follows.
    clips = corpus(count)
    theirs = get_length_grouped_indices(clips.lengths.tolist(), 8, generator=torch.Generator().manual_seed(0))
    padded = [int(clips.lengths[theirs[i : i + 8]].max()) * len(theirs[i : i + 8]) for i in range(0, count, 8)]
    ours = batch_stats(clips, plan(Batch(clips=8, by_length=True)))
    assert ours.batches == len(padded)
    assert ours.padded_samples == pytest.approx(sum(padded), rel=0.03)


def test_batches_by_seconds_are_nearly_full() -> None:
    clips = corpus()
    padded = [clips.lengths[b].max() * len(b) / SAMPLE_RATE for b in epoch_batches(clips, plan(Batch(seconds=80)), 0)]
    assert np.mean(padded) > 0.9 * 80


@given(LENGTHS, st.floats(0.5, 60))
def test_filled_batches_keep_the_order_and_could_not_take_one_clip_more(
    lengths: NDArray[np.int64], seconds: float
) -> None:
    ordered, budget = np.argsort(lengths, kind="stable"), seconds * SAMPLE_RATE
    batches = pack_batches(ordered, lengths, budget)
    assert list(chain.from_iterable(order(batches))) == ordered.tolist()
    for batch, following in pairwise(batches):
        assert len(batch) == 1 or lengths[batch[-1]] * len(batch) <= budget
        assert lengths[following[0]] * (len(batch) + 1) > budget


def test_nothing_makes_no_batch() -> None:
    assert pack_batches(np.array([], dtype=np.int64), corpus(1).lengths, 1e6) == []


@given(many_clips(), plans())
def test_what_is_measured_is_what_comes(clips: Clips, given_plan: PlanConfig) -> None:
    extent = batch_stats(clips, given_plan)
    padded = [int(clips.lengths[b].max()) * len(b) for b in all_batches(clips, given_plan)]
    assert (extent.batches, extent.padded_samples, extent.largest) == (len(padded), sum(padded), max(padded))
    assert 0 <= extent.padding_share(int(clips.lengths.sum()) * given_plan.epochs) < 1


def test_clips_of_one_row_group_have_one_number() -> None:
    places = [
        ("a", "train", 0, 0),
        ("a", "train", 0, 1),
        ("a", "train", 1, 0),
        ("a", "dev", 0, 0),
        ("b", "train", 0, 0),
    ]
    rows = [
        {"dataset": dataset, "split": split, "shard": shard, "row_group": group, "num_samples": 10 * i}
        for i, (dataset, split, shard, group) in enumerate(places * 2)
    ]
    table = pa.concat_tables([pa.Table.from_pylist(rows[:3]), pa.Table.from_pylist(rows[3:])])
    clips = clips_of(table)
    assert clips.lengths.tolist() == [10 * i for i in range(10)]
    assert clips.groups[:5].tolist() == clips.groups[5:].tolist()
    assert len(set(clips.groups.tolist())) == len(places)


@given(many_clips(), plans(), st.integers(1, 3), st.data())
def test_a_resumed_start_gives_the_same_tail(
    clips: Clips, given_plan: PlanConfig, processes: int, data: st.DataObject
) -> None:
    count = batch_stats(clips, given_plan).batches
    rank = data.draw(st.integers(0, processes - 1))
    whole = PlannedBatches(clips, given_plan, count, rank, processes)
    steps = len(whole) // given_plan.gradient_accumulation
    start = data.draw(st.integers(0, steps))
    resumed = PlannedBatches(clips, given_plan, count, rank, processes, start)
    batches = list(whole)
    assert len(batches) == len(whole) == len(resumed)
    assert list(resumed) == batches[start * given_plan.gradient_accumulation :]
    assert [resumed.clips_in_step(s) for s in range(start, steps)] == [
        whole.clips_in_step(s) for s in range(start, steps)
    ]


@given(many_clips(), plans(), st.integers(1, 4))
def test_the_batches_of_a_step_are_dealt_out_to_the_processes(
    clips: Clips, given_plan: PlanConfig, processes: int
) -> None:
    planned = order(list(all_batches(clips, given_plan)))
    ranks = [PlannedBatches(clips, given_plan, len(planned), rank, processes) for rank in range(processes)]
    passes = list(zip(*ranks, strict=True))
    dealt = [batch for forward_pass in passes for batch in forward_pass]
    assert [{drawn.batch for drawn in batch} for batch in dealt] == [{number} for number in range(len(dealt))]
    assert [[drawn.clip for drawn in batch] for batch in dealt[: len(planned)]] == planned
    assert {drawn.weight for batch in dealt[: len(planned)] for drawn in batch} == {1.0}
    a_step = given_plan.gradient_accumulation * processes
    # What fills up the last step is its first batch, again and again, and does not count.
    assert len(dealt) == -(-len(planned) // a_step) * a_step
    for batch in dealt[len(planned) :]:
        assert [drawn.clip for drawn in batch] == planned[len(dealt) - a_step]
        assert {drawn.weight for drawn in batch} == {0.0}
    for step in range(len(dealt) // a_step):
        real = chain.from_iterable(dealt[step * a_step : (step + 1) * a_step])
        assert ranks[0].clips_in_step(step) == sum(drawn.weight for drawn in real)


def test_epochs_that_are_over_are_not_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    clips, ten = corpus(100), plan(Batch(clips=8, by_length=True), epochs=10)
    drawn: list[int] = []

    def noted(clips: Clips, plan: PlanConfig, epoch: int) -> list[NDArray[np.int64]]:
        drawn.append(epoch)
        return epoch_batches(clips, plan, epoch)

    monkeypatch.setattr("speechmill.model.batching.epoch_batches", noted)
    resumed = PlannedBatches(clips, ten, 130, start=8 * 13 + 5)
    assert next(iter(resumed))[0].batch == 8 * 13 + 5
    assert resumed.clips_in_step(8 * 13 + 12) == 4
    assert drawn == [8]
