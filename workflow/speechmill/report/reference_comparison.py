"""What a published card says of a model, beside what a run that makes it again has found."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import pandas as pd

from speechmill.config.reference_card import ReferenceCard
from speechmill.scoring.error_rates import percent

_METRICS = ("wer", "cer")


class _Figure(NamedTuple):
    set: str | None
    name: str
    metric: str
    value: float | None
    decoder: str
    protocol: str
    remark: str | None


def side_by_side(published: ReferenceCard, scores: pd.DataFrame, title: Callable[[str], str]) -> list[list[str]]:
    """The rows of a table, its heading first: each published WER and CER against ours, and what differs between them.

    Ours is by the decoder and the protocol of the published figure, or by the set's first protocol where it was not
    scored by that one, which a remark then says. What is scored here and was not published has a row as well.

    Args:
        published: What the card says.
        scores: The rows of a summary at the selected step, with a row for each set and decoder.
        title: What a set, by its name, is called.

    Returns:
        Rows of set, metric, published and ours in percent, ours less published in points, and remarks; a dash stands
        for what there is not.
    """
    rows = [["Set", "Metric", "Published", "Ours", "Difference", "Remarks"]]
    for figure in _figures(published):
        ours, remarks = _ours(figure, scores)
        # What is remarked is of the published figure, where there is one.
        said = "not published" if figure.value is None else figure.remark
        rows.append(
            [
                title(figure.set) if figure.set else figure.name,
                f"{figure.metric.upper()} %" + (", with a language model" if figure.decoder == "lm" else ""),
                _shown(figure.value),
                _shown(ours),
                "–" if ours is None or figure.value is None else _points(ours - figure.value),
                "; ".join([said, *remarks] if said else remarks),
            ]
        )
    return rows


def _figures(published: ReferenceCard) -> Iterator[_Figure]:
    told = list(_told(published))
    known = {(figure.set, figure.metric) for figure in told if figure.value is not None}
    for figure in told:
        if figure.value is None:
            if figure.set is None or (figure.set, figure.metric) in known:
                continue
            known.add((figure.set, figure.metric))
        yield figure


def _told(published: ReferenceCard) -> Iterator[_Figure]:
    """Every WER and CER of the card, and one without a value where a part of it has none."""
    body = published.evaluation
    if body is not None:
        for metric, fraction in zip(_METRICS, (body.wer, body.cer), strict=True):
            value = None if fraction is None else percent(fraction)
            yield _Figure(body.set, "its own evaluation set", metric, value, "greedy", "plain", body.remark)
    for result in published.results:
        for metric in _METRICS:
            found: list[tuple[float | None, str]] = [(m.value, m.decoder) for m in result.metrics if m.type == metric]
            for value, decoder in found or [(None, "greedy")]:
                yield _Figure(result.set, result.name, metric, value, decoder, result.protocol, result.remark)


def _ours(figure: _Figure, scores: pd.DataFrame) -> tuple[float | None, list[str]]:
    """Our figure in percent, None where there is none, and what is to be said of it."""
    if figure.set is None:
        return None, ["not scored here"]
    found = scores[(scores["set"] == figure.set) & (scores["decoder"] == figure.decoder)]
    if found.empty:
        return None, [f"not scored here by the decoder `{figure.decoder}`"]
    row = found.iloc[0]
    if not pd.isna(row["unavailable"]):
        return None, [f"not available here: {row['unavailable']}"]
    remarks = []
    fraction = row[f"{figure.metric}_{figure.protocol}"]
    if pd.isna(fraction):
        fraction = row[figure.metric]
        if row["protocol"] != figure.protocol:
            remarks.append(f"ours by the protocol `{row['protocol']}`, the published one by `{figure.protocol}`")
    if row["clips_scored"] != row["clips_expected"]:
        remarks.append(f"ours on {row['clips_scored']:,} of {row['clips_expected']:,} clips")
    return None if pd.isna(fraction) else percent(fraction), remarks


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _points(difference: float) -> str:
    # What is nought to two decimals has no sign of its own.
    return f"{round(difference, 2) + 0.0:+.2f}".replace("-", "−")
