"""Comparison of a run's error rates with those that a published model card reports."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import pandas as pd

from speechmill.config.reference_card import ReferenceCard
from speechmill.core.direction import isolate
from speechmill.scoring.error_rates import percent

_METRICS = ("wer", "cer")


class _ReferenceRate(NamedTuple):
    """An error rate of the card in percent, or None for a metric that the card does not report."""

    set: str | None
    """The evaluation set of this configuration that corresponds to the card's dataset."""
    name: str
    metric: str
    value: float | None
    decoder: str
    protocol: str
    remark: str | None


def comparison_table(card: ReferenceCard, scores: pd.DataFrame, title: Callable[[str], str]) -> list[list[str]]:
    """Return a table, heading first, that compares each WER and CER of a published card with that of this run.

    The rate of this run is by the decoder and protocol of the published one. Where the set was not scored by that
    protocol, it is by the set's first protocol, with a remark. Rates of this run that the card does not report are
    listed too.

    Args:
        card: The published card.
        scores: The rows of a summary at the selected step, one for each set and decoder.
        title: Returns the title of a set, given its name.

    Returns:
        Rows of set, metric, published rate and rate of this run in percent, their difference in percentage points, and
        remarks. A dash stands for a missing value.
    """
    rows = [["Set", "Metric", "Published", "This run", "Difference", "Remarks"]]
    for reference in _reference_rates(card):
        value, remarks = _run_rate(reference, scores)
        remark = "not published" if reference.value is None else isolate(reference.remark or "")
        rows.append(
            [
                title(reference.set) if reference.set else isolate(reference.name),
                f"{reference.metric.upper()} %" + (", with a language model" if reference.decoder == "lm" else ""),
                _format_rate(reference.value),
                _format_rate(value),
                "–" if value is None or reference.value is None else _format_difference(value - reference.value),
                "; ".join([remark, *remarks] if remark else remarks),
            ]
        )
    return rows


def _reference_rates(card: ReferenceCard) -> Iterator[_ReferenceRate]:
    """Yield the rates of the card, and one without a value for each set and metric that the card does not report."""
    rates = list(_all_rates(card))
    reported = {(rate.set, rate.metric) for rate in rates if rate.value is not None}
    for rate in rates:
        if rate.value is None:
            if rate.set is None or (rate.set, rate.metric) in reported:
                continue
            reported.add((rate.set, rate.metric))
        yield rate


def _all_rates(card: ReferenceCard) -> Iterator[_ReferenceRate]:
    """Yield every WER and CER of the card, and one without a value for each metric that a part of it lacks."""
    body = card.evaluation
    if body is not None:
        for metric, fraction in zip(_METRICS, (body.wer, body.cer), strict=True):
            value = None if fraction is None else percent(fraction)
            yield _ReferenceRate(
                body.set, "evaluation set of the published model", metric, value, "greedy", "plain", body.remark
            )
    for result in card.results:
        for metric in _METRICS:
            values: list[tuple[float | None, str]] = [(m.value, m.decoder) for m in result.metrics if m.type == metric]
            for value, decoder in values or [(None, "greedy")]:
                yield _ReferenceRate(result.set, result.name, metric, value, decoder, result.protocol, result.remark)


def _run_rate(reference: _ReferenceRate, scores: pd.DataFrame) -> tuple[float | None, list[str]]:
    """Return the corresponding rate of this run in percent, or None, and remarks on it."""
    if reference.set is None:
        return None, ["not scored here"]
    matching = scores[(scores["set"] == reference.set) & (scores["decoder"] == reference.decoder)]
    if matching.empty:
        return None, [f"not scored here with the decoder {reference.decoder}"]
    row = matching.iloc[0]
    if not pd.isna(row["unavailable"]):
        return None, [f"not available here: {isolate(row['unavailable'])}"]
    remarks = []
    fraction = row[f"{reference.metric}_{reference.protocol}"]
    if pd.isna(fraction):
        fraction = row[reference.metric]
        if row["protocol"] != reference.protocol:
            remarks.append(f"scored here by the protocol {row['protocol']}, published by {reference.protocol}")
    if row["clips_scored"] != row["clips_expected"]:
        remarks.append(f"{row['clips_scored']:,} of {row['clips_expected']:,} clips scored here")
    return None if pd.isna(fraction) else percent(fraction), remarks


def _format_rate(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _format_difference(difference: float) -> str:
    # Adding 0.0 turns a negative zero into a positive one.
    return f"{round(difference, 2) + 0.0:+.2f}".replace("-", "−")
