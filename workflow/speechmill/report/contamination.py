"""Which scored sets a base model may have been trained on, from the names and releases of corpora.

The training data of a base is what the configuration says (`model.trained_on`), what the cards of the base and of its
own bases name in their front matter, and what the runs between the base and a model were trained on. Corpora are
compared by name; see `corpus_names`.
"""

import datetime
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import BaseModel

from speechmill.config.trained_on import TrainedOn
from speechmill.report.corpus_names import CorpusName, corpus_name, release


class ScoredSet(BaseModel):
    """A scored set, and the corpus that it is part of."""

    dataset: str
    split: str
    drawn_from: str | None = None
    """The split of the corpus that it was drawn from, if it was."""
    names: list[str]
    """The names of the corpus."""
    version: str
    released: datetime.date | None = None


class RunCorpus(BaseModel):
    """A dataset that a run was trained on, and its splits."""

    dataset: str
    name: str
    version: str
    splits: list[str]


class BaseTraining(BaseModel):
    """What the configuration says about the training data of a base model, and about the scored sets."""

    base: str | None
    """The Hub id of the base, or the name of its folder; None if the first run started from random weights."""
    released: datetime.date | None = None
    trained_on: list[TrainedOn] = []
    runs: dict[str, list[RunCorpus]] = {}
    """By run between the base and the model: what it was trained on."""
    sets: dict[str, ScoredSet]
    """By name."""


class Statement(NamedTuple):
    """What is known about a scored set and the training data of a base."""

    set: str
    finding: str
    sources: list[tuple[str, str]]
    """The names that the finding rests on, each with where it was found."""


class _Corpus(NamedTuple):
    """A corpus that a base was trained on."""

    name: str
    source: str
    parsed: CorpusName
    release: str | None
    splits: Sequence[str]
    labels: bool | None
    dataset: str | None
    """Its name in this configuration, if a run was trained on it."""


def statements(training: BaseTraining, record: Mapping[str, Any] | None) -> list[Statement]:
    """Return what is known about each scored set.

    Args:
        training: What the configuration says.
        record: The cards of the base and the date of its weights, as the stage `base_card` records them; None without a
            base.
    """
    cards = record["cards"] if record else []
    corpora = _training_corpora(training, cards)
    # A card that names no data leaves the training data unknown, unless the configuration has it.
    silent = [
        f"the card of {card['model']} {card['problem'] or 'names no training data in its front matter'}"
        for card in cards
        if not card["datasets"] and not training.trained_on
    ]
    absent = f"unknown: {', '.join(silent)}" if silent else "not named"
    changed = record["weights_changed"] if record else None
    date = training.released or (datetime.date.fromisoformat(changed) if changed else None)
    return [_statement(name, scored, corpora, absent, date) for name, scored in training.sets.items()]


def _training_corpora(training: BaseTraining, cards: list[dict[str, Any]]) -> list[_Corpus]:
    given = [
        _corpus(each.name, each.version, "configuration", splits=each.splits, labels=each.labels)
        for each in training.trained_on
    ]
    named = [_corpus(each, None, f"card of {card['model']}") for card in cards for each in card["datasets"]]
    trained = [
        _corpus(each.name, each.version, f"run {run}", splits=each.splits, dataset=each.dataset)
        for run, corpora in training.runs.items()
        for each in corpora
    ]
    # What is given replaces what a card says about the same corpus.
    kept = [each for each in named if not any(each.parsed.is_same_corpus(other.parsed) for other in given)]
    return [*given, *kept, *trained]


def _corpus(
    name: str,
    version: str | None,
    source: str,
    splits: Sequence[str] = (),
    labels: bool | None = None,
    dataset: str | None = None,
) -> _Corpus:
    parsed = corpus_name(name)
    title = f"{name} {version}" if version else name
    return _Corpus(title, source, parsed, release(version) or parsed.release, splits, labels, dataset)


# Findings about a corpus that is named, in the order in which a set lists them.
_SAME, _RELEASE_UNKNOWN, _OTHER_RELEASE, _RELEASE_UNKNOWN_OTHER_SPLITS, _OTHER_SPLITS = range(5)


def _statement(
    name: str, scored: ScoredSet, corpora: list[_Corpus], absent: str, date: datetime.date | None
) -> Statement:
    """Return what is known about a set; `absent` is the finding if nothing else is."""
    names = [corpus_name(each) for each in scored.names]
    wanted = release(scored.version) or next((each.release for each in names if each.release), None)
    found: dict[tuple[int, str], list[_Corpus]] = {}
    for corpus in corpora:
        if corpus.dataset == scored.dataset or any(each.is_same_corpus(corpus.parsed) for each in names):
            labels = {True: "; with transcripts", False: "; audio without transcripts", None: ""}[corpus.labels]
            found.setdefault((_compare(scored, wanted, corpus), labels), []).append(corpus)
    is_newer = scored.released is not None and date is not None and scored.released > date
    dates = f"it was published on {scored.released}, after the base ({date})" if is_newer else None
    if not found:
        return Statement(name, f"no: {dates}" if dates else absent, [])
    findings = [f"{_finding(kind, found[kind, labels], dates)}{labels}" for kind, labels in sorted(found)]
    matches = [corpus for key in sorted(found) for corpus in found[key]]
    return Statement(name, ". Also: ".join(findings), [(each.name, each.source) for each in matches])


def _finding(kind: int, matches: list[_Corpus], dates: str | None) -> str:
    """Return what the corpora `matches` say about a set; `dates` is a clause if the set is newer than the base."""
    splits = _listed([split for each in matches for split in each.splits])
    finding = {
        _SAME: "same corpus, same release",
        _RELEASE_UNKNOWN: "same corpus, release not named",
        _OTHER_RELEASE: f"same corpus, other release ({_listed([str(each.release) for each in matches])})",
        _RELEASE_UNKNOWN_OTHER_SPLITS: f"same corpus, release not named, other splits ({splits})",
        _OTHER_SPLITS: f"same corpus, same release, other splits ({splits})",
    }[kind]
    # What a run of this configuration was trained on may be newer than its base.
    if dates is None or all(each.dataset is not None for each in matches):
        return finding
    # Clips of earlier releases are part of later ones.
    end = "" if kind in (_SAME, _OTHER_SPLITS) else ", so that only clips of earlier releases can be in it"
    return f"{finding}; {dates}{end}"


def _compare(scored: ScoredSet, wanted: str | None, corpus: _Corpus) -> int:
    is_own = corpus.dataset == scored.dataset
    contained = _contains(corpus, scored, is_own)
    if not is_own and (wanted is None or corpus.release is None):
        return _RELEASE_UNKNOWN if contained else _RELEASE_UNKNOWN_OTHER_SPLITS
    # Splits are drawn anew for each release, so that their names say nothing about another one.
    if not is_own and wanted != corpus.release:
        return _OTHER_RELEASE
    return _SAME if contained else _OTHER_SPLITS


def _contains(corpus: _Corpus, scored: ScoredSet, is_own: bool) -> bool:
    """Return whether the splits that were trained on can contain the scored set.

    `validated` of Common Voice contains its train, dev and test. In this configuration, a drawn split is removed from
    the one that it is drawn from; elsewhere it is not. How other datasets of this configuration draw is not considered.
    """
    if not corpus.splits or (corpus.dataset is not None and not is_own):
        return True
    split = scored.split if is_own else scored.drawn_from or scored.split
    known = set(map(_split_name, corpus.splits))
    return _split_name(split) in known or bool(known & {"all", "validated"})


def _split_name(split: str) -> str:
    return {"valid": "dev", "validation": "dev"}.get(split.casefold(), split.casefold())


def _listed(values: list[str]) -> str:
    return ", ".join(dict.fromkeys(values))
