"""breakdown: errors of the selected checkpoint by group of clips, confusions, and significance tests between systems.

`breakdown.json`:

    run, step                       the run, and the step of the selected checkpoint
    metric                          the error rate, `wer` or `cer`, of all intervals and comparisons
    sets.{set}.{decoder}            clips, speakers, words, substitutions, deletions, insertions, characters, wer, cer,
                                    interval and why; and:
      groups.seconds, .rate         the same fields by clip duration and by speaking rate, in bins of about equal size,
                                    with value, low and high: low <= x < high, null at the open ends. The speaking rate
                                    is in characters of the reference, without spaces, per second. value is null for
                                    clips whose reference is empty
      groups.speaker, .gender, .age, .accent   the same fields by speaker metadata, the group with most clips first;
                                    value is null for clips without that metadata
      confusions.words, .characters substitutions: [{reference, hypothesis, count, of}], deletions: [{reference, count,
                                    of}], insertions: [{hypothesis, count}], the most frequent first; `of` is the number
                                    of occurrences in the references
    comparisons                     [{kind, first, second, rates, difference, interval, p_value, why}]: two systems on
                                    the same clips, each {set, step, decoder}, with the steps `averaged` if it is the
                                    mean of several checkpoints. rates are their error rates, difference
                                    is that of the second minus that of the first. kind is `decoders`; `checkpoints`
                                    (the selected checkpoint against the previous one and against the last one);
                                    `average` (the best single checkpoint against the mean of several);
                                    `effect` (a set against a perturbed copy of it); or `runs` (another run, which
                                    `first.run` names, against this one, by the same decoder if it has that)
    not_compared                    [{run, set, why}]: the sets on which another run and this one are not compared

Intervals are 95% confidence intervals. An interval is null if fewer than two speakers have words; `why` then gives the
reason. Small groups are reported too, with their counts. Perturbed copies of a set are compared with it,
but not broken down into groups.
"""

import argparse
import itertools
import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from pydantic import BaseModel

from speechmill.config.evaluation import ErrorRate
from speechmill.core.command import SpeechmillError, run_command
from speechmill.core.files import read_json, write_json
from speechmill.core.selection import selected_mean
from speechmill.core.tables import read_table
from speechmill.scoring.alignment import Pair, align_characters, align_words
from speechmill.scoring.error_rates import rate
from speechmill.scoring.intervals import confidence_interval, why_no_interval
from speechmill.scoring.significance import paired_difference
from speechmill.scoring.systems import System, base_set, selected_rows, selected_systems, systems, with_word_counts

_BINS = 5
_MAX_CONFUSIONS = 50

_COLUMNS = [
    "dataset", "id", "speaker_id", "seconds", "scored_reference", "scored_hypothesis", "hits", "substitutions",
    "deletions", "insertions", "character_errors", "characters",
]  # fmt: skip
_SPEAKER_METADATA = ["gender", "age", "accent"]

# The columns with the errors and the reference length of each error rate.
_COUNTS: dict[ErrorRate, tuple[str, str]] = {"wer": ("errors", "words"), "cer": ("character_errors", "characters")}


class BreakdownSettings(BaseModel):
    """The settings of this stage."""

    metric: ErrorRate


def load_clips(hypotheses: Path, speakers: pd.DataFrame) -> pd.DataFrame:
    """Return the scored clips of a table, with the metadata of their speakers from `load_speaker_metadata`.

    Adds the columns `words`, the number of words in the reference; `errors`, the number of word errors; `rate`, the
    speaking rate; and `group`, the speaker, or the clip if the speaker is unknown.
    """
    clips: pd.DataFrame = read_table(hypotheses, _COLUMNS).to_pandas().merge(speakers, how="left", on=["dataset", "id"])
    optional = ["speaker_id", *_SPEAKER_METADATA]
    clips[optional] = clips[optional].mask(clips[optional] == "")
    clips = with_word_counts(clips)
    clips["group"] = clips["speaker_id"].fillna(clips["id"])
    characters = clips["scored_reference"].str.replace(r"\s", "", regex=True).str.len()
    clips["rate"] = (characters / clips["seconds"]).where(characters > 0)
    return clips


def load_speaker_metadata(indexes: Iterable[Path]) -> pd.DataFrame:
    """Return gender, age and accent of each clip's speaker, from indexes `…/{dataset}/{split}/index.parquet`."""
    empty = pd.DataFrame(columns=["dataset", "id", *_SPEAKER_METADATA], dtype="str")
    return pd.concat(
        [empty]
        + [read_table(path, ["id", *_SPEAKER_METADATA]).to_pandas().assign(dataset=path.parts[-3]) for path in indexes],
        ignore_index=True,
    )


def score_clips(clips: pd.DataFrame, metric: ErrorRate = "wer") -> dict[str, Any]:
    """Return counts, error rates and the interval of the error rate `metric` for rows of `load_clips`."""
    counted = ("words", "substitutions", "deletions", "insertions", "characters")
    sums = {name: int(clips[name].sum()) for name in counted}
    # The rate is infinite if there are errors but the references are empty; JSON has no infinity.
    rates: dict[str, float | None] = {
        name: value if math.isfinite(value := rate(int(clips[errors].sum()), int(clips[length].sum()))) else None
        for name, (errors, length) in _COUNTS.items()
    }
    errors, lengths, groups = _lists(clips, *_COUNTS[metric], "group")
    interval = confidence_interval(errors, lengths, groups)
    return {
        "clips": len(clips),
        "speakers": int(clips["speaker_id"].nunique()),
        **sums,
        **rates,
        "interval": interval and list(interval),
        "why": why_no_interval(lengths, groups),
    }


def _lists(clips: pd.DataFrame, *names: str) -> list[list[Any]]:
    return [clips[name].tolist() for name in names]


def score_groups(clips: pd.DataFrame, metric: ErrorRate = "wer") -> dict[str, list[dict[str, Any]]]:
    """Return the scores of each group of clips: `groups` in the docstring of this module."""
    return {
        **{name: _score_bins(clips, name, metric) for name in ("seconds", "rate")},
        **{name.removesuffix("_id"): _score_values(clips, name, metric) for name in ("speaker_id", *_SPEAKER_METADATA)},
    }


def _score_bins(clips: pd.DataFrame, column: str, metric: ErrorRate) -> list[dict[str, Any]]:
    values = clips[column]
    edges = bin_edges(values.dropna().tolist(), _BINS)
    rows = []
    for low, high in itertools.pairwise([None, *edges, None]):
        inside = values.notna() & (True if low is None else values >= low) & (True if high is None else values < high)
        if inside.any():
            rows.append(
                {"value": _bin_label(low, high), "low": low, "high": high, **score_clips(clips[inside], metric)}
            )
    if values.isna().any():
        rows.append({"value": None, "low": None, "high": None, **score_clips(clips[values.isna()], metric)})
    return rows


def _bin_label(low: float | None, high: float | None) -> str:
    if low is None:
        return "all" if high is None else f"under {high:g}"
    return f"{low:g} and more" if high is None else f"{low:g} to {high:g}"


def bin_edges(values: Sequence[float], bins: int) -> list[float]:
    """Return ascending round numbers that divide `values` into at most `bins` non-empty bins of about equal size.

    The edges are quantiles, each rounded by at most a quarter of the median distance between two quantiles.
    """
    if not values:
        return []
    cuts = np.unique(np.quantile(values, np.arange(1, bins) / bins))
    if len(cuts) < 2:
        return []
    # Slightly enlarged, so that rounding errors do not turn a round step into the next smaller one.
    target = float(np.median(np.diff(cuts))) / 2 * (1 + 1e-9)
    digits = -math.floor(math.log10(target))
    step = next(each for each in (5, 2, 1) if each <= target * 10**digits or each == 1) * 10.0**-digits
    edges = sorted({round(round(float(cut) / step) * step, max(0, digits)) for cut in cuts})
    ordered = np.sort(values)
    # Edges with no value between them would enclose an empty bin, so only the first of them is kept.
    positions = [(int(np.searchsorted(ordered, edge)), edge) for edge in edges]
    first_edges = {position: edge for position, edge in reversed(positions) if 0 < position < len(ordered)}
    return sorted(first_edges.values())


def _score_values(clips: pd.DataFrame, column: str, metric: ErrorRate) -> list[dict[str, Any]]:
    rows = [
        {"value": None if pd.isna(value) else value, **score_clips(group, metric)}
        for value, group in clips.groupby(column, dropna=False)
    ]
    return sorted(rows, key=lambda row: (-row["clips"], row["value"] is None, row["value"] or ""))


def count_confusions(clips: pd.DataFrame) -> dict[str, Any]:
    """Return the most frequent confusions of words and of characters."""
    references, hypotheses = clips["scored_reference"], clips["scored_hypothesis"]
    word_counts = Counter(word for reference in references for word in reference.split(" "))
    character_counts = Counter(character for reference in references for character in reference)
    # Only clips with errors need to be aligned.
    wrong_words, wrong_characters = clips["errors"] > 0, clips["character_errors"] > 0
    words = align_words(references[wrong_words].tolist(), hypotheses[wrong_words].tolist())
    characters = align_characters(references[wrong_characters].tolist(), hypotheses[wrong_characters].tolist())
    return {"words": _most_frequent(words, word_counts), "characters": _most_frequent(characters, character_counts)}


def _most_frequent(alignments: Iterable[list[Pair]], occurrences: Counter[str]) -> dict[str, list[dict[str, Any]]]:
    counts = Counter(pair for pairs in alignments for pair in pairs if pair[0] != pair[1])
    confusions: dict[str, list[dict[str, Any]]] = {"substitutions": [], "deletions": [], "insertions": []}
    for (reference, hypothesis), count in sorted(counts.items(), key=lambda item: (-item[1], *map(str, item[0]))):
        kind = "insertions" if reference is None else "deletions" if hypothesis is None else "substitutions"
        row: dict[str, Any] = {"reference": reference, "hypothesis": hypothesis}
        row = {side: text for side, text in row.items() if text is not None} | {"count": count}
        confusions[kind].append(row if reference is None else row | {"of": occurrences[reference]})
    return {kind: rows[:_MAX_CONFUSIONS] for kind, rows in confusions.items()}


def compare(
    kind: str, first: tuple[System, pd.DataFrame], second: tuple[System, pd.DataFrame], metric: ErrorRate = "wer"
) -> dict[str, Any]:
    """Return a row of `comparisons` for two systems, each with its scored clips, by the error rate `metric`.

    Raises:
        SpeechmillError: The systems have not scored the same clips.
    """
    (first_system, clips), (second_system, second_clips) = first, second
    if clips["id"].tolist() != second_clips["id"].tolist():
        raise SpeechmillError(
            f"{_format_system(first_system)} and {_format_system(second_system)} have scored different clips; delete"
            " the folder `evaluation` of the run and run snakemake again"
        )
    wrong, length = _COUNTS[metric]
    errors, lengths, groups = _lists(clips, wrong, length, "group")
    row: dict[str, Any] = {
        "kind": kind,
        "first": first_system.record(),
        "second": second_system.record(),
        "rates": [score_clips(each, metric)[metric] for each in (clips, second_clips)],
        "difference": None,
        "interval": None,
        "p_value": None,
        "why": why_no_interval(lengths, groups),
    }
    if any(lengths):
        found = paired_difference(errors, second_clips[wrong].tolist(), lengths, groups)
        row |= found._asdict() | {"interval": found.interval and list(found.interval)}
    return row


def _format_system(system: System) -> str:
    which = f"mean of steps {', '.join(map(str, system.averaged))}" if system.averaged else f"step {system.step}"
    return f"{which}, decoder {system.decoder}, on {system.set}"


def compare_systems(
    tables: dict[System, pd.DataFrame], selection: Mapping[str, Any], metric: ErrorRate = "wer"
) -> list[dict[str, Any]]:
    """Return the rows of `comparisons`; `selection` is the content of `selection.json`."""

    def compare_pair(kind: str, first: System, second: System) -> dict[str, Any]:
        return compare(kind, (first, tables[first]), (second, tables[second]), metric)

    rows = []
    selected_systems = [system for system in tables if system.is_selected(selection) and len(tables[system])]
    for first, second in itertools.combinations(selected_systems, 2):
        if first.set == second.set and base_set(first.set) == first.set:
            rows.append(compare_pair("decoders", first, second))
    for system in (each for each in selected_systems if not each.averaged):
        steps = [each.step for each in tables if each == system._replace(step=each.step)]
        rows += [
            compare_pair("checkpoints", system._replace(step=step), system)
            for step in compared_steps(steps, system.step)
        ]
    for mean in (each for each in tables if each.averaged and len(tables[each])):
        single = System(mean.set, selection["average"]["single"], mean.decoder)
        if single in tables:
            rows.append(compare_pair("average", single, mean))
    for system in selected_systems:
        unperturbed = system._replace(set=base_set(system.set))
        if unperturbed != system and unperturbed in tables:
            rows.append(compare_pair("effect", unperturbed, system))
    return rows


class ComparedRun(NamedTuple):
    """Another run, at its selected checkpoint."""

    name: str
    scores: pd.DataFrame
    """The rows of its summary."""
    hypotheses: dict[System, Path]


def compare_run(
    other: ComparedRun, tables: dict[System, pd.DataFrame], scores: pd.DataFrame, metric: ErrorRate = "wer"
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Return the rows of `comparisons` and of `not_compared` for another run.

    It is compared on the sets that both runs score, by each decoder of this run. The other run may lack a decoder; it
    then has a single one, with which its model is used.

    Args:
        other: The other run.
        tables: The scored clips of this run at its selected checkpoint.
        scores: The rows of its summary there.
        metric: The error rate.
    """
    rows, not_compared = [], []
    for system, clips in tables.items():
        if base_set(system.set) != system.set:
            continue
        if why := _why_not_compared(_scores_on(scores, system.set), _scores_on(other.scores, system.set)):
            reason = {"run": other.name, "set": system.set, "why": why}
            not_compared += [reason] if reason not in not_compared else []
            continue
        by_decoder = {each.decoder: each for each in other.hypotheses if each.set == system.set}
        theirs = by_decoder.get(system.decoder) or next(iter(by_decoder.values()))
        their_clips = load_clips(other.hypotheses[theirs], clips[["dataset", "id", *_SPEAKER_METADATA]])
        row = compare("runs", (theirs, their_clips), (system, clips), metric)
        rows.append(row | {"first": row["first"] | {"run": other.name}})
    return rows, not_compared


def _scores_on(scores: pd.DataFrame, name: str) -> dict[Hashable, Any] | None:
    """Return the first row on a set; its clips and its protocol are the same for all decoders."""
    rows = scores[scores["set"] == name].to_dict("records")
    return rows[0] if rows else None


def _why_not_compared(ours: dict[Hashable, Any] | None, theirs: dict[Hashable, Any] | None) -> str | None:
    """Return why the scores of two runs on a set cannot be compared, or None if they can."""
    if ours is None or theirs is None:
        return "that run does not score it"
    for row in (ours, theirs):
        if not pd.isna(row["unavailable"]):
            return f"not available: {row['unavailable']}"
    if ours["protocol"] != theirs["protocol"]:
        return f"scored by the protocol {theirs['protocol']} there, and by {ours['protocol']} here"
    if ours["eval_set_sha256"] != theirs["eval_set_sha256"]:
        return "its clips or their texts are others there"
    return None


def compared_steps(steps: Sequence[int], selected: int) -> list[int]:
    """Return the step before the selected one and the last step, if there are any."""
    earlier, later = [step for step in steps if step < selected], [step for step in steps if step > selected]
    return [max(candidates) for candidates in (earlier, later) if candidates]


def build_breakdown(
    run: str,
    metric: ErrorRate,
    selection: Mapping[str, Any],
    hypotheses: Iterable[Path],
    indexes: Iterable[Path],
    scores: pd.DataFrame,
    compared: Iterable[ComparedRun] = (),
) -> dict[str, Any]:
    """Return the content of `breakdown.json`.

    Only tables of the selected checkpoint and of those that it is compared with are read.

    `selection` is the content of `selection.json`.
    `scores` are the rows of the summary at the selected checkpoint.
    `compared` are the other runs to compare with.
    """
    files = systems(hypotheses, selection)
    speakers = load_speaker_metadata(indexes)
    steps: dict[tuple[str, str], list[int]] = {}
    for system in files:
        if not system.averaged:
            steps.setdefault((system.set, system.decoder), []).append(system.step)
    # A mean of checkpoints is compared with the best single one only.
    single = selection.get("average", {}).get("single", selection["step"])

    def is_read(system: System) -> bool:
        if system.is_selected(selection) or system.averaged or system.step == single:
            return True
        others = [] if selected_mean(selection) else steps[system.set, system.decoder]
        return system.step in compared_steps(others, selection["step"])

    tables = {
        system: load_clips(path, speakers)
        for system, path in sorted(files.items(), key=lambda item: item[0])
        if is_read(system)
    }
    sets: dict[str, dict[str, Any]] = {}
    for system, clips in tables.items():
        if system.is_selected(selection) and base_set(system.set) == system.set:
            sets.setdefault(system.set, {})[system.decoder] = {
                **score_clips(clips, metric),
                "groups": score_groups(clips, metric),
                "confusions": count_confusions(clips),
            }
    comparisons = compare_systems(tables, selection, metric)
    selected = {system: clips for system, clips in tables.items() if system.is_selected(selection)}
    not_compared = []
    for other in compared:
        rows, reasons = compare_run(other, selected, scores, metric)
        comparisons += rows
        not_compared += reasons
    return {
        "run": run,
        "step": selection["step"],
        "metric": metric,
        "sets": sets,
        "comparisons": comparisons,
        "not_compared": not_compared,
    }


def selected_hypotheses(selection: Mapping[str, Any], run: Path, hypotheses: Iterable[Path]) -> dict[System, Path]:
    """Return the hypotheses of the selected model of a run, of those in its folder `run`."""
    return selected_systems((path for path in hypotheses if path.is_relative_to(run)), selection)


def load_compared_runs(
    summaries: Iterable[Path], selections: Iterable[Path], hypotheses: Sequence[Path]
) -> list[ComparedRun]:
    """Return the runs that another one is compared with, given their summaries and selections in the same order."""
    runs = []
    for summary, file in zip(summaries, selections, strict=True):
        selection = read_json(file)
        scores = selected_rows(read_table(summary).to_pandas(), selection)
        runs.append(ComparedRun(file.parent.name, scores, selected_hypotheses(selection, file.parent, hypotheses)))
    return runs


def main() -> None:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--run", required=True)
    parser.add_argument("--settings", type=BreakdownSettings.model_validate_json, required=True)
    parser.add_argument("--selection", type=Path, required=True, help="selection.json, with the selected step")
    parser.add_argument("--hypotheses", type=Path, nargs="+", required=True, help="of every set, step and decoder")
    parser.add_argument("--indexes", type=Path, nargs="+", required=True, help="the indexes of the sets' datasets")
    parser.add_argument("--summary", type=Path, required=True, help="the scores of the run")
    parser.add_argument("--compared-summaries", type=Path, nargs="*", default=[], help="the scores of other runs")
    parser.add_argument("--compared-selections", type=Path, nargs="*", default=[], help="selection.json of these runs")
    parser.add_argument("--compared-hypotheses", type=Path, nargs="*", default=[], help="of these runs")
    parser.add_argument("--breakdown", type=Path, required=True)
    args = parser.parse_args()
    selection = read_json(args.selection)
    found = build_breakdown(
        args.run,
        args.settings.metric,
        selection,
        args.hypotheses,
        args.indexes,
        selected_rows(read_table(args.summary).to_pandas(), selection),
        load_compared_runs(args.compared_summaries, args.compared_selections, args.compared_hypotheses),
    )
    write_json(found, args.breakdown)


if __name__ == "__main__":
    run_command(main)
