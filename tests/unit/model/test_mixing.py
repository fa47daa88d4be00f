from collections import Counter
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechmill.config.mixing import MixingSettings
from speechmill.config.plan import Batch, PlanConfig
from speechmill.model.batching import Clips, PlannedBatches, batch_stats, clips_from_table, epoch_batches
from speechmill.model.mixing import Mix, mix

BATCHES = [Batch(seconds=40), Batch(clips=16), Batch(clips=16, by_length=True)]
WHOLE_GROUPS = {"read": "read", "calls": "calls", "news": "news"}


def corpus(clips: dict[str, int], speakers: int | None = 5) -> pa.Table:
    """Return a table with a number of clips of each dataset, of 1 to 9 s, by speakers in turn."""
    rng = np.random.default_rng(7)
    rows = [
        {
            "dataset": name,
            "split": "train",
            "shard": 0,
            "row_group": i // 16,
            "num_samples": int(rng.integers(1e4, 1e5)),
        }
        | {"speaker_id": None if speakers is None else f"s{i % speakers}"}
        for name, count in clips.items()
        for i in range(count)
    ]
    return pa.Table.from_pylist(rows).cast(
        pa.schema([("dataset", "string"), ("split", "string"), ("shard", "int32"), ("row_group", "int32")])
        .append(pa.field("num_samples", "int32"))
        .append(pa.field("speaker_id", "string"))
    )


def settings(groups: dict[str, str] = WHOLE_GROUPS, **section: Any) -> MixingSettings:
    return MixingSettings.model_validate({"groups": groups, **section})


def plan(batch: Batch, **more: Any) -> PlanConfig:
    return PlanConfig.model_validate({"epochs": 3, "batch": batch.model_dump(), "save_steps": 1} | more)


def counts(table: pa.Table, mixing: MixingSettings, given_plan: PlanConfig) -> dict[str, int]:
    """Return how many clips of each dataset all batches have."""
    clips, names = clips_from_table(table, mixing), table["dataset"].to_pylist()
    batches = chain.from_iterable(epoch_batches(clips, given_plan, epoch) for epoch in range(given_plan.epochs))
    return Counter(names[i] for batch in batches for i in batch.tolist())


@st.composite
def mixes(draw: st.DrawFn) -> Mix:
    times = draw(st.lists(st.floats(0.01, 4), min_size=1, max_size=6))
    groups = draw(st.lists(st.integers(0, len(times) - 1), min_size=1, max_size=80))
    return Mix(np.array(groups), np.array(times), np.arange(len(times)), [str(i) for i in range(len(times))])


@given(mixes(), st.integers(0, 2**32), st.integers(1, 12))
def test_clips_of_a_group_occur_equally_often(mixed: Mix, seed: int, epochs: int) -> None:
    chosen = [np.bincount(mixed.epoch(seed, epoch), minlength=len(mixed.groups)) for epoch in range(epochs)]
    for each in (*chosen, np.sum(chosen, axis=0)):
        for group in set(mixed.groups.tolist()):
            assert np.ptp(each[mixed.groups == group]) <= 1


@given(mixes(), st.integers(0, 2**32), st.integers(1, 12))
def test_groups_have_their_times_in_any_number_of_epochs(mixed: Mix, seed: int, epochs: int) -> None:
    total = np.zeros(len(mixed.groups), dtype=int)
    for epoch in range(epochs):
        total += np.bincount(mixed.epoch(seed, epoch), minlength=len(mixed.groups))
    for group in set(mixed.groups.tolist()):
        members = mixed.groups == group
        assert abs(total[members].sum() - epochs * mixed.times[group] * members.sum()) <= 1 + 1e-6


def test_half_of_a_group_is_followed_by_the_other_half() -> None:
    mixed = mix(corpus({"read": 101}), settings(weights={"read": 0.5}))
    first, second = mixed.epoch(1, 0).tolist(), mixed.epoch(1, 1).tolist()
    assert sorted(first + second) == list(range(101))


@pytest.mark.parametrize("batch", BATCHES, ids=["seconds", "clips", "by_length"])
def test_counts_of_three_epochs_are_as_configured(batch: Batch) -> None:
    table = corpus({"read": 1000, "calls": 333, "news": 500})
    found = counts(table, settings(weights={"calls": 2.3, "news": 0.25}), plan(batch))
    assert found == pytest.approx({"read": 3 * 1000, "calls": 3 * 2.3 * 333, "news": 3 * 0.25 * 500}, rel=0.01)


def test_datasets_of_a_language_share_a_weight() -> None:
    table = corpus({"read": 100, "calls": 100, "news": 100})
    groups = {"read": "ru", "calls": "ko", "news": "ko"}
    found = counts(table, settings(groups, by="language", weights={"ko": 2}), plan(BATCHES[0], epochs=1))
    assert found == {"read": 100, "calls": 200, "news": 200}


def test_temperature_is_an_exponent_of_the_shares() -> None:
    # Shares of 0.9 and 0.1 with T = 2: sqrt(0.9) : sqrt(0.1) = 3 : 1.
    table = corpus({"read": 90, "calls": 10}).set_column(4, "num_samples", pa.array([16000] * 100, pa.int32()))
    mixed = mix(table, settings(temperature=2))
    assert dict(zip(mixed.titles, (mixed.times * [10, 90]).tolist(), strict=True)) == pytest.approx(
        {"calls": 25, "read": 75}
    )


def test_temperature_of_1_leaves_every_clip_once() -> None:
    table = corpus({"read": 1000, "calls": 333, "news": 500})
    for by in ("dataset", "speaker"):
        mixed = mix(table, settings(by=by, temperature=1))
        assert mixed.epoch(42, 5).tolist() == list(range(1833))


def test_temperature_evens_out_prolific_speakers() -> None:
    table = corpus({"read": 100})
    ids = ["a"] * 80 + ["b"] * 15 + ["c"] * 5
    table = table.set_column(5, "speaker_id", pa.array(ids)).set_column(4, "num_samples", pa.array([16000] * 100))
    found = Counter(ids[i] for i in mix(table, settings(by="speaker", temperature=1e6)).epoch(42, 0).tolist())
    assert found == pytest.approx({"a": 100 / 3, "b": 100 / 3, "c": 100 / 3}, abs=1)


def test_equal_speaker_ids_of_other_namespaces_are_other_speakers() -> None:
    table = corpus({"read": 10, "calls": 10}, speakers=2)
    assert len(mix(table, settings({"read": "one", "calls": "two"}, by="speaker", temperature=2)).times) == 4
    assert len(mix(table, settings({"read": "one", "calls": "one"}, by="speaker", temperature=2)).times) == 2


def test_clips_without_a_speaker_occur_once() -> None:
    table = pa.concat_tables([corpus({"read": 100}, speakers=None), corpus({"calls": 50}, speakers=3)])
    mixed = mix(table, settings(by="speaker", temperature=5))
    assert mixed.titles == ["speaker 1", "speaker 2", "speaker 3", "without a speaker"]
    assert mixed.epoch(42, 0)[:100].tolist() == list(range(100))


def test_rare_groups_do_not_all_skip_the_same_epoch() -> None:
    mixed = Mix(np.arange(1000), np.full(1000, 0.5), np.zeros(1000, dtype=int), ["all"])
    assert 400 < len(mixed.epoch(42, 0)) < 600


@pytest.mark.parametrize("batch", [BATCHES[0], BATCHES[2]], ids=["seconds", "by_length"])
def test_batches_of_similar_length_rarely_repeat_a_clip(batch: Batch) -> None:
    table = corpus({"read": 1000, "calls": 200})
    clips = clips_from_table(table, settings(weights={"calls": 4}))
    batches = epoch_batches(clips, plan(batch), 0)
    # By clips, batches at the limit between two parts may.
    assert np.mean([len(set(each.tolist())) < len(each) for each in batches]) < 0.1


@given(mixes(), st.sampled_from(BATCHES), st.integers(1, 3), st.data())
def test_resumed_batches_are_the_rest(mixed: Mix, batch: Batch, processes: int, data: st.DataObject) -> None:
    lengths = np.random.default_rng(3).integers(10_000, 100_000, size=len(mixed.groups))
    clips, given_plan = Clips(lengths, np.arange(len(lengths)) // 16, mixed), plan(batch, gradient_accumulation=2)
    if not all(len(mixed.epoch(given_plan.seed, epoch)) for epoch in range(3)):
        return
    count = batch_stats(clips, given_plan).batches
    full = [list(PlannedBatches(clips, given_plan, count, rank, processes)) for rank in range(processes)]
    start = data.draw(st.integers(0, len(full[0]) // 2))
    for rank in range(processes):
        resumed = PlannedBatches(clips, given_plan, count, rank, processes, start)
        assert list(resumed) == full[rank][2 * start :]
        assert [resumed.clips_in_step(step) for step in range(start, len(full[0]) // 2)] == [
            sum(int(clip.weight) for each in full for passed in each[2 * step : 2 * step + 2] for clip in passed)
            for step in range(start, len(full[0]) // 2)
        ]
    passes = chain.from_iterable(zip(*full, strict=True))
    one = [[clip.clip for clip in each] for each in PlannedBatches(clips, given_plan, count) if each[0].weight]
    assert [[clip.clip for clip in each] for each in passes if each[0].weight] == one
