"""The bullet lists of a model card, as lists of sentences in Markdown; strings that are not `Markdown` are escaped."""

from collections.abc import Callable, Iterable
from typing import Any

import pandas as pd

from speechmill.config.evaluation import ErrorRate
from speechmill.report.card_settings import CardSettings
from speechmill.report.card_tables import INTERVAL, percentage, points
from speechmill.report.markdown import Markdown, code_span, escape, join
from speechmill.scoring.reliability import Calibration

SetTitle = Callable[[str], str]
"""A function that returns the display name of a set."""

_MAX_CONFUSIONS = 8
_MAX_CHARACTERS = 20


def robust_speech_event_sets(settings: CardSettings, scores: pd.DataFrame) -> list[str]:
    """Return the sets whose first protocol is that of the Robust Speech Event."""
    names = scores.loc[scores["protocol"] == "robust_speech_event", "set"].unique()
    return [settings.set_title(str(name)) for name in names]


def unavailable_sets(settings: CardSettings, scores: pd.DataFrame) -> list[Markdown]:
    """Return the sets that could not be scored because they are not available, each with the reason."""
    rows = scores[scores["unavailable"].notna()].drop_duplicates("set")
    names = map(settings.set_title, rows["set"])
    return [join(": ", [name, why]) for name, why in zip(names, rows["unavailable"], strict=True)]


def outside_vocabulary(settings: CardSettings, scores: pd.DataFrame) -> list[Markdown]:
    """Return the sets whose references contain characters that the model cannot output, with these and their count."""
    rows = scores[scores["outside_vocabulary"] != ""].drop_duplicates("set")
    return [
        Markdown(
            f"{escape(settings.set_title(row['set']))}: {row['characters_outside']:,}"
            f" {'character' if row['characters_outside'] == 1 else 'characters'},"
            f" {join(' ', map(code_span, row['outside_vocabulary'].split(' ')))}"
        )
        for row in rows.to_dict("records")
    ]


def drawn_splits(settings: CardSettings) -> list[Markdown]:
    """Return how each split was drawn that the corpus itself does not define."""
    return [
        Markdown(f"{escape(dataset.title)} {name}: {rule.summary}, each chosen by its hash (seed {rule.seed})")
        for dataset in settings.datasets.values()
        for name, rule in dataset.drawn.items()
    ]


def aligned_datasets(settings: CardSettings, status: list[dict[str, Any]]) -> list[Markdown]:
    """Return by which model the clips of each dataset were cut from recordings, and the lowest score of a clip."""
    return [
        Markdown(
            f"{escape(settings.datasets[each['dataset']].title)}: by {escape(about['model'])}, from the recordings of"
            f" {code_span(about['of'])}; pieces with a score below {about['min_score']:g} are left out"
        )
        for each in status
        if (about := each["about"]).get("stage") == "segment"
    ]


def corpus_differences(settings: CardSettings, status: list[dict[str, Any]]) -> list[Markdown]:
    """Return how the corpora differ from what the configuration expects."""
    return [
        join(": ", [settings.datasets[each["dataset"]].title, sentence])
        for each in status
        for sentence in each["differences"]
    ]


def text_rules(counts: dict[str, Any]) -> list[Markdown]:
    """Return the text rules that changed training sentences, with the number of sentences or characters changed."""
    lines = [
        Markdown(f"{escape(rule)}: {changed:,} sentences changed")
        for rule, changed in counts["clips_touched"].items()
        if changed
    ]
    for what, characters in (
        ("Latin letters replaced by Cyrillic ones", counts["characters_replaced"]),
        ("characters deleted", counts["characters_dropped"]),
    ):
        if characters:
            most_frequent = list(characters.items())[:_MAX_CHARACTERS]
            shown = ", ".join(f"{code_span(character)} {number:,}" for character, number in most_frequent)
            lines.append(Markdown(f"{what}: {shown}"))
    return lines


def uncalibrated(calibration: Calibration | None) -> list[Markdown]:
    """Return the decoders whose confidence is not calibrated, each with the words on dev."""
    return [
        Markdown(f"{decoder}: {each.wrong:,} of {each.words:,} words are wrong")
        for decoder, each in (calibration.calibrators.items() if calibration else ())
        if not each.is_fitted
    ]


def language_model_effects(breakdown: dict[str, Any], title: SetTitle) -> list[Markdown]:
    """Return, for each set, how the language model changes the error rate of the selected checkpoint."""
    return [
        join(": ", [title(row["first"]["set"]), _language_model_effect(row, breakdown["metric"])])
        for row in _comparisons(breakdown, "decoders")
        if (row["first"]["decoder"], row["second"]["decoder"]) == ("greedy", "lm")
    ]


def published_sources(settings: CardSettings) -> list[Markdown]:
    """Return the source of each of the published results, and what differs from this run there."""
    lines = []
    for each in settings.published:
        title = escape(each.title) if each.model is None else Markdown(f"{escape(each.title)} ({escape(each.model)})")
        source = (
            Markdown(f"[{title}](<{each.address}>)") if each.address else Markdown(f"{title}, {escape(each.where)}")
        )
        lines.append(Markdown(f"{source}: {escape(each.differs)}") if each.differs else source)
    return lines


def _by_set_and_decoder(
    breakdown: dict[str, Any], kind: str, title: SetTitle, describe: Callable[[dict[str, Any], ErrorRate], Markdown]
) -> list[Markdown]:
    """Return a line for each comparison of a kind: its set and decoder, and what `describe` says about it."""
    return [
        join(
            ": ",
            [join(", ", [title(row["first"]["set"]), row["first"]["decoder"]]), describe(row, breakdown["metric"])],
        )
        for row in _comparisons(breakdown, kind)
    ]


def averaging_effects(breakdown: dict[str, Any], title: SetTitle) -> list[Markdown]:
    """Return, for each set and decoder, the error rates of the best single checkpoint and of the mean of several."""
    return _by_set_and_decoder(breakdown, "average", title, _averaging)


def _averaging(row: dict[str, Any], metric: ErrorRate) -> Markdown:
    if row["difference"] is None:
        return Markdown("not comparable, because the references contain no words.")
    without, averaged = (f"{percentage(rate)}%" for rate in row["rates"])
    reservation = _reservation(row["interval"]) if row["difference"] else ""
    return Markdown(f"{metric.upper()} {without} without, {averaged} with averaging{reservation} ({_difference(row)}).")


def _language_model_effect(row: dict[str, Any], metric: ErrorRate) -> Markdown:
    if row["difference"] is None:
        return Markdown("not comparable, because the references contain no words.")
    greedy, lm = map(percentage, row["rates"])
    if row["difference"] == 0:
        effect = f"the language model leaves {metric.upper()} unchanged at {greedy}%"
    else:
        verb = "lowers" if row["difference"] < 0 else "raises"
        effect = f"the language model {verb} {metric.upper()} from {greedy}% to {lm}%{_reservation(row['interval'])}"
    return Markdown(f"{effect} ({_difference(row)}).")


def _reservation(interval: list[float] | None) -> str:
    """Return a clause for a difference that is not known to be significant."""
    if interval is None:
        return ", with unknown significance"
    low, high = interval
    return "" if low > 0 or high < 0 else ", which is not statistically significant"


def _difference(row: dict[str, Any]) -> str:
    difference = f"difference {points(row['difference'])} points"
    if row["interval"] is None:
        return f"{difference}; no confidence interval: {row['why']}"
    low, high = map(points, row["interval"])
    p = "p < 0.001" if row["p_value"] < 0.001 else f"p = {row['p_value']:.3f}"
    return f"{difference}, {INTERVAL} {low} to {high}, {p}"


def not_compared(breakdown: dict[str, Any], title: SetTitle) -> list[Markdown]:
    """Return the sets on which another run and this one are not compared, with the run and the reason."""
    return [
        join(": ", [join(", ", [title(row["set"]), code_span(row["run"])]), row["why"]])
        for row in breakdown["not_compared"]
    ]


def other_checkpoints(breakdown: dict[str, Any], set_name: str, decoder: str) -> list[Markdown]:
    """Return how the selected checkpoint compares with the previous one and with the last one."""
    lines = []
    for row in _comparisons(breakdown, "checkpoints"):
        other, selected = row["first"], row["second"]
        if (other["set"], other["decoder"]) == (set_name, decoder) and row["difference"] is not None:
            which = "previous" if other["step"] < selected["step"] else "last"
            rate = f"{breakdown['metric'].upper()} {percentage(row['rates'][0])}%"
            lines.append(Markdown(f"step {other['step']} ({which} checkpoint): {rate}, {_difference(row)}"))
    return lines


def error_analysis(breakdown: dict[str, Any], decoder: str, title: SetTitle) -> dict[str, list[Markdown]]:
    """Return, by the display name of each set, the groups with the most errors and the most frequent confusions."""
    found = {}
    for name, decoders in breakdown["sets"].items():
        if decoder in decoders and decoders[decoder]["clips"]:
            lines = _error_analysis(decoders[decoder], breakdown["metric"])
            if lines:
                found[title(name)] = lines
    return found


def _error_analysis(scores: dict[str, Any], metric: ErrorRate) -> list[Markdown]:
    groups = scores["groups"]
    lines = [
        _extremes(groups["seconds"], metric, "clip length", " s"),
        _extremes(groups["rate"], metric, "speaking rate", " characters per second"),
        *(_extremes(groups[kind], metric, kind) for kind in ("gender", "age", "accent")),
        _speakers(groups["speaker"], metric),
    ]
    # Where characters decide, a word may be a sentence.
    for unit in ("word", "character") if metric == "wer" else ("character",):
        for kind in ("substitution", "deletion", "insertion"):
            rows = scores["confusions"][f"{unit}s"][f"{kind}s"][:_MAX_CONFUSIONS]
            if rows:
                lines.append(f"most frequent {unit} {kind}s: {', '.join(map(_confusion, rows))}")
    return [Markdown(line) for line in lines if line]


def _extremes(rows: Iterable[dict[str, Any]], metric: ErrorRate, what: str, unit: str = "") -> str:
    """Return the groups with the highest and the lowest error rate, or "" if fewer than two groups are known."""
    known = [row for row in rows if row["value"] is not None and row[metric] is not None]
    if len(known) < 2:
        return ""
    highest, lowest = max(known, key=lambda row: row[metric]), min(known, key=lambda row: row[metric])
    if percentage(highest[metric]) == percentage(lowest[metric]):
        return f"{metric.upper()} by {what}: {percentage(lowest[metric])}% in each of {len(known)} groups"
    groups = f"highest for {_group(highest, metric, unit)}; lowest for {_group(lowest, metric, unit)}"
    return f"{metric.upper()} by {what}: {groups}"


def _group(row: dict[str, Any], metric: ErrorRate, unit: str) -> str:
    interval = row["why"] if row["interval"] is None else " to ".join(map(percentage, row["interval"]))
    counted = "words" if metric == "wer" else "characters"
    figures = f"{percentage(row[metric])}% ({interval}; {row[counted]:,} {counted})"
    return f"{code_span(row['value'])}{unit}, {figures}"


def _speakers(rows: Iterable[dict[str, Any]], metric: ErrorRate) -> str:
    known = sorted(row[metric] for row in rows if row["value"] is not None and row[metric] is not None)
    if len(known) < 2:
        return ""
    lowest, median, highest = map(percentage, (known[0], known[len(known) // 2], known[-1]))
    if lowest == highest:
        return f"{metric.upper()} by speaker: {lowest}% for each of {len(known):,} speakers"
    return f"{metric.upper()} by speaker: from {lowest}% to {highest}% over {len(known):,} speakers, median {median}%"


def _confusion(row: dict[str, Any]) -> str:
    texts = (row[side] for side in ("reference", "hypothesis") if side in row)
    return f"{join(' → ', map(code_span, texts))} {row['count']:,}" + (f" of {row['of']:,}" if "of" in row else "")


def _comparisons(breakdown: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [row for row in breakdown["comparisons"] if row["kind"] == kind]
