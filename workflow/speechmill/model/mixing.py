"""Mixing: how often each training clip occurs in an epoch, as a pure function of the clips, the seed and the epoch."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from speechmill.config.mixing import MixingSettings

# Makes these random numbers independent of the order of the clips, which is drawn from the same seed.
_STREAM = 0x3117

WITHOUT_SPEAKER = "without a speaker"
"""The title of clips that have no speaker."""

# Speakers are summarised in this many equal parts.
_PARTS = 4

# Removes the rounding errors of shares, so that a temperature of 1 gives exactly 1.
_DECIMALS = 9


@dataclass(frozen=True)
class Mix:
    """The groups of the training clips, and how often an epoch goes through each."""

    groups: NDArray[np.int64]
    """The number of the group of each clip, shape (clips,)."""
    times: NDArray[np.float64]
    """How often an epoch goes through the clips of each group, shape (groups,)."""
    rows: NDArray[np.int64]
    """The position of each group in `titles`, shape (groups,)."""
    titles: list[str]
    """The rows of a table of the groups: datasets, languages, or speakers from the one with the most audio on."""

    def epoch(self, seed: int, epoch: int) -> NDArray[np.int64]:
        """Return the positions of the clips of an epoch, increasing, as often as each occurs.

        An epoch takes all clips of a group as often as the integer part of `times` says. For the fraction it takes
        the next clips of a random order of the group, which continues through the epochs and starts again at its end.
        So all clips of a group occur equally often in an epoch, and over all epochs, up to a difference of one.
        """
        count = len(self.groups)
        rng = np.random.default_rng([seed, _STREAM])
        sizes = np.bincount(self.groups, minlength=len(self.times))
        order = rng.permutation(count)
        order = order[np.argsort(self.groups[order], kind="stable")]
        position = np.empty(count, dtype=np.int64)
        position[order] = np.arange(count) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        fractions, whole = np.modf(self.times)
        # Groups of few clips would otherwise all skip the same epochs.
        phase = rng.random(len(sizes))
        first, last = (np.floor(phase + number * fractions * sizes).astype(np.int64) for number in (epoch, epoch + 1))
        extra = (position - first[self.groups]) % sizes[self.groups] < (last - first)[self.groups]
        return np.repeat(np.arange(count), whole.astype(np.int64)[self.groups] + extra)


def mix(table: pa.Table, settings: MixingSettings) -> Mix:
    """Return the mix of a table of clips with the columns `dataset`, `speaker_id` and `num_samples`.

    With a temperature T, the share of a group in an epoch is proportional to `seconds ** (1 / T)`; source: Arivazhagan
    et al. 2019, "Massively Multilingual Neural Machine Translation in the Wild" (arXiv:1907.05019). XLS-R
    (Babu et al. 2021, arXiv:2111.09296) and multilingual BERT use the same with the exponent alpha = 1 / T. Clips
    without a speaker occur once, and the shares of the speakers are of the seconds that have one.
    """
    titles, groups = _groups_of_datasets(table, settings)
    samples = table["num_samples"].to_numpy().astype(np.float64)
    if settings.by == "speaker":
        known, groups = _groups_of_speakers(table, groups)
        times = np.ones(groups.max(initial=0) + 1)
        totals = np.bincount(groups, samples).astype(np.float64)
        times[known] = _times(totals[known], settings.temperature or 1)
        return Mix(groups, times, *_speaker_rows(totals, known))
    if settings.temperature is not None:
        times = _times(np.bincount(groups, samples).astype(np.float64), settings.temperature)
    else:
        times = np.array([settings.weights.get(title, 1.0) for title in titles])
    return Mix(groups, times, np.arange(len(titles)), titles)


def _times(totals: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    """Return how often an epoch goes through groups of which `totals` is the audio, in any unit, shape (groups,)."""
    shares = totals ** (1 / temperature)
    times: NDArray[np.float64] = np.round(shares / shares.sum() * totals.sum() / totals, _DECIMALS)
    return times


def _codes(column: pa.ChunkedArray) -> tuple[pa.Array, pa.Array]:
    """Return the distinct values of a column without null, and the index of the value of each row, or null."""
    encoded = column.combine_chunks().dictionary_encode()
    return encoded.dictionary, encoded.indices


def _groups_of_datasets(table: pa.Table, settings: MixingSettings) -> tuple[list[str], NDArray[np.int64]]:
    """Return the sorted names of the groups, and the position there of the group of each clip."""
    datasets, indices = _codes(table["dataset"])
    names = [settings.groups[name] for name in datasets.to_pylist()]
    titles = sorted(set(names))
    return titles, np.array([titles.index(name) for name in names])[indices.to_numpy()]


def _groups_of_speakers(table: pa.Table, namespaces: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the groups that are speakers, and the group of each clip; all clips without a speaker form one group.

    Equal ids are the same speaker only in the same namespace.
    """
    speakers, indices = _codes(table["speaker_id"])
    speaker = indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    pairs = np.where(speaker < 0, -1, namespaces * len(speakers) + speaker)
    distinct, groups = np.unique(pairs, return_inverse=True)
    return np.flatnonzero(distinct >= 0), groups


def _speaker_rows(totals: NDArray[np.float64], known: NDArray[np.int64]) -> tuple[NDArray[np.int64], list[str]]:
    """Return the row of each group, and the titles of the rows: parts of equally many speakers, and no speaker."""
    rows = np.full(len(totals), -1)
    titles: list[str] = []
    first = 1
    for part in np.array_split(known[np.argsort(-totals[known], kind="stable")], _PARTS):
        if len(part):
            rows[part] = len(titles)
            last = first + len(part) - 1
            titles.append(f"speaker {first:,}" if len(part) == 1 else f"speakers {first:,} to {last:,}")
            first = last + 1
    if len(known) < len(totals):
        rows[rows < 0] = len(titles)
        titles.append(WITHOUT_SPEAKER)
    return rows, titles
