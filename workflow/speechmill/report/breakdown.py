"""breakdown: where the selected checkpoint errs, and whether differences between systems are more than chance.

`breakdown.json`:

    run, step                       of the selected checkpoint
    sets.{set}.{decoder}            clips, speakers, words, substitutions, deletions, insertions, wer, cer, interval,
                                    why; and:
      groups.seconds, .rate         the same figures by length and by speaking rate, in bins of about equal number:
                                    value, low, high; low <= x < high, null at the ends. The rate is in characters of
                                    the reference, without blanks, a second; value is null where nothing is said
      groups.speaker, .gender, .age, .accent   the same figures by what is known of the speaker, most clips first; value
                                    is null where nothing is
      confusions.words, .characters substitutions: [{reference, hypothesis, count, of}], deletions: [{reference, count,
                                    of}], insertions: [{hypothesis, count}], the most frequent first; `of` is how often
                                    the references have it
    comparisons                     [{kind, first, second, wer, difference, interval, p_value, why}]: two systems on
                                    the same clips, each {set, step, decoder}; the difference is the second's WER less
                                    the first's. kind is `decoders`; `checkpoints`: the one before the selected, and the
                                    last; or `effect`: a set, and a changed copy of it

Small groups stand there with their counts. An interval is of 95 %, and null where a bootstrap has nothing to draw from;
`why` then says so. Copies of a set that an effect has changed are compared and not divided.
"""

import argparse
import itertools
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from speechmill.core.command import SpeechmillError, run_command
from speechmill.core.tables import read_json, read_table, write_json
from speechmill.scoring.alignment import Pair, aligned_characters, aligned_words
from speechmill.scoring.error_rates import bootstrap_interval, rate
from speechmill.scoring.significance import paired
from speechmill.scoring.systems import System, base_set, systems

_SEED = 0
_BINS = 5
_MOST = 50

_COLUMNS = [
    "dataset", "id", "speaker_id", "seconds", "scored_reference", "scored_hypothesis", "hits", "substitutions",
    "deletions", "insertions", "character_errors", "characters",
]  # fmt: skip
_PEOPLE = ["gender", "age", "accent"]


def load(hypotheses: Path, people: pd.DataFrame) -> pd.DataFrame:
    """The scored clips of a table with what is known of their speakers (see `known_people`).

    Adds `words` and `errors`, the reference's words and the wrong ones; `rate`, the speaking rate; and `drawn`, what a
    bootstrap draws: the speaker, or the clip where the speaker is not known.
    """
    clips: pd.DataFrame = read_table(hypotheses, _COLUMNS).to_pandas().merge(people, how="left", on=["dataset", "id"])
    named = ["speaker_id", *_PEOPLE]
    clips[named] = clips[named].mask(clips[named] == "")
    clips["words"] = clips["hits"] + clips["substitutions"] + clips["deletions"]
    clips["errors"] = clips["substitutions"] + clips["deletions"] + clips["insertions"]
    clips["drawn"] = clips["speaker_id"].fillna(clips["id"])
    spoken = clips["scored_reference"].str.replace(r"\s", "", regex=True).str.len()
    clips["rate"] = (spoken / clips["seconds"]).where(spoken > 0)
    return clips


def known_people(indexes: Iterable[Path]) -> pd.DataFrame:
    """Gender, age and accent of the speaker of each clip, from indexes `…/{dataset}/{split}/index.parquet`."""
    empty = pd.DataFrame(columns=["dataset", "id", *_PEOPLE], dtype="str")
    return pd.concat(
        [empty] + [read_table(path, ["id", *_PEOPLE]).to_pandas().assign(dataset=path.parts[-3]) for path in indexes],
        ignore_index=True,
    )


def scores(clips: pd.DataFrame) -> dict[str, Any]:
    """Counts, error rates and the interval of the WER of these rows of `load`."""
    sums = {name: int(clips[name].sum()) for name in ("words", "substitutions", "deletions", "insertions")}
    # JSON has no infinity, which is the rate of errors where the references have no words at all.
    rates = {
        name: value if math.isfinite(value := rate(int(clips[errors].sum()), int(clips[length].sum()))) else None
        for name, errors, length in (("wer", "errors", "words"), ("cer", "character_errors", "characters"))
    }
    why = _why_no_interval(clips)
    errors, words, drawn = _columns(clips, "errors", "words", "drawn")
    interval = None if why else list(bootstrap_interval(errors, words, drawn, _SEED))
    people = int(clips["speaker_id"].nunique())
    return {"clips": len(clips), "speakers": people, **sums, **rates, "interval": interval, "why": why}


def _columns(clips: pd.DataFrame, *names: str) -> list[list[Any]]:
    return [clips[name].tolist() for name in names]


def _why_no_interval(clips: pd.DataFrame) -> str | None:
    if not clips["words"].any():
        return "the references have no words"
    if clips["drawn"].nunique() > 1:
        return None
    return "one speaker" if clips["speaker_id"].notna().any() else "one clip"


def divided(clips: pd.DataFrame) -> dict[str, list[dict[str, Any]]]:
    """The scores of the groups of clips that the module's docstring lists under `groups`."""
    return {
        **{name: _by_bin(clips, name) for name in ("seconds", "rate")},
        **{name.removesuffix("_id"): _by_value(clips, name) for name in ("speaker_id", *_PEOPLE)},
    }


def _by_bin(clips: pd.DataFrame, column: str) -> list[dict[str, Any]]:
    values = clips[column]
    edges = round_edges(values.dropna().tolist(), _BINS)
    rows = []
    for low, high in itertools.pairwise([None, *edges, None]):
        inside = values.notna() & (True if low is None else values >= low) & (True if high is None else values < high)
        if inside.any():
            rows.append({"value": _bin(low, high), "low": low, "high": high, **scores(clips[inside])})
    if values.isna().any():
        rows.append({"value": None, "low": None, "high": None, **scores(clips[values.isna()])})
    return rows


def _bin(low: float | None, high: float | None) -> str:
    if low is None:
        return "all" if high is None else f"under {high:g}"
    return f"{low:g} and more" if high is None else f"{low:g} to {high:g}"


def round_edges(values: Sequence[float], bins: int) -> list[float]:
    """Ascending round numbers that part `values` into at most `bins` bins of about equal number, none of them empty.

    They are quantiles, rounded by no more than a quarter of the usual distance between two of them.
    """
    if not values:
        return []
    cuts = np.unique(np.quantile(values, np.arange(1, bins) / bins))
    if len(cuts) < 2:
        return []
    # A hair more, so that a round number stays one.
    target = float(np.median(np.diff(cuts))) / 2 * (1 + 1e-9)
    digits = -math.floor(math.log10(target))
    step = next(each for each in (5, 2, 1) if each <= target * 10**digits or each == 1) * 10.0**-digits
    edges = sorted({round(round(float(cut) / step) * step, max(0, digits)) for cut in cuts})
    ordered = np.sort(values)
    # An edge that has no value between itself and the one before would make an empty bin.
    places = [(int(np.searchsorted(ordered, edge)), edge) for edge in edges]
    firsts = {place: edge for place, edge in reversed(places) if 0 < place < len(ordered)}
    return sorted(firsts.values())


def _by_value(clips: pd.DataFrame, column: str) -> list[dict[str, Any]]:
    rows = [
        {"value": None if pd.isna(value) else value, **scores(group)}
        for value, group in clips.groupby(column, dropna=False)
    ]
    return sorted(rows, key=lambda row: (-row["clips"], row["value"] is None, row["value"] or ""))


def confusions(clips: pd.DataFrame) -> dict[str, Any]:
    """The most frequent confusions of words and of characters."""
    references, hypotheses = clips["scored_reference"], clips["scored_hypothesis"]
    in_words = Counter(word for reference in references for word in reference.split(" "))
    in_characters = Counter(character for reference in references for character in reference)
    # Where nothing is wrong, nothing needs to be aligned.
    wrong, misspelt = clips["errors"] > 0, clips["character_errors"] > 0
    return {
        "words": _confused(aligned_words(references[wrong].tolist(), hypotheses[wrong].tolist()), in_words),
        "characters": _confused(
            aligned_characters(references[misspelt].tolist(), hypotheses[misspelt].tolist()), in_characters
        ),
    }


def _confused(alignments: Iterable[list[Pair]], occurring: Counter[str]) -> dict[str, list[dict[str, Any]]]:
    counts = Counter(pair for pairs in alignments for pair in pairs if pair[0] != pair[1])
    found: dict[str, list[dict[str, Any]]] = {"substitutions": [], "deletions": [], "insertions": []}
    for (reference, hypothesis), count in sorted(counts.items(), key=lambda item: (-item[1], *map(str, item[0]))):
        kind = "insertions" if reference is None else "deletions" if hypothesis is None else "substitutions"
        row: dict[str, Any] = {"reference": reference, "hypothesis": hypothesis}
        row = {side: text for side, text in row.items() if text is not None} | {"count": count}
        found[kind].append(row if reference is None else row | {"of": occurring[reference]})
    return {kind: rows[:_MOST] for kind, rows in found.items()}


def compared(kind: str, first: tuple[System, pd.DataFrame], second: tuple[System, pd.DataFrame]) -> dict[str, Any]:
    """A row of `comparisons`, of two systems with what they made of the same clips.

    Raises SpeechmillError where they have not scored the same clips.
    """
    (system, clips), (other, others) = first, second
    if clips["id"].tolist() != others["id"].tolist():
        raise SpeechmillError(
            f"{_in_words(system)} and {_in_words(other)} have scored different clips; delete the run's folder"
            " `evaluation` and run snakemake again"
        )
    row: dict[str, Any] = {
        "kind": kind,
        "first": system._asdict(),
        "second": other._asdict(),
        "wer": [scores(each)["wer"] for each in (clips, others)],
        "difference": None,
        "interval": None,
        "p_value": None,
        "why": _why_no_interval(clips),
    }
    if clips["words"].any():
        errors, words, drawn = _columns(clips, "errors", "words", "drawn")
        found = paired(errors, others["errors"].tolist(), words, drawn, _SEED)
        row["difference"] = found.difference
        if row["why"] is None:
            row |= {"interval": [found.low, found.high], "p_value": found.p_value}
    return row


def _in_words(system: System) -> str:
    return f"step {system.step} by {system.decoder} on {system.set}"


def comparisons(tables: dict[System, pd.DataFrame], selected: int) -> list[dict[str, Any]]:
    """All rows of `comparisons`, of the systems that there are."""
    rows = []
    ours = [system for system in tables if system.step == selected and len(tables[system])]
    for one, other in itertools.combinations(ours, 2):
        if one.set == other.set and base_set(one.set) == one.set:
            rows.append(compared("decoders", (one, tables[one]), (other, tables[other])))
    for system in ours:
        for step in neighbours([each.step for each in tables if each[::2] == system[::2]], selected):
            other = system._replace(step=step)
            rows.append(compared("checkpoints", (other, tables[other]), (system, tables[system])))
    for system in ours:
        clean = system._replace(set=base_set(system.set))
        if clean != system and clean in tables:
            rows.append(compared("effect", (clean, tables[clean]), (system, tables[system])))
    return rows


def neighbours(steps: Sequence[int], selected: int) -> list[int]:
    """Of all steps the one before the selected and the last one, where there are such."""
    earlier, later = [step for step in steps if step < selected], [step for step in steps if step > selected]
    return [max(some) for some in (earlier, later) if some]


def breakdown(run: str, selected: int, hypotheses: Iterable[Path], indexes: Iterable[Path]) -> dict[str, Any]:
    """The value of `breakdown.json`; of other steps than the selected one only what is compared is read."""
    files = systems(hypotheses, selected)
    people = known_people(indexes)
    steps: dict[tuple[str, str], list[int]] = {}
    for system in files:
        steps.setdefault((system.set, system.decoder), []).append(system.step)
    tables = {
        system: load(path, people)
        for system, path in sorted(files.items(), key=lambda item: item[0])
        if system.step in (selected, *neighbours(steps[system.set, system.decoder], selected))
    }
    found: dict[str, dict[str, Any]] = {}
    for system, clips in tables.items():
        if system.step == selected and base_set(system.set) == system.set:
            found.setdefault(system.set, {})[system.decoder] = {
                **scores(clips),
                "groups": divided(clips),
                "confusions": confusions(clips),
            }
    return {"run": run, "step": selected, "sets": found, "comparisons": comparisons(tables, selected)}


def main() -> None:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--run", required=True)
    parser.add_argument("--selection", type=Path, required=True, help="which checkpoint is selected")
    parser.add_argument("--hypotheses", type=Path, nargs="+", required=True, help="of every set, step and decoder")
    parser.add_argument("--indexes", type=Path, nargs="+", required=True, help="the indexes of the sets' datasets")
    parser.add_argument("--breakdown", type=Path, required=True)
    args = parser.parse_args()
    step = read_json(args.selection)["step"]
    write_json(breakdown(args.run, step, args.hypotheses, args.indexes), args.breakdown)


if __name__ == "__main__":
    run_command(main)
