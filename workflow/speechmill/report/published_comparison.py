"""Comparison of a run's error rates with published ones."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import pandas as pd

from speechmill.config.published import Published
from speechmill.core.direction import isolate
from speechmill.scoring.error_rates import percent

_METRICS = ("wer", "cer")


class _PublishedRate(NamedTuple):
    """A published error rate in percent, or None for a metric that is not published."""

    set: str | None
    """The evaluation set of this configuration that corresponds to the dataset."""
    name: str
    metric: str
    value: float | None
    decoder: str
    protocol: str
    remark: str | None


def comparison_table(
    published: Sequence[Published], scores: pd.DataFrame, title: Callable[[str], str]
) -> list[list[str]]:
    """Return a table, heading first, that compares each published WER and CER with that of this run.

    The rate of this run is by the decoder and protocol of the published one. Where the set was not scored by that
    protocol, it is by the set's first protocol, with a remark. Rates of this run that are not published are listed too.

    Args:
        published: The published results, by model.
        scores: The rows of a summary at the selected step, one for each set and decoder.
        title: Returns the title of a set, given its name.

    Returns:
        Rows of model, set, metric, published rate and rate of this run in percent, their difference in percentage
        points, and remarks. A dash stands for a missing value.
    """
    rows = [["Published model", "Set", "Metric", "Published", "This run", "Difference", "Remarks"]]
    for each in published:
        for rate in _published_rates(each):
            value, remarks = _run_rate(rate, scores)
            remark = "not published" if rate.value is None else isolate(rate.remark or "")
            rows.append(
                [
                    isolate(each.name),
                    title(rate.set) if rate.set else isolate(rate.name),
                    f"{rate.metric.upper()} %" + (", with a language model" if rate.decoder == "lm" else ""),
                    _format_rate(rate.value),
                    _format_rate(value),
                    "–" if value is None or rate.value is None else _format_difference(value - rate.value),
                    "; ".join([remark, *remarks] if remark else remarks),
                ]
            )
    return rows


def _published_rates(published: Published) -> Iterator[_PublishedRate]:
    """Yield the published rates, and one without a value for each set and metric that is not published."""
    rates = list(_all_rates(published))
    reported = {(rate.set, rate.metric) for rate in rates if rate.value is not None}
    for rate in rates:
        if rate.value is None:
            if rate.set is None or (rate.set, rate.metric) in reported:
                continue
            reported.add((rate.set, rate.metric))
        yield rate


def _all_rates(published: Published) -> Iterator[_PublishedRate]:
    """Yield every published WER and CER, and one without a value for each metric that a part of the card lacks."""
    body = published.evaluation
    if body is not None:
        for metric, fraction in zip(_METRICS, (body.wer, body.cer), strict=True):
            value = None if fraction is None else percent(fraction)
            yield _PublishedRate(
                body.set, "evaluation set of the published model", metric, value, "greedy", "plain", body.remark
            )
    for result in published.results:
        for metric in _METRICS:
            values: list[tuple[float | None, str]] = [(m.value, m.decoder) for m in result.metrics if m.type == metric]
            for value, decoder in values or [(None, "greedy")]:
                yield _PublishedRate(result.set, result.name, metric, value, decoder, result.protocol, result.remark)
    for score in published.scores:
        for metric, value in zip(_METRICS, (score.wer, score.cer), strict=True):
            yield _PublishedRate(score.set, score.set, metric, value, score.decoder, score.protocol, score.remark)


def _run_rate(published: _PublishedRate, scores: pd.DataFrame) -> tuple[float | None, list[str]]:
    """Return the corresponding rate of this run in percent, or None, and remarks on it."""
    if published.set is None:
        return None, ["not scored here"]
    matching = scores[(scores["set"] == published.set) & (scores["decoder"] == published.decoder)]
    if matching.empty:
        return None, [f"not scored here with the decoder {published.decoder}"]
    row = matching.iloc[0]
    if not pd.isna(row["unavailable"]):
        return None, [f"not available here: {isolate(row['unavailable'])}"]
    remarks = []
    fraction = row[f"{published.metric}_{published.protocol}"]
    if pd.isna(fraction):
        fraction = row[published.metric]
        if row["protocol"] != published.protocol:
            remarks.append(f"scored here by the protocol {row['protocol']}, published by {published.protocol}")
    if row["clips_scored"] != row["clips_expected"]:
        remarks.append(f"{row['clips_scored']:,} of {row['clips_expected']:,} clips scored here")
    return None if pd.isna(fraction) else percent(fraction), remarks


def _format_rate(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _format_difference(difference: float) -> str:
    # Adding 0.0 turns a negative zero into a positive one.
    return f"{round(difference, 2) + 0.0:+.2f}".replace("-", "−")
