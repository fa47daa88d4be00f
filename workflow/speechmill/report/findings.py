"""What the breakdown of a run's errors says, in sentences and tables for its card."""

from collections.abc import Callable, Iterable
from typing import Any

from speechmill.scoring.error_rates import CONFIDENCE

Title = Callable[[str], str]
"""What a set, by its name, is called."""

_MOST = 8


def of_language_model(breakdown: dict[str, Any], title: Title) -> list[str]:
    """For each set, what decoding with the language model does to the WER of the selected checkpoint."""
    return [
        f"{title(row['first']['set'])}: {_effect(row)}"
        for row in _rows(breakdown, "decoders")
        if (row["first"]["decoder"], row["second"]["decoder"]) == ("greedy", "lm")
    ]


def _effect(row: dict[str, Any]) -> str:
    if row["difference"] is None:
        return "the references have no words to tell by."
    first, second = row["wer"]
    lower = row["difference"] < 0
    sure = row["interval"] is not None and (row["interval"][1] < 0 or row["interval"][0] > 0)
    told = f"WER from {100 * first:.2f} % to {100 * second:.2f} %"
    if lower and sure:
        said = f"the language model lowers {told}"
    elif lower:
        said = f"the language model brings {told}, which may be chance"
    elif row["difference"] > 0:
        said = f"the language model does not lower WER: it raises {told}" + ("" if sure else ", which may be chance")
    else:
        said = f"the language model does not lower WER, which stays at {100 * first:.2f} %"
    return f"{said} ({_difference(row)})."


def _difference(row: dict[str, Any]) -> str:
    told = f"difference {_points(row['difference'])} points"
    if row["interval"] is None:
        return f"{told}; {row['why']}, so that chance cannot be told"
    low, high = map(_points, row["interval"])
    p = "p ≤ 0.001" if row["p_value"] <= 0.001 else f"p = {row['p_value']:.3f}"
    return f"{told}, {CONFIDENCE} % interval {low} to {high}, {p}"


def _points(fraction: float) -> str:
    return f"{100 * fraction:+.2f}".replace("-", "−")


def of_other_checkpoints(breakdown: dict[str, Any], set_name: str, decoder: str) -> list[str]:
    """How the selected checkpoint compares with the one before it and with the last one, on a set by a decoder."""
    lines = []
    for row in _rows(breakdown, "checkpoints"):
        other, selected = row["first"], row["second"]
        if (other["set"], other["decoder"]) == (set_name, decoder) and row["difference"] is not None:
            which = "the one before" if other["step"] < selected["step"] else "the last one"
            told = f"WER {100 * row['wer'][0]:.2f} %, from there to the selected one: {_difference(row)}"
            lines.append(f"step {other['step']}, {which}: {told}")
    return lines


def robustness_rows(breakdown: dict[str, Any], title: Title) -> list[list[str]]:
    """The rows of a table, its heading first: each changed copy of a set against the set; none where there are none."""
    rows = [
        [
            title(row["first"]["set"]),
            row["second"]["set"].split("-")[2],
            row["second"]["decoder"],
            _percent(row["wer"][0]),
            _percent(row["wer"][1]),
            "–" if row["difference"] is None else _points(row["difference"]),
            "–" if row["interval"] is None else " to ".join(map(_points, row["interval"])),
        ]
        for row in _rows(breakdown, "effect")
    ]
    heading = [
        "Set",
        "Changed by",
        "Decoder",
        "WER % as published",
        "WER % changed",
        "Difference",
        f"{CONFIDENCE} % interval",
    ]
    return [heading, *rows] if rows else []


def _percent(fraction: float | None) -> str:
    return "–" if fraction is None else f"{100 * fraction:.2f}"


def failures(breakdown: dict[str, Any], decoder: str, title: Title) -> dict[str, list[str]]:
    """For each set, by its name for people, where the selected checkpoint fails most when it decodes by `decoder`."""
    found = {}
    for name, decoders in breakdown["sets"].items():
        if decoder in decoders and decoders[decoder]["clips"]:
            lines = _failures(decoders[decoder])
            if lines:
                found[title(name)] = lines
    return found


def _failures(of: dict[str, Any]) -> list[str]:
    groups = of["groups"]
    lines = [_worst(groups[kind], what) for kind, what in (("seconds", "length"), ("rate", "speaking rate"))]
    lines += [_worst(groups[kind], kind) for kind in ("gender", "age", "accent")]
    lines.append(_speakers(groups["speaker"]))
    words, characters = of["confusions"]["words"], of["confusions"]["characters"]
    for what, kind, rows in (
        ("words taken for others", "substitutions", words),
        ("words left out", "deletions", words),
        ("words too many", "insertions", words),
        ("characters taken for others", "substitutions", characters),
        ("characters left out", "deletions", characters),
        ("characters too many", "insertions", characters),
    ):
        if rows[kind]:
            lines.append(f"{what}, most often: {', '.join(_confusion(row) for row in rows[kind][:_MOST])}")
    return [line for line in lines if line]


def _worst(rows: Iterable[dict[str, Any]], what: str) -> str:
    known = [row for row in rows if row["value"] is not None and row["wer"] is not None]
    if len(known) < 2:
        return ""
    worst, best = max(known, key=lambda row: row["wer"]), min(known, key=lambda row: row["wer"])
    unit = {"length": " s", "speaking rate": " characters a second"}.get(what, "")
    return f"by {what}: worst is {_group(worst, unit)}; best is {_group(best, unit)}"


def _group(row: dict[str, Any], unit: str) -> str:
    if row["interval"] is None:
        interval = row["why"]
    else:
        low, high = row["interval"]
        interval = f"{100 * low:.2f} to {100 * high:.2f}"
    return f"`{row['value']}`{unit} with {_percent(row['wer'])} % ({interval}; {row['words']:,} words)"


def _speakers(rows: Iterable[dict[str, Any]]) -> str:
    known = sorted(row["wer"] for row in rows if row["value"] is not None and row["wer"] is not None)
    if len(known) < 2:
        return ""
    median = known[len(known) // 2]
    return (
        f"by speaker: from {_percent(known[0])} % to {_percent(known[-1])} % over {len(known):,} speakers, the median"
        f" {_percent(median)} %"
    )


def _confusion(row: dict[str, Any]) -> str:
    told = " → ".join(f"`{_visible(row[side])}`" for side in ("reference", "hypothesis") if side in row)
    return f"{told} {row['count']:,}" + (f" of {row['of']:,}" if "of" in row else "")


def _visible(text: str) -> str:
    return "␣" if text == " " else text


def _rows(breakdown: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [row for row in breakdown["comparisons"] if row["kind"] == kind]
