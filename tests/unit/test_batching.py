from itertools import chain, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from speechmill.batching import all_batches, epoch_batches, fill, measure
from speechmill.config.plan import Batch
from speechmill.tables import SAMPLE_RATE

LENGTHS = st.lists(st.integers(1, 20 * SAMPLE_RATE), min_size=1, max_size=200).map(np.array)
BATCHES = st.one_of(
    st.builds(Batch, seconds=st.floats(0.5, 60)),
    st.builds(Batch, clips=st.integers(1, 40)),
)


def corpus(clips: int = 3000) -> NDArray[np.int64]:
    """Lengths like those of read speech: about five seconds, with a tail up to twenty."""
    seconds = np.random.default_rng(7).gamma(4, 1.3, size=clips).clip(0.5, 20)
    return np.asarray(seconds * SAMPLE_RATE, dtype=np.int64)


def order(batches: list[NDArray[np.int64]]) -> list[list[int]]:
    return [batch.tolist() for batch in batches]


@given(LENGTHS, BATCHES, st.integers(0, 2**32), st.integers(0, 100))
def test_every_clip_is_seen_exactly_once_an_epoch(
    lengths: NDArray[np.int64], batch: Batch, seed: int, epoch: int
) -> None:
    batches = epoch_batches(lengths, batch, seed, epoch)
    assert sorted(chain.from_iterable(order(batches))) == list(range(len(lengths)))
    assert all(len(each) for each in batches)


@given(LENGTHS, st.floats(0.5, 60), st.integers(0, 2**32))
def test_padded_seconds_stay_within_the_budget(lengths: NDArray[np.int64], seconds: float, seed: int) -> None:
    for batch in epoch_batches(lengths, Batch(seconds=seconds), seed, 0):
        # A clip that does not fit into the budget stands alone.
        assert len(batch) == 1 or lengths[batch].max() * len(batch) <= seconds * SAMPLE_RATE


@given(LENGTHS, BATCHES, st.integers(0, 2**32))
def test_the_same_seed_and_epoch_give_the_same_batches(lengths: NDArray[np.int64], batch: Batch, seed: int) -> None:
    assert order(epoch_batches(lengths, batch, seed, 3)) == order(epoch_batches(lengths, batch, seed, 3))


@pytest.mark.parametrize("batch", [Batch(seconds=40), Batch(clips=16)], ids=["seconds", "clips"])
def test_another_epoch_and_another_seed_are_another_order(batch: Batch) -> None:
    lengths = corpus(300)
    first = order(epoch_batches(lengths, batch, 42, 0))
    assert order(epoch_batches(lengths, batch, 42, 1)) != first
    assert order(epoch_batches(lengths, batch, 43, 0)) != first


def test_all_epochs_follow_one_another() -> None:
    lengths, batch = corpus(50), Batch(clips=8)
    assert order(list(all_batches(lengths, batch, 42, 3))) == [
        each for epoch in range(3) for each in order(epoch_batches(lengths, batch, 42, epoch))
    ]


def test_batches_by_clips_are_full_except_the_last() -> None:
    sizes = [len(batch) for batch in epoch_batches(corpus(100), Batch(clips=32), 42, 0)]
    assert sizes == [32, 32, 32, 4]


def test_lengths_do_not_come_in_order() -> None:
    lengths = corpus()
    longest = [lengths[batch].max() for batch in epoch_batches(lengths, Batch(seconds=40), 42, 0)]
    # Were they sorted, nearly every batch would be longer than the one before.
    assert 0.4 < np.mean(np.diff(longest) > 0) < 0.6


def test_clips_of_similar_length_share_a_batch_so_that_little_is_padding() -> None:
    lengths = corpus()
    by_seconds, at_random = (
        measure(lengths, batch, 42, 1).padding_share(int(lengths.sum()))
        for batch in (Batch(seconds=80), Batch(clips=16))
    )
    assert by_seconds < 0.05
    assert at_random > 0.3


def test_batches_by_seconds_are_nearly_full() -> None:
    lengths = corpus()
    padded = [lengths[b].max() * len(b) / SAMPLE_RATE for b in epoch_batches(lengths, Batch(seconds=80), 42, 0)]
    assert np.mean(padded) > 0.9 * 80


@given(LENGTHS, st.floats(0.5, 60))
def test_filled_batches_keep_the_order_and_could_not_take_one_clip_more(
    lengths: NDArray[np.int64], seconds: float
) -> None:
    ordered, budget = np.argsort(lengths, kind="stable"), seconds * SAMPLE_RATE
    batches = fill(ordered, lengths, budget)
    assert list(chain.from_iterable(order(batches))) == ordered.tolist()
    for batch, following in pairwise(batches):
        assert lengths[following[0]] * (len(batch) + 1) > budget


def test_nothing_makes_no_batch() -> None:
    assert fill(np.array([], dtype=np.int64), corpus(1), 1e6) == []


@given(LENGTHS, BATCHES, st.integers(1, 3))
def test_what_is_measured_is_what_comes(lengths: NDArray[np.int64], batch: Batch, epochs: int) -> None:
    extent = measure(lengths, batch, 42, epochs)
    padded = [int(lengths[b].max()) * len(b) for b in all_batches(lengths, batch, 42, epochs)]
    assert (extent.batches, extent.padded_samples, extent.largest) == (len(padded), sum(padded), max(padded))
    assert 0 <= extent.padding_share(int(lengths.sum()) * epochs) < 1
