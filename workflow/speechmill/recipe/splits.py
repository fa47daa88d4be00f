"""Splits of a folder that has none: by speaker if there are enough of them, otherwise by recording or by sentence."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from speechmill.config.datasets import DrawnBy, DrawnSplit
from speechmill.core.command import SpeechmillError
from speechmill.corpus.sources.corpus import SourceClip
from speechmill.corpus.splits import drawn_unit, sentence_key, splits_of
from speechmill.recipe.survey import Survey

_SHARE = 0.1
_MIN_SPEAKERS = 4
_MIN_UNITS = 3
# Of few speakers, a draw can select none; another seed then selects some.
_SEEDS = 500


@dataclass(frozen=True)
class Splits:
    """The sets of a run, and the splits to draw for them.

    Attributes:
        train: The split for training; also `dev` and `test`.
        drawn: The value of the dataset's `drawn`.
        why: Why the splits are as they are, for a comment.
        shared: The share of training sentences that dev or test contain as well.
        sentences: The number of different sentences that only the training set contains.
    """

    train: str
    dev: str
    test: str
    drawn: dict[str, dict[str, Any]]
    why: str
    shared: float
    sentences: int


def choose_splits(found: Survey) -> Splits:
    """Return the splits of the corpus where it has them, and drawn ones where it lacks them.

    Raises:
        SpeechmillError: There are too few speakers, recordings and sentences to divide them.
    """
    layout = found.layout
    train = layout.split_for(0) or layout.splits[0]
    dev, test = (layout.split_for(purpose) for purpose in (1, 2))
    missing = [name for name, split in (("dev", dev), ("test", test)) if split is None]
    drawn, why = _drawn(found, train, missing) if missing else ({}, "The corpus has these splits.")
    shared, sentences = _sentences(found.clips, train, drawn)
    return Splits(train, dev or "dev", test or "test", drawn, why, shared, sentences)


def _drawn(found: Survey, train: str, names: list[str]) -> tuple[dict[str, dict[str, Any]], str]:
    """Return the value of `drawn` for splits with these names, and why the clips are drawn by that unit."""
    clips = [clip for clip in found.clips if train in clip.splits]
    by, why = _unit(clips, found.is_long)
    units = {drawn_unit(_row(clip), by) for clip in clips}
    if len(units) < _MIN_UNITS:
        raise SpeechmillError(
            f"{found.path}: the recordings cannot be divided into splits, because there are only {len(units)} different"
            f" {by}s; add recordings"
        )
    share = min(0.25, round(max(_SHARE, 1 / len(units)), 2))
    seed = _seed(clips, names, train, share, by)
    rule = {"of": train, "share": share} | ({} if by == "speaker" else {"by": by}) | ({"seed": seed} if seed else {})
    return dict.fromkeys(names, rule), why


def _unit(clips: list[SourceClip], is_long: bool) -> tuple[DrawnBy, str]:
    speakers = {clip.speaker_id for clip in clips}
    if None not in speakers and len(speakers) >= _MIN_SPEAKERS:
        return "speaker", "Each speaker is in one split, so that the error rates are those of unknown voices."
    number = "not all speakers are known" if None in speakers else f"there are only {len(speakers)} speakers"
    if None in speakers and len(speakers) == 1:
        number = "the speakers are not known"
    if is_long and len(clips) >= _MIN_UNITS:
        return "recording", f"By recording, because {number}: all clips that are cut from one are in the same split."
    recordings = {clip.file for clip in clips if clip.piece is not None}
    if len(recordings) >= 2 * _MIN_SPEAKERS:
        return "recording", f"By recording, because {number}: the voices of the test are in the training data too."
    if len({sentence_key(clip.sentence) for clip in clips}) < min(50, len(clips) / 2) and not recordings:
        return (
            "recording",
            f"By recording, because {number} and the sentences are few: voices and sentences of the test are in the"
            " training data too.",
        )
    return "sentence", f"By sentence, because {number}: the voices of the test are in the training data too."


def _row(clip: SourceClip) -> dict[str, Any]:
    """Return the fields of a clip that `splits_of` reads."""
    return {
        "id": clip.id,
        "splits": clip.splits,
        "speaker_id": clip.speaker_id,
        "recording": None if clip.piece is None else clip.file,
        "sentence": clip.sentence,
    }


def _seed(clips: list[SourceClip], names: list[str], train: str, share: float, by: DrawnBy) -> int:
    """Return the first seed with which each drawn split has between half and twice its share of the clips.

    If there is none, it is the seed whose shares are the nearest.
    """
    counts = Counter(drawn_unit(_row(clip), by) for clip in clips)
    rows = {drawn_unit(row, by): row for row in map(_row, clips)}
    best, best_error = 0, float("inf")
    for seed in range(_SEEDS):
        rules = {name: DrawnSplit(of=train, share=share, by=by, seed=seed) for name in names}
        sizes: Counter[str] = Counter()
        for key, row in rows.items():
            sizes[splits_of(row, rules)[0]] += counts[key]
        shares = [sizes[name] / len(clips) for name in names]
        if all(share / 2 <= each <= 2 * share for each in shares):
            return seed
        error = sum(abs(each - share) + (each == 0) for each in shares) + (sizes[train] == 0)
        if error < best_error:
            best, best_error = seed, error
    return best


def _sentences(clips: list[SourceClip], train: str, drawn: dict[str, dict[str, Any]]) -> tuple[float, int]:
    """Return the share of training sentences that dev or test contain as well, and the number of the others."""
    rules = {name: DrawnSplit(**rule) for name, rule in drawn.items()}
    trained: set[str] = set()
    scored: set[str] = set()
    for clip in clips:
        sentences = trained if splits_of(_row(clip), rules)[0] == train else scored
        sentences.add(sentence_key(clip.sentence))
    return len(trained & scored) / max(1, len(trained)), len(trained - scored)
